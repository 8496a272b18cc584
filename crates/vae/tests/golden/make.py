"""Weights, outputs and gradients of tiny autoencoders of diffusers 0.42.1 (torch 2.13.0).

The peer computes in f64. The seeds are ones at which its own f32 gradients agree with that within 6e-6: the norms of such
narrow networks see few numbers, and at other seeds rounding alone makes 1e-4.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, VQModel
from safetensors.torch import save_file

HERE = Path(__file__).parent


def coders(widths, attn=False):
    n = len(widths)
    down, up = ["DownEncoderBlock2D"] * n, ["UpDecoderBlock2D"] * n
    if attn:
        down[-1], up[0] = "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"
    return dict(block_out_channels=widths, down_block_types=down, up_block_types=up)


def spread(model, scale=0.05):
    # Norms start at 1 and 0, which would hide a swap: give every parameter a value of its own.
    for p in model.parameters():
        p.data += scale * torch.randn_like(p)


def save(tensors, name):
    kept = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    save_file({k: v.detach().contiguous() for k, v in kept.items()}, HERE / f"{name}.safetensors")


def draw(*size):
    return torch.randn(*size).double()


def parameters(name, model):
    # Value and gradient as one tensor, since names take more room than these numbers.
    return {f"{name}.parameters.{n}": torch.stack([p, p.grad]) for n, p in model.named_parameters()}


kl = {}
for name, size, options in [
    ("f4", (16, 8), dict(**coders((4, 4, 8)), layers_per_block=1, latent_channels=3, norm_num_groups=2)),
    ("f8", (32, 16), dict(**coders((4, 4, 4, 4)), layers_per_block=1, latent_channels=2, norm_num_groups=1,
                          mid_block_add_attention=False, use_quant_conv=False, act_fn="gelu")),
    ("f16", (32, 16), dict(**coders((2, 2, 2, 2, 4), attn=True), layers_per_block=1, latent_channels=4,
                           norm_num_groups=1, use_post_quant_conv=False, in_channels=1, out_channels=1)),
]:
    torch.manual_seed(2 if name == "f8" else 0)
    model = AutoencoderKL(**options, sample_size=16)
    spread(model)
    model.double()
    x = draw(2, model.config.in_channels, *size)
    posterior = model.encode(x).latent_dist
    noise = draw(*posterior.mean.shape)
    out = model.decode(posterior.mean + posterior.std * noise).sample
    (out.square().sum() + posterior.kl().sum()).backward()
    kl |= parameters(name, model)
    kl |= {f"{name}.x": x, f"{name}.moments": posterior.parameters, f"{name}.kl": posterior.kl()}
    kl |= {f"{name}.noise": noise, f"{name}.out": out}
    if name == "f4":
        model.enable_tiling()
        with torch.no_grad():
            large = draw(1, 3, 44, 24)
            moments = model.encode(large).latent_dist.parameters
            latents = draw(1, 3, 11, 6)
            kl |= {"tiled.x": large, "tiled.moments": moments, "tiled.z": latents}
            kl |= {"tiled.out": model.decode(latents).sample}
save(kl, "kl")

vq = {}
for name, options in [
    ("f2", dict(**coders((2, 4)), layers_per_block=2, latent_channels=3, norm_num_groups=2, num_vq_embeddings=16)),
    ("f4", dict(**coders((2, 2, 4), attn=True), layers_per_block=1, latent_channels=4, norm_num_groups=1,
                num_vq_embeddings=32, vq_embed_dim=2, mid_block_add_attention=False)),
]:
    torch.manual_seed(1)
    model = VQModel(**options)
    spread(model)
    model.quantize.embedding.weight.data.normal_(0, 0.3)
    model.double()
    x = draw(2, 3, 16, 8)
    z = model.encode(x).latents
    codes = model.quantize(z)[2][2]
    decoded = model.decode(z)
    (decoded.sample.square().sum() + decoded.commit_loss).backward()
    vq |= parameters(name, model)
    vq |= {f"{name}.x": x, f"{name}.z": z, f"{name}.codes": codes.view(2, *z.shape[2:])}
    vq |= {f"{name}.out": decoded.sample, f"{name}.commitment": decoded.commit_loss}
save(vq, "vq")

tiny = {}
for name, options in [
    ("relu", dict(encoder_block_out_channels=(4, 4, 4), decoder_block_out_channels=(4, 4, 4),
                  num_encoder_blocks=(1, 1, 2), num_decoder_blocks=(2, 1, 1))),
    ("silu", dict(encoder_block_out_channels=(4, 4), decoder_block_out_channels=(2, 2), num_encoder_blocks=(1, 1),
                  num_decoder_blocks=(1, 1), act_fn="silu", latent_channels=2)),
]:
    torch.manual_seed(2)
    model = AutoencoderTiny(**options)
    spread(model)
    model.double()
    x = draw(2, 3, 16, 8)
    z = model.encode(x).latents
    out = model.decode(z).sample
    out.square().sum().backward()
    tiny |= parameters(name, model)
    tiny |= {f"{name}.x": x, f"{name}.z": z, f"{name}.out": out}
    tiny |= {f"{name}.unit": model.scale_latents(z)}
save(tiny, "tiny")
