"""Weights, input, residuals, output and gradients of tiny ControlNetModels, a MultiControlNetModel and T2IAdapters beside
UNet2DConditionModels of diffusers 0.42.1 (torch 2.13.0)."""

from pathlib import Path

import torch
from diffusers import ControlNetModel, MultiControlNetModel, T2IAdapter, UNet2DConditionModel
from safetensors.torch import save_file

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
tensors = {}


def perturbed(model):
    # Norms start at 1 and 0, and zero convolutions at 0, which would hide a swap: give every parameter a value of its own.
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return model


def sizes(blocks):
    return dict(
        in_channels=2, block_out_channels=(4, 4) if len(blocks) == 2 else (2, 4, 4), layers_per_block=1, down_block_types=blocks,
        cross_attention_dim=6, attention_head_dim=2, norm_num_groups=2,
    )


def unet(blocks):
    up = tuple(b.replace("Down", "Up") for b in reversed(blocks))
    return perturbed(UNet2DConditionModel(sample_size=8, out_channels=2, up_block_types=up, **sizes(blocks)))


def save(name, file, model, grads=True):
    file |= {f"{name}.weights.{n}": p.detach().clone() for n, p in model.named_parameters()}
    if grads:
        file |= {f"{name}.grad.{n}": p.grad.clone() for n, p in model.named_parameters()}


def residuals(name, down, mid):
    for i, r in enumerate([*down, mid]):
        tensors[f"{name}.residual.{i}"] = r.detach().clone()


torch.manual_seed(0)
base = unet((CROSS, PLAIN))
x, step, context = torch.randn(2, 2, 8, 8), torch.tensor([7, 900]), torch.randn(2, 3, 6)
hint, other_hint = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
tensors |= {"x": x, "step": step, "context": context, "hint": torch.cat([hint, other_hint], 1)}
save("base", tensors, base, grads=False)

# One net, a copy of the base that has moved.
one = perturbed(ControlNetModel.from_unet(base, conditioning_embedding_out_channels=(4, 6)))
down, mid = one(x, step, context, hint, conditioning_scale=0.7, return_dict=False)
residuals("one", down, mid)
out = base(x, step, context, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
out.square().sum().backward()
# Of the base, what comes after the first residual and what comes before.
tensors |= {"one.out": out.detach()} | {
    f"base.grad.{n}": p.grad.clone() for n, p in base.named_parameters() if n.startswith(("conv_in", "up_blocks.1"))
}
save("one", tensors, one)

# Guess mode.
with torch.no_grad():
    down, mid = one(x, step, context, hint, guess_mode=True, return_dict=False)
    residuals("guess", down, mid)
    tensors["guess.out"] = base(
        x, step, context, down_block_additional_residuals=down, mid_block_additional_residual=mid
    ).sample

# Two nets: the second pools, sees blue first and gives its heads apart.
two = perturbed(ControlNetModel(
    **sizes((CROSS, PLAIN)), conditioning_embedding_out_channels=(4, 6), num_attention_heads=4,
    global_pool_conditions=True, controlnet_conditioning_channel_order="bgr",
))
down, mid = MultiControlNetModel([one, two])(
    x, step, context, [hint, other_hint], [0.7, 1.3], guess_mode=True, return_dict=False
)
residuals("several", down, mid)
out = base(x, step, context, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
out.square().sum().backward()
tensors["several.out"] = out.detach()
save("two", tensors, two)

# A net in the manner of Stable Diffusion XL: sizes and a vector of the text, linear projections, a middle without attention.
xl = perturbed(ControlNetModel(
    **sizes((PLAIN, CROSS)) | dict(block_out_channels=(2, 4)), conditioning_embedding_out_channels=(4,),
    addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=29,
    use_linear_projection=True, transformer_layers_per_block=(1, 2),
    num_class_embeds=3, mid_block_type="UNetMidBlock2D",
))
added = {"text_embeds": torch.randn(2, 5), "time_ids": torch.rand(2, 6) * 9}
small = torch.rand(2, 3, 8, 8)
down, mid = xl(
    x, step, context, small, class_labels=torch.tensor([2, 0]), added_cond_kwargs=added, return_dict=False
)
sum(r.square().sum() for r in [*down, mid]).backward()
residuals("xl", down, mid)
tensors |= {f"xl.{n}": t for n, t in added.items()} | {"xl.hint": small}
save("xl", tensors, xl)
save_file(tensors, Path(__file__).parent / "control_net.safetensors")

# T2I-Adapters. The third goes with a UNet whose first level has no context, and reaches the middle.
other = unet((PLAIN, CROSS, CROSS))
tensors = {}
save("other", tensors, other, grads=False)
for kind, channels, of, image in [
    ("full_adapter", [4, 4], base, hint), ("light_adapter", [4], base, hint),
    ("full_adapter_xl", [2, 4, 4, 4], other, small),
]:
    adapter = perturbed(T2IAdapter(
        in_channels=3, channels=channels, num_res_blocks=1, downscale_factor=2, adapter_type=kind
    ))
    features = adapter(image)
    image_x = x.clone().requires_grad_()
    out = of(image_x, step, context, down_intrablock_additional_residuals=list(features)).sample
    out.square().sum().backward()
    tensors |= {f"{kind}.out": out.detach(), f"{kind}.grad_x": image_x.grad}
    tensors |= {f"{kind}.feature.{i}": f.detach().clone() for i, f in enumerate(features)}
    save(kind, tensors, adapter)
save_file(tensors, Path(__file__).parent / "t2i_adapter.safetensors")
