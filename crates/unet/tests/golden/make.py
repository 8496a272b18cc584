"""Weights, input, output and gradients of tiny UNet2DModels of diffusers 0.42.1 (torch 2.13.0)."""

from pathlib import Path

import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

tensors = {}
for name, attention, layers in [("attention", True, 2), ("plain", False, 1)]:
    torch.manual_seed(0)
    middle = "AttnDownBlock2D" if attention else "DownBlock2D"
    model = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=(4, 8, 12), layers_per_block=layers,
        down_block_types=("DownBlock2D", middle, "DownBlock2D"),
        up_block_types=("UpBlock2D", middle.replace("Down", "Up"), "UpBlock2D"),
        attention_head_dim=4, norm_num_groups=2, add_attention=attention,
    )
    # Norms start at 1 and 0, which would hide a swap: give every parameter a value of its own.
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    x, step = torch.randn(2, 3, 16, 16), torch.tensor([7, 900])
    out = model(x, step).sample
    out.square().sum().backward()
    tensors |= {f"{name}.weights.{n}": p.detach().clone() for n, p in model.named_parameters()}
    tensors |= {f"{name}.grad.{n}": p.grad for n, p in model.named_parameters()}
    tensors |= {f"{name}.x": x, f"{name}.step": step, f"{name}.out": out.detach()}
save_file(tensors, Path(__file__).parent / "unet2d.safetensors")
