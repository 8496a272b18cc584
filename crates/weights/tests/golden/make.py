"""Tiny models of diffusers 0.42.1 (torch 2.13.0) under its names and under the original ones of DiT and ADM, and the
shapes of diffusers' UNet2DModel in the size of the published ADM of 64 pixels. The way back to the original names is
written here from the structure of the model, and the crate goes the other way."""

import json
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from safetensors.torch import save_file

HERE = Path(__file__).parent
tensors, configs = {}, {}


def values_of_its_own(model):
    torch.manual_seed(0)
    for p in model.parameters():
        p.data = torch.randn_like(p).half().float()
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def add(case, model, original):
    theirs = values_of_its_own(model)
    tensors.update({f"{case}.diffusers.{k}": v for k, v in theirs.items()})
    tensors.update({f"{case}.original.{k}": v.clone() for k, v in original(model, theirs).items()})
    configs[case] = {k: v for k, v in model.config.items() if k != "_use_default_values"}


def original_dit(model, theirs):
    # The original has its embedders once.
    for k in list(theirs):
        if ".norm1.emb." in k:
            theirs[k] = theirs["transformer_blocks.0." + k.split(".", 2)[2]]
            tensors[f"dit.diffusers.{k}"] = theirs[k].clone()
    out = {"pos_embed": model.pos_embed.pos_embed.reshape(1, -1, model.inner_dim)}
    renamed = {
        "pos_embed.proj": "x_embedder.proj",
        "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "transformer_blocks.0.norm1.emb.class_embedder.embedding_table": "y_embedder.embedding_table",
        "proj_out_1": "final_layer.adaLN_modulation.1",
        "proj_out_2": "final_layer.linear",
    }
    for n in range(len(model.transformer_blocks)):
        t, b = f"transformer_blocks.{n}", f"blocks.{n}"
        renamed |= {
            f"{t}.norm1.linear": f"{b}.adaLN_modulation.1", f"{t}.attn1.to_out.0": f"{b}.attn.proj",
            f"{t}.ff.net.0.proj": f"{b}.mlp.fc1", f"{t}.ff.net.2": f"{b}.mlp.fc2",
        }
        for p in ["weight", "bias"]:
            out[f"{b}.attn.qkv.{p}"] = torch.cat([theirs[f"{t}.attn1.to_{x}.{p}"] for x in "qkv"])
    for theirs_name, original in renamed.items():
        out |= {f"{original}.{p}": theirs[f"{theirs_name}.{p}"] for p in ["weight", "bias"] if f"{theirs_name}.{p}" in theirs}
    return out


def original_adm(interleaved):
    def convert(model, theirs):
        out = {}

        def layer(original, name):
            out.update({f"{original}.{p}": theirs[f"{name}.{p}"] for p in ["weight", "bias"] if f"{name}.{p}" in theirs})

        def resnet(original, name):
            for a, b in [("in_layers.0", "norm1"), ("in_layers.2", "conv1"), ("emb_layers.1", "time_emb_proj"),
                         ("out_layers.0", "norm2"), ("out_layers.3", "conv2"), ("skip_connection", "conv_shortcut")]:
                layer(f"{original}.{a}", f"{name}.{b}")

        def attention(original, name, module):
            layer(f"{original}.norm", f"{name}.group_norm")
            for p in ["weight", "bias"]:
                rows = torch.stack([theirs[f"{name}.to_{x}.{p}"] for x in "qkv"])  # [3, C, ..]
                rows = rows.unflatten(1, (module.heads, -1))  # [3, heads, dim, ..]
                rows = rows.transpose(0, 1) if interleaved else rows
                out[f"{original}.qkv.{p}"] = rows.flatten(0, 2)
            out[f"{original}.qkv.weight"] = out[f"{original}.qkv.weight"][..., None]
            layer(f"{original}.proj_out", f"{name}.to_out.0")
            out[f"{original}.proj_out.weight"] = out[f"{original}.proj_out.weight"][..., None]

        def walk(side, blocks, name, resampler, conv, n):
            for i, block in enumerate(blocks):
                attentions, resamplers = getattr(block, "attentions", None) or [], getattr(block, resampler) or []
                for j in range(len(block.resnets)):
                    resnet(f"{side}.{n}.0", f"{name}.{i}.resnets.{j}")
                    if len(attentions):
                        attention(f"{side}.{n}.1", f"{name}.{i}.attentions.{j}", attentions[j])
                    n += 1
                if len(resamplers):
                    # A smaller image is an input block of its own; a larger one ends the last output block.
                    at = f"{side}.{n}.0" if side == "input_blocks" else f"{side}.{n - 1}.{2 if len(attentions) else 1}"
                    n += side == "input_blocks"
                    layer(f"{at}.{conv}", f"{name}.{i}.{resampler}.0.conv")
                    if model.config.downsample_type == "resnet":
                        resnet(at, f"{name}.{i}.{resampler}.0")

        layer("time_embed.0", "time_embedding.linear_1")
        layer("time_embed.2", "time_embedding.linear_2")
        layer("label_emb", "class_embedding")
        layer("input_blocks.0.0", "conv_in")
        walk("input_blocks", model.down_blocks, "down_blocks", "downsamplers", "op", 1)
        walk("output_blocks", model.up_blocks, "up_blocks", "upsamplers", "conv", 0)
        resnet("middle_block.0", "mid_block.resnets.0")
        attention("middle_block.1", "mid_block.attentions.0", model.mid_block.attentions[0])
        resnet("middle_block.2", "mid_block.resnets.1")
        layer("out.0", "conv_norm_out")
        layer("out.2", "conv_out")
        return out

    return convert


def unet(widths, attends, layers, by_resnet, head, groups, **more):
    kind = lambda way: [
        f"Attn{way}Block2D" if a else f"Resnet{way}sampleBlock2D" if by_resnet else f"{way}Block2D" for a in attends
    ]
    return UNet2DModel(
        block_out_channels=widths, layers_per_block=layers, attention_head_dim=head, down_block_types=kind("Down"),
        up_block_types=kind("Up")[::-1], norm_num_groups=groups, attn_norm_num_groups=groups,
        downsample_type="resnet" if by_resnet else "conv", upsample_type="resnet" if by_resnet else "conv",
        resnet_time_scale_shift="scale_shift" if by_resnet else "default", **more,
    )


add("dit", DiTTransformer2DModel(
    num_attention_heads=2, attention_head_dim=6, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
    num_embeds_ada_norm=5, norm_eps=1e-6,
), original_dit)
add("adm_resnet", unet([4, 8, 12], [False, True, True], 2, True, 4, 4, num_class_embeds=5, sample_size=16, out_channels=6),
    original_adm(True))
add("adm_conv", unet([4, 8], [True, False], 1, False, 2, 2, in_channels=1, out_channels=1), original_adm(False))
save_file({k: v.half() for k, v in tensors.items()}, HERE / "layouts.safetensors")

with torch.device("meta"):
    model = unet([192, 384, 576, 768], [False, True, True, True], 3, True, 64, 32, num_class_embeds=1000, sample_size=64,
                 out_channels=6)
configs["adm64"] = {k: v for k, v in model.config.items() if k != "_use_default_values"}
shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
text = json.dumps({"configs": configs, "adm64": shapes}, sort_keys=True, separators=(",", ":"))
(HERE / "layouts.json").write_text(text.replace("],", "],\n").replace("},", "},\n") + "\n")
