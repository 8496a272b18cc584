"""Tiny models of transformers 5.24.0 (torch 2.13.0): Dinov2Model with either feed-forward and Dinov2WithRegistersModel, as
save_pretrained writes them, and the same weights under the names of the original. Features at the size of the positions
and at another one; for the original's names, whose positions are scaled by (side + 0.1) / old side, from a model that was
given the positions of the other size by torch's interpolate."""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

HERE = Path(__file__).parent
SIZES = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7)
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
torch.manual_seed(0)
images = {28: torch.rand(2, 3, 28, 28), 35: torch.rand(2, 3, 35, 35)}
tensors, configs = {f"images.{side}": x for side, x in images.items()}, {}


def features(model, side):
    with torch.no_grad():
        return model((images[side] - MEAN) / STD).pooler_output


def original(theirs):
    """The original's names of weights in the layout of files."""
    out = {}
    for name, value in theirs.items():
        for a, b in [
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.mask_token", "mask_token"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.register_tokens", "register_tokens"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("encoder.layer.", "blocks."),
            ("attention.output.dense", "attn.proj"),
            ("layer_scale1.lambda1", "ls1.gamma"),
            ("layer_scale2.lambda1", "ls2.gamma"),
            ("mlp.weights_in", "mlp.w12"),
            ("mlp.weights_out", "mlp.w3"),
            ("layernorm.", "norm."),
        ]:
            name = name.replace(a, b)
        out[name] = value
    for block in {n.split(".attention.")[0] for n in out if ".attention." in n}:
        for part in ("weight", "bias"):
            parts = [out.pop(f"{block}.attention.attention.{n}.{part}") for n in ("query", "key", "value")]
            out[f"{block}.attn.qkv.{part}"] = torch.cat(parts)
    return out


def add(case, model):
    for p in model.parameters():
        p.data = torch.randn_like(p) * (1.0 if p.dim() == 1 else 0.5)
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = load_file(f"{folder}/model.safetensors")
        configs[case] = json.loads(Path(folder, "config.json").read_text())
    tensors.update({f"{case}.transformers.{k}": v for k, v in theirs.items()})
    tensors.update({f"{case}.original.{k}": v.clone() for k, v in original(theirs).items()})
    for side in images:
        tensors[f"{case}.features.transformers.{side}"] = features(model, side)
    tensors[f"{case}.features.original.28"] = tensors[f"{case}.features.transformers.28"].clone()
    if "registers" in case:  # its positions are scaled by the size in the original as well
        tensors[f"{case}.features.original.35"] = tensors[f"{case}.features.transformers.35"].clone()
        return
    positions = model.embeddings.position_embeddings
    square = positions[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    moved = torch.nn.functional.interpolate(square, scale_factor=((5 + 0.1) / 4,) * 2, mode="bicubic")
    moved = moved.permute(0, 2, 3, 1).reshape(1, 25, -1)
    model.embeddings.position_embeddings = torch.nn.Parameter(torch.cat((positions[:, :1], moved), 1))
    tensors[f"{case}.features.original.35"] = features(model, 35)


add("plain", Dinov2Model(Dinov2Config(**SIZES)))
add("gated", Dinov2Model(Dinov2Config(**SIZES, use_swiglu_ffn=True)))
add("registers", Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, num_register_tokens=2)))
save_file({k: v.detach().contiguous() for k, v in tensors.items()}, HERE / "dinov2.safetensors")
(HERE / "dinov2.json").write_text(json.dumps(configs, indent=1) + "\n")
