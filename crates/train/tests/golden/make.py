"""Twenty steps of torch 2.13.0's optimisers on recorded gradients."""

from pathlib import Path

import torch
from safetensors.torch import save_file

torch.manual_seed(0)
start, grads = torch.randn(40), torch.randn(20, 40)
grads[:, :5] = 0  # a parameter whose gradient is zero, where epsilon and weight decay show
tensors = dict(start=start, grads=grads)
common = dict(lr=0.05, weight_decay=0.01)
for name, make in {
    "adam": lambda p: torch.optim.Adam(p, betas=(0.9, 0.99), **common),
    "adamw": lambda p: torch.optim.AdamW(p, betas=(0.9, 0.99), **common),
    "sgd": lambda p: torch.optim.SGD(p, **common),
    "sgd_momentum": lambda p: torch.optim.SGD(p, momentum=0.9, **common),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True, **common),
}.items():
    p = torch.nn.Parameter(start.clone())
    optimizer = make([p])
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    tensors[name] = p.detach()
save_file(tensors, Path(__file__).parent / "optimizers.safetensors")
