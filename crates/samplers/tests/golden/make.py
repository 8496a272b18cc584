"""Whole trajectories of diffusers 0.42.1's schedulers (torch 2.13.0, f32), every state and every draw of noise, for the
network `raw = 0.7 tanh(x_t) + time * cos(label / 300)` in every prediction, spacing and number of steps.

States are written as `x_t` of unit variance; schedulers that carry `x_t / alpha` are divided back. `time` is 0 where the
peer tells the network a time that is not its level's: levels between two steps, and rounded ones.

The peer's table of alphas_cumprod is made anew in f64, from the same betas: in f32 `1 - alphas_cumprod` has lost four of
its seven digits at the first training steps, which `"sample"` networks show, whose noise estimate divides by it. With
`--f32` the table is left as it is."""

import json
import sys
from pathlib import Path

import diffusers
import torch
from diffusers import schedulers
from safetensors.torch import save_file

tape = []


def recorded_randn(shape, generator=None, device=None, dtype=None, layout=None):
    tape.append(torch.randn(shape))
    return tape[-1]


for name in ["ddpm", "ddim", "euler_ancestral_discrete", "dpmsolver_multistep"]:
    getattr(schedulers, f"scheduling_{name}").randn_tensor = recorded_randn

SPACINGS = ["linspace", "leading", "trailing"]
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
BY_SIGMA = ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"]
SOLVERS = {
    "DDPMScheduler": {"clip_sample": False},
    "DDIMScheduler": {"clip_sample": False},
    "DPMSolverMultistepScheduler": {},
    "UniPCMultistepScheduler": {},
    **{name: {} for name in BY_SIGMA},
}
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LINEAR = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}


def betas(config):
    if config.beta_schedule == "linear":
        return torch.linspace(config.beta_start, config.beta_end, 1000, dtype=torch.float64)
    if config.beta_schedule == "scaled_linear":
        return torch.linspace(config.beta_start**0.5, config.beta_end**0.5, 1000, dtype=torch.float64) ** 2
    return diffusers.schedulers.scheduling_ddpm.betas_for_alpha_bar(1000).double()


def configs():
    for name, options in SOLVERS.items():
        for spacing in SPACINGS:
            for prediction in PREDICTIONS:
                for steps in [5, 20, 50]:
                    yield name, {**LINEAR, **options, "timestep_spacing": spacing, "prediction_type": prediction}, steps
    sde = {**LINEAR, "algorithm_type": "sde-dpmsolver++"}
    for spacing in SPACINGS:
        for prediction in PREDICTIONS:
            for steps in [5, 20, 50]:
                options = {"timestep_spacing": spacing, "prediction_type": prediction}
                yield "DPMSolverMultistepScheduler", {**sde, **options}, steps
    for steps in [5, 20, 50]:
        for shift in [1.0, 3.0]:
            yield "FlowMatchEulerDiscreteScheduler", {"shift": shift}, steps
            flow = {"use_flow_sigmas": True, "flow_shift": shift, "prediction_type": "flow_prediction"}
            yield "DPMSolverMultistepScheduler", flow, steps
            yield "UniPCMultistepScheduler", flow, steps
    for name in BY_SIGMA:
        yield name, {**SD, "timestep_spacing": "leading", "steps_offset": 1}, 20
    for name in ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler",
                 "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]:
        for rule in ["use_karras_sigmas", "use_exponential_sigmas"]:
            for spacing in ["linspace", "leading"]:
                yield name, {**SD, rule: True, "timestep_spacing": spacing}, 20
    yield "DPMSolverMultistepScheduler", {**SD, "use_lu_lambdas": True}, 20
    yield "EulerDiscreteScheduler", {**SD, "final_sigmas_type": "sigma_min", "timestep_spacing": "trailing"}, 20
    yield "EulerDiscreteScheduler", {**SD, "use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 12.0}, 20
    yield "DPMSolverMultistepScheduler", {**SD, "final_sigmas_type": "sigma_min", "lower_order_final": False}, 20
    yield "UniPCMultistepScheduler", {**SD, "solver_order": 3}, 20
    yield "UniPCMultistepScheduler", {**SD, "solver_order": 1}, 20
    yield "DDIMScheduler", {**SD, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}, 20
    yield "DDIMScheduler", {**LINEAR, "clip_sample": False, "rescale_betas_zero_snr": True,
                            "prediction_type": "v_prediction", "timestep_spacing": "trailing"}, 20
    yield "DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}, 20
    yield "DDPMScheduler", {**LINEAR, "clip_sample": False, "variance_type": "fixed_large"}, 20
    yield "DDPMScheduler", {**LINEAR, "clip_sample": False, "variance_type": "learned_range"}, 20
    yield "DDPMScheduler", {**LINEAR, "clip_sample": True, "clip_sample_range": 0.8}, 20
    pndm = {"skip_prk_steps": True}
    for steps in [5, 20, 50]:
        for spacing in ["leading", "trailing"]:
            end = {"timestep_spacing": spacing, "set_alpha_to_one": True}
            yield "PNDMScheduler", {**LINEAR, **pndm, **end}, steps
    yield "PNDMScheduler", {**SD, **pndm, "steps_offset": 1}, 20
    yield "PNDMScheduler", {**SD, **pndm, "timestep_spacing": "trailing"}, 20


def run(name, config, steps, eta):
    scheduler = getattr(diffusers, name)(**config)
    if hasattr(scheduler, "betas") and "--f32" not in sys.argv and not config.get("rescale_betas_zero_snr"):
        scheduler.alphas_cumprod = torch.cumprod(1 - betas(scheduler.config), 0)
    scheduler.set_timesteps(steps)
    sigmas = getattr(scheduler, "sigmas", None)
    flow = name.startswith("Flow") or config.get("use_flow_sigmas", False)
    by_sigma = name in BY_SIGMA
    whole = bool(torch.equal(scheduler.timesteps.float(), scheduler.timesteps.float().round()))
    rounded = any(config.get(f) for f in ["use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas"]) or flow
    time = 0.1 if whole and not rounded else 0.0
    x = torch.randn(2, 1, 2, 2) * (scheduler.init_noise_sigma if by_sigma else 1.0)
    x = x.float()
    states, noises, pairs = [], [], []
    calls = list(scheduler.timesteps)
    level = 0  # index into the grid of levels
    second_stage = False
    heun = name == "HeunDiscreteScheduler"
    levels = torch.cat([sigmas[:1], sigmas[1::2]]) if heun else sigmas
    for call, t in enumerate(calls):
        sigma = levels[level] if by_sigma else None
        if name == "PNDMScheduler" and call == 1:
            second_stage = True  # its first step has two
        if not second_stage:
            states.append(x / (sigma**2 + 1) ** 0.5 if by_sigma else x.clone())
        model_in = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        raw = 0.7 * torch.tanh(model_in) + time * torch.cos(torch.as_tensor(t, dtype=torch.float32) / 300)
        if config.get("variance_type") == "learned_range":
            raw = torch.cat([raw, torch.tanh(0.5 * model_in)], 1)
        tape.clear()
        options = {"eta": eta} if name == "DDIMScheduler" else {}
        after = scheduler.step(raw, t, x, **options).prev_sample
        if name == "DDIMScheduler":
            pairs.append([int(t), int(t) - scheduler.config.num_train_timesteps // steps])
        noises.append(tape[0] if tape else torch.zeros_like(x))
        x = after
        if heun and len(levels) > level + 1 and levels[level + 1] > 0 and not second_stage:
            second_stage = True
        else:
            second_stage = False
            level += 1
    states.append(x)
    assert len(states) == steps + 1, (name, config, len(states))
    if by_sigma and levels[-1] > 0:
        states[-1] = x / (levels[-1] ** 2 + 1) ** 0.5
    if heun:
        noises = noises[: steps]
    return states, noises, pairs, time, scheduler


torch.manual_seed(0)
tensors, cases = {}, []
todo = [(*c, 0.0) for c in configs()]
todo += [("DDIMScheduler", {**LINEAR, "clip_sample": False, "timestep_spacing": s}, n, 0.5)
         for s in ["leading", "trailing"] for n in [5, 20, 50]]
for name, config, steps, eta in todo:
    try:
        states, noises, pairs, time, scheduler = run(name, config, steps, eta)
    except NotImplementedError as e:  # some of the peer's schedulers lack the prediction "sample"
        print("left out:", name, config["prediction_type"], e)
        continue
    i = len(cases)
    tensors[f"{i}.states"] = torch.stack(states).float()
    if any(n.abs().max() > 0 for n in noises):
        tensors[f"{i}.noise"] = torch.stack(noises)
    case = {"steps": steps, "eta": eta, "time": time, "config": scheduler.to_json_string()}
    if config.get("timestep_spacing") == "linspace" and name == "DDIMScheduler":
        case["pairs"] = pairs
    cases.append(case)
folder = Path(__file__).parent
save_file(tensors, folder / "trajectories.safetensors")
(folder / "trajectories.json").write_text(json.dumps(cases, indent=0))
print(len(cases), "trajectories")
