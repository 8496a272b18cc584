"""What k-diffusion 0.1.1.post1 (torch 2.13.0, f64) makes of the denoiser `0.9 tanh(x / sqrt(1 + sigma^2))` on the grid of
Karras et al. from sigma 20 to 0.02 and 0: the samplers that diffusers lacks or changes."""

from pathlib import Path

import torch
from k_diffusion import sampling
from safetensors.torch import save_file

tape = []
randn_like = torch.randn_like


def recorded(x):
    tape.append(randn_like(x))
    return tape[-1]


torch.randn_like = recorded


def denoise(x, sigma, **_):
    return 0.9 * torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1) ** 2) ** 0.5)


churn = dict(s_churn=8.0, s_tmin=0.05, s_tmax=10.0, s_noise=1.003)
runs = {
    "euler_churn": (sampling.sample_euler, churn),
    "heun_churn": (sampling.sample_heun, churn),
    "dpm_solver_2s": (sampling.sample_dpmpp_2s_ancestral, dict(eta=0.0)),
    "lms": (sampling.sample_lms, {}),
}
torch.manual_seed(0)
sigmas = sampling.get_sigmas_karras(12, 0.02, 20.0, device="cpu").double()
tensors = {"sigmas": sigmas}
for name, (sample, options) in runs.items():
    tape.clear()
    x = randn_like(torch.zeros(2, 1, 2, 2, dtype=torch.float64)) * 20
    tensors[f"{name}.start"] = x
    states = []
    end = sample(denoise, x, sigmas, disable=True, callback=lambda d: states.append(d["x"].clone()), **options)
    tensors[f"{name}.end"] = end
    draws = iter(tape)
    churned = [name.endswith("churn") and 0.05 <= float(s) <= 10.0 for s in sigmas[:-1]]
    if any(churned):
        # k-diffusion draws on every step and uses the draw on churned ones.
        drawn = [next(draws) for _ in churned] if len(tape) == len(churned) else None
        if drawn is None:
            drawn = [next(draws) if c else torch.zeros_like(x) for c in churned]
        tensors[f"{name}.noise"] = torch.stack(drawn)
save_file(tensors, Path(__file__).parent / "k_diffusion.safetensors")
