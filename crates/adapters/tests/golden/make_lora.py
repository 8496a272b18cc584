"""LoRAs of peft 0.21.2 on a tiny UNet2DConditionModel of diffusers 0.42.1 (torch 2.13.0): outputs, gradients, merged weights,
and the files that diffusers writes."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

HERE = Path(__file__).parent
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]

torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8, in_channels=3, out_channels=3, block_out_channels=(4, 8), layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=6, attention_head_dim=2, norm_num_groups=2,
)
for p in unet.parameters():
    p.data += 0.05 * torch.randn_like(p)
unet.requires_grad_(False)
tensors = {f"weights.{n}": p.detach().clone() for n, p in unet.named_parameters()}
x, step, context = torch.randn(2, 3, 8, 8), torch.tensor([7, 900]), torch.randn(2, 5, 6)
tensors |= {"x": x, "step": step, "context": context}


def forward():
    return unet(x, step, context).sample


tensors["base"] = forward()
plain = dict(r=2, lora_alpha=3, target_modules=ATTENTION + ["conv1", "conv2", "proj_in", "downsamplers.0.conv"],
             rank_pattern={"attn2.to_k": 4}, alpha_pattern={"conv1": 5})
configs = {
    "one": LoraConfig(**plain),
    "two": LoraConfig(r=3, lora_alpha=2, target_modules=["to_q", "to_v"], use_rslora=True),
}
for name, config in configs.items():
    unet.add_adapter(config, adapter_name=name)
# B starts at 0, which would hide A.
for n, p in unet.named_parameters():
    if ".lora_" in n:
        p.data = 0.2 * torch.randn_like(p)
for name in configs:
    unet.set_adapters([name])
    assert not torch.equal(forward(), tensors["base"])
    out = forward()
    out.square().sum().backward()
    of = {n: p for n, p in unet.named_parameters() if f".{name}." in n}
    tensors |= {f"{name}.grad.{n.replace(f'.{name}.', '.')}": p.grad for n, p in of.items()}
    tensors[f"{name}.out"] = out.detach()
unet.set_adapters(["one", "two"], weights=[0.6, -0.8])
tensors["both.out"] = forward().detach()

# The files: with diffusers' metadata, without, and in kohya's names.
for name in configs:
    layers = get_peft_model_state_dict(unet, adapter_name=name)
    StableDiffusionPipeline.save_lora_weights(
        HERE, unet_lora_layers=layers, weight_name=f"{name}_diffusers.safetensors",
        unet_lora_adapter_metadata=unet.peft_config[name].to_dict(),
    )
bare = {f"unet.{n}": t for n, t in get_peft_model_state_dict(unet, adapter_name="two").items()}
StableDiffusionPipeline.save_lora_weights(
    HERE, unet_lora_layers=get_peft_model_state_dict(unet, adapter_name="two"), weight_name="two_bare.safetensors")
kohya = convert_state_dict_to_kohya(bare)
alphas = {n: torch.tensor(1.5) if "to_v" in n else torch.tensor(6.0) for n in kohya if n.endswith(".alpha")}
save_file(kohya | alphas, HERE / "two_kohya.safetensors")

unet.set_adapters(["one"])
unet.fuse_lora(adapter_names=["one"])
tensors["one.fused"] = forward().detach()
save_file({n: t.contiguous() for n, t in tensors.items()}, HERE / "lora.safetensors")
