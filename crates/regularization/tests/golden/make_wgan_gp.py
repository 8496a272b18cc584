"""Five critic steps of WGAN-GP (Gulrajani et al. 2017, Algorithm 1) by torch 2.13.0, in float64."""

from pathlib import Path

import torch
from safetensors.torch import save_file

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
conv = torch.nn.Conv2d(1, 4, 3, padding=1)
linear = torch.nn.Linear(4 * 6 * 6, 1)
weights = [conv.weight, conv.bias, linear.weight, linear.bias]
names = ["conv.weight", "conv.bias", "linear.weight", "linear.bias"]
real, fake = torch.randn(5, 8, 1, 6, 6), torch.randn(5, 8, 1, 6, 6) * 0.5
mix = torch.rand(5, 8)
tensors = dict(real=real, fake=fake, mix=mix) | {f"start/{n}": w.detach().clone() for n, w in zip(names, weights)}


def critic(x):
    return linear(torch.nn.functional.silu(conv(x)).flatten(1)).squeeze(1)


optimizer = torch.optim.Adam(weights, lr=1e-4, betas=(0.5, 0.9))
losses = []
for step in range(5):
    a = mix[step].view(-1, 1, 1, 1)
    between = (real[step] + a * (fake[step] - real[step])).requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
    loss = critic(fake[step]).mean() - critic(real[step]).mean() + 10 * penalty
    optimizer.zero_grad()
    loss.backward()
    if step == 0:
        tensors |= {f"grad/{n}": w.grad.clone() for n, w in zip(names, weights)}
    optimizer.step()
    losses.append(loss.detach())
tensors["loss"] = torch.stack(losses)
tensors |= {f"end/{n}": w.detach().clone() for n, w in zip(names, weights)}
save_file(tensors, Path(__file__).parent / "wgan_gp.safetensors")
