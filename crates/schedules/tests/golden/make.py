"""alphas_cumprod of diffusers 0.42.1's DDPMScheduler (torch 2.13.0), and its cosine betas multiplied out in f64."""

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file

tensors = {}
for name in ["linear", "squaredcos_cap_v2", "sigmoid", "scaled_linear"]:
    start, end = (0.00085, 0.012) if name == "scaled_linear" else (1e-4, 0.02)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_start=start, beta_end=end, beta_schedule=name)
    tensors[name] = scheduler.alphas_cumprod
tensors["linear_zero_terminal_snr"] = DDPMScheduler(rescale_betas_zero_snr=True).alphas_cumprod


def alpha_bar(t):
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


betas = np.array([min(1 - alpha_bar((i + 1) / 1000) / alpha_bar(i / 1000), 0.999) for i in range(1000)])
tensors["squaredcos_cap_v2_f64"] = torch.from_numpy(np.cumprod(1 - betas))
save_file(tensors, Path(__file__).parent / "alphas_cumprod.safetensors")
