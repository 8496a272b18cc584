"""alphas_cumprod of diffusers 0.42.1's DDPMScheduler (torch 2.13.0), and its cosine betas multiplied out in f64."""

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file

tensors = {}
for name in ["linear", "squaredcos_cap_v2"]:
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule=name)
    tensors[name] = scheduler.alphas_cumprod


def alpha_bar(t):
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


betas = np.array([min(1 - alpha_bar((i + 1) / 1000) / alpha_bar(i / 1000), 0.999) for i in range(1000)])
tensors["squaredcos_cap_v2_f64"] = torch.from_numpy(np.cumprod(1 - betas))
save_file(tensors, Path(__file__).parent / "alphas_cumprod.safetensors")
