"""What torch 2.13.0 (`torch.optim.swa_utils`) and torch-ema 0.3 make of the same weights, step by step.

    pip install torch==2.13.0 torch-ema==0.3 safetensors
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch_ema import ExponentialMovingAverage

STEPS = 12

torch.manual_seed(0)
model = torch.nn.Linear(3, 2)
path = [[p.detach().clone() for p in model.parameters()]]
for _ in range(STEPS):
    path.append([p + 0.3 * torch.randn_like(p) for p in path[-1]])


def visit(take):
    with torch.no_grad():
        for step in range(STEPS + 1):
            for p, w in zip(model.parameters(), path[step]):
                p.copy_(w)
            if step > 0:
                take(step)


def start():
    with torch.no_grad():
        for p, w in zip(model.parameters(), path[0]):
            p.copy_(w)


start()
mean = AveragedModel(model)
visit(lambda _: mean.update_parameters(model))

start()
ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
ema.update_parameters(model)  # the first call copies
visit(lambda _: ema.update_parameters(model))

start()
warm = ExponentialMovingAverage(model.parameters(), decay=0.9, use_num_updates=True)
visit(lambda _: warm.update())

# Batch norm: statistics measured anew over four batches of unequal spread.
norm = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.ReLU(), torch.nn.BatchNorm2d(3))
batches = torch.randn(4, 5, 2, 3, 3) * torch.tensor([0.5, 1.0, 2.0, 3.0]).view(4, 1, 1, 1, 1)
update_bn(list(batches), norm)

out = {f"path.{i}": torch.stack([step[i] for step in path]) for i in (0, 1)}
for name, found in [("mean", list(mean.module.parameters())), ("ema", list(ema.module.parameters())), ("warm", warm.shadow_params)]:
    out |= {f"{name}.{i}": p.detach() for i, p in enumerate(found)}
out |= {"batches": batches, "conv.weight": norm[0].weight.detach(), "conv.bias": norm[0].bias.detach()}
for i, layer in enumerate((norm[1], norm[3])):
    out |= {f"bn{i}.running_mean": layer.running_mean, f"bn{i}.running_var": layer.running_var}
save_file({k: v.clone().contiguous() for k, v in out.items()}, Path(__file__).with_name("averages.safetensors"))
