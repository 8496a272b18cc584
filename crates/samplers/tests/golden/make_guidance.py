"""diffusers 0.42.1's rescaled classifier-free guidance of noise estimates, and the variational bound of a network
`noise_hat = 0.7 tanh(x_t)` on 20 linear betas, written out from Ho et al. 2020, Eq. 5 to 7 and 13, in f64 (torch 2.13.0)."""

import math
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from safetensors.torch import save_file

torch.manual_seed(0)
f64 = dict(dtype=torch.float64)
tensors = {}
conditional, null = torch.randn(3, 2, 4, 4, **f64), torch.randn(3, 2, 4, 4, **f64)
guided = null + 5.0 * (conditional - null)
tensors["conditional"], tensors["null"] = conditional, null
tensors["rescaled"] = rescale_noise_cfg(guided, conditional, guidance_rescale=0.7)

steps = 20
betas = torch.linspace(1e-3, 0.3, steps, **f64)
bar = torch.cat([torch.ones(1, **f64), torch.cumprod(1 - betas, 0)])  # bar[t], t = 0 .. steps
x = torch.randint(0, 256, (3, 1, 4, 4)).double() / 127.5 - 1
noise = torch.randn(steps, 3, 1, 4, 4, **f64)


def bits(nats):
    return nats.flatten(1).mean(1) / math.log(2)


terms = []
for t in range(1, steps + 1):
    x_t = bar[t].sqrt() * x + (1 - bar[t]).sqrt() * noise[t - 1]
    x_hat = (x_t - (1 - bar[t]).sqrt() * 0.7 * torch.tanh(x_t)) / bar[t].sqrt()
    beta = betas[t - 1]

    def mean(x_start):  # Eq. 7
        return (bar[t - 1].sqrt() * beta * x_start + (1 - beta).sqrt() * (1 - bar[t - 1]) * x_t) / (1 - bar[t])

    if t == 1:  # Eq. 13, with the variance of the forward step
        normal = torch.distributions.Normal(mean(x_hat), beta.sqrt())
        above = torch.where(x > 0.999, torch.ones_like(x), normal.cdf(x + 1 / 255))
        below = torch.where(x < -0.999, torch.zeros_like(x), normal.cdf(x - 1 / 255))
        terms.append(bits(-torch.log((above - below).clamp_min(1e-12))))
    else:  # the KL of two Gaussians of one variance
        variance = (1 - bar[t - 1]) / (1 - bar[t]) * beta
        terms.append(bits((mean(x) - mean(x_hat)) ** 2 / (2 * variance)))
tensors["bound.x"], tensors["bound.noise"], tensors["bound.betas"] = x, noise, betas
tensors["bound.terms"] = torch.stack(terms)
tensors["bound.prior"] = bits(0.5 * (bar[-1] * x**2 - bar[-1] - torch.log(1 - bar[-1])))
save_file(tensors, Path(__file__).parent / "guidance.safetensors")
