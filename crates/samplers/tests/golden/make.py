"""Whole trajectories of diffusers 0.42.1's DDIMScheduler and DDPMScheduler (torch 2.13.0, f64 states) for the
network `noise_hat = 0.7 tanh(x_t)`, with every draw of noise written down."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm
from safetensors.torch import save_file

tape = []


def recorded_randn(shape, generator=None, device=None, dtype=None, layout=None):
    tape.append(torch.randn(shape, dtype=torch.float64))
    return tape[-1]


scheduling_ddim.randn_tensor = scheduling_ddpm.randn_tensor = recorded_randn
common = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear",
              clip_sample=False, timestep_spacing="trailing")
runs = {
    "ddim": (DDIMScheduler(**common, set_alpha_to_one=True), 10, dict(eta=0.0)),
    "ddim_eta": (DDIMScheduler(**common, set_alpha_to_one=True), 10, dict(eta=0.5)),
    "ddpm_fixed_small": (DDPMScheduler(**common, variance_type="fixed_small"), 50, {}),
    "ddpm_fixed_large": (DDPMScheduler(**common, variance_type="fixed_large"), 50, {}),
}
tensors = {}
torch.manual_seed(0)
for name, (scheduler, steps, options) in runs.items():
    tape.clear()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    tensors[f"{name}.start"] = x.clone()
    scheduler.set_timesteps(steps)
    # With fewer steps than it was trained with, the peer adds noise of the large variance even on the last step, onto
    # clean data, where the paper's Algorithm 2 adds none: that one step is left out.
    steps_compared = scheduler.timesteps[:-1] if name == "ddpm_fixed_large" else scheduler.timesteps
    for t in steps_compared:
        before = len(tape)
        x = scheduler.step(0.7 * torch.tanh(x), t, x, **options).prev_sample.to(torch.float64)
        if len(tape) == before:  # no noise on this step: keep the tape aligned with the steps
            tape.append(torch.zeros(2, 1, 4, 4, dtype=torch.float64))
    tensors[f"{name}.noise"] = torch.stack(tape)
    tensors[f"{name}.end"] = x.contiguous()
save_file(tensors, Path(__file__).parent / "trajectories.safetensors")
