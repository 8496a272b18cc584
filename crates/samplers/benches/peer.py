"""What a step costs outside the network, ours beside diffusers 0.42.1 (torch 2.13.0): the same shapes, a network that costs
nothing, in turn, so that both meet the same machine. Prints the ratio ours / theirs: median and range of the rounds, and
the share of a pass of quickstart's UNet.

    cargo bench -p heldout-samplers --no-run
    python3 crates/samplers/benches/peer.py [rounds]"""

import re
import statistics
import subprocess
import sys
import time

import torch
from diffusers import (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler,
                       UniPCMultistepScheduler)
from diffusers.schedulers import scheduling_ddpm, scheduling_dpmsolver_multistep

STEPS = 50
SHAPES = [(1, 1, 16, 16), (64, 1, 16, 16), (4, 4, 64, 64)]
SCHEDULERS = {
    "ddim": lambda: DDIMScheduler(clip_sample=False),
    "ddpm": lambda: DDPMScheduler(clip_sample=False),
    "heun": lambda: HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02),
    "dpm_solver_2m": lambda: DPMSolverMultistepScheduler(),
    "dpm_solver_2m_sde": lambda: DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    "unipc": lambda: UniPCMultistepScheduler(),
}


def theirs(name, shape):
    """Seconds of 50 steps, without drawing noise."""
    raw, x = torch.randn(shape), torch.randn(shape)
    for module in (scheduling_ddpm, scheduling_dpmsolver_multistep):
        module.randn_tensor = lambda *_, **__: raw
    best = []
    for _ in range(7):
        scheduler = SCHEDULERS[name]()
        scheduler.set_timesteps(STEPS)
        state = x
        start = time.perf_counter()
        for t in scheduler.timesteps:
            scheduler.scale_model_input(state, t)
            state = scheduler.step(raw, t, state, return_dict=False)[0]
        best.append(time.perf_counter() - start)
    return statistics.median(best)


def ours():
    command = ["cargo", "bench", "-q", "-p", "heldout-samplers", "--bench", "step", "--", "--quick"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    unit = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
    found = re.findall(r"^50 steps (\[.*?\])/(.+?)\s*\n?\s+time:\s+\[\S+ \S+ (\S+) (\S+)", text, re.M)
    return {(tuple(eval(shape)), name): float(value) * unit[u] for shape, name, value, u in found}


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    ratios, shares = {}, {}
    with torch.no_grad():
        for _ in range(rounds):
            mine = ours()
            for shape in SHAPES:
                for name in SCHEDULERS:
                    peer = theirs(name, shape)
                    ratios.setdefault((shape, name), []).append((mine[shape, name] / peer, mine[shape, name], peer))
                    network = mine.get((shape, "one pass of quickstart's UNet"))
                    if network:
                        shares.setdefault((shape, name), []).append(mine[shape, name] / STEPS / network)
    for key, rows in ratios.items():
        ratio = sorted(row[0] for row in rows)
        ms = [statistics.median(column) / STEPS * 1e6 for column in list(zip(*rows))[1:]]
        share = f"; {100 * statistics.median(shares[key]):.2f} % of a pass" if key in shares else ""
        print(f"{list(key[0])} {key[1]}: {statistics.median(ratio):.3f} ({ratio[0]:.3f} to {ratio[-1]:.3f}); "
              f"{ms[0]:.1f} us beside {ms[1]:.1f} us a step{share}")
