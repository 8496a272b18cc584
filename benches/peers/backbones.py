"""Our backbones beside eager diffusers 0.42.1 (torch 2.13.0): the same libtorch, weights, batch and number of threads, one
process each, in turn, so that both meet the same machine. Prints the ratio ours / theirs of time and of peak memory, median
and range of the rounds, and the share of a matrix product's speed in the same process.

    cargo build -p heldout-benches
    python3 benches/peers/backbones.py [rounds] [case ..]
    DEVICE=cuda python3 ..    on a GPU, with 16 times the rows; DEFAULTS=1 with the settings that libtorch begins with on
                              both sides, otherwise deterministic and without TF32
    python3 benches/peers/backbones.py accuracy    both beside the peer in f64 (needs `cargo build -p heldout-lab`)
    python3 benches/peers/backbones.py profile     where the peer's training steps go, on one thread"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/backbones"
HELDOUT = OURS.with_name("heldout")
THREADS = os.cpu_count()
DEVICE = os.environ.get("DEVICE", "cpu")


def unet(**config):
    from diffusers import UNet2DModel

    return UNet2DModel(norm_num_groups=8, attention_head_dim=8, **config)


def make(network):
    import torch

    torch.manual_seed(0)
    if network == "quickstart":
        return unet(sample_size=16, in_channels=1, out_channels=1, block_out_channels=(32, 64), layers_per_block=1,
                    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    if network == "ddpm-32":
        return unet(sample_size=32, block_out_channels=(64, 128, 128), layers_per_block=2,
                    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
                    up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"))
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(num_attention_heads=6, attention_head_dim=64, num_layers=12, out_channels=8)


# Network, what is timed, rows, repeats.
CASES = {
    "quickstart-step": ("quickstart", "step", 16, 40),
    "quickstart-forward": ("quickstart", "forward", 16, 60),
    "quickstart-sample": ("quickstart", "sample", 1, 6),
    "ddpm-32-step": ("ddpm-32", "step", 16, 5),
    "ddpm-32-forward": ("ddpm-32", "forward", 16, 8),
    "dit-s-2-step": ("dit-s-2", "step", 8, 4),
    "dit-s-2-forward": ("dit-s-2", "forward", 8, 6),
}


def synchronize():
    if DEVICE == "cuda":
        import torch

        torch.cuda.synchronize()


def timed(repeats, run):
    times = []
    warm_up = min(repeats, 3)
    for _ in range(repeats + warm_up):
        start = time.perf_counter()
        run()
        synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[warm_up:])


def theirs(folder, network, mode, rows, repeats):
    import torch
    from diffusers import DDIMScheduler, DiTTransformer2DModel, UNet2DModel

    torch.set_num_threads(THREADS)
    torch.set_default_device(DEVICE)
    if DEVICE == "cuda" and "DEFAULTS" not in os.environ:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
    model = (DiTTransformer2DModel if network == "dit-s-2" else UNet2DModel).from_pretrained(folder).to(DEVICE)
    size = model.config.sample_size
    x = torch.randn(rows, model.config.in_channels, size, size)
    t = torch.randint(0, 1000, (rows,))
    more = dict(class_labels=torch.randint(0, 10, (rows,))) if network == "dit-s-2" else {}
    if mode == "step":
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01)
        target = torch.randn(rows, model.out_channels if network == "dit-s-2" else model.config.out_channels, size, size)

        def run():
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x, t, **more).sample, target).backward()
            optimizer.step()

        ms = timed(repeats, run)
    elif mode == "forward":
        model.eval()
        with torch.no_grad():
            ms = timed(repeats, lambda: model(x, t, **more).sample)
    else:
        model.eval()
        scheduler = DDIMScheduler(clip_sample=False)
        scheduler.set_timesteps(50)

        def run():
            state = x
            for step in scheduler.timesteps:
                state = scheduler.step(model(state, step).sample, step, state).prev_sample

        with torch.no_grad():
            ms = timed(repeats, run) / 50
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    print(ms, peak, 2 * 2048**3 / timed(5, lambda: a @ b) / 1e6)


def inputs(network, rows):
    import torch

    side, channels = {"quickstart": (16, 1), "ddpm-32": (32, 3), "dit-s-2": (32, 4)}[network]
    given = dict(sample=torch.randn(rows, channels, side, side), timestep=torch.tensor([3, 900] * (rows // 2)))
    return given | (dict(class_labels=torch.tensor([3, 7] * (rows // 2))) if network == "dit-s-2" else {})


def accuracy():
    """Largest absolute differences from the peer in f64: of the output, and of all gradients of its mean square."""
    import torch
    from safetensors.torch import load_file, save_file

    def passed(model, given):
        x = given["sample"].to(model.dtype).requires_grad_()
        out = model(x, *list(given.values())[1:2], **{k: v for k, v in given.items() if k == "class_labels"}).sample
        out.square().mean().backward()
        return out, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    for network in ("quickstart", "ddpm-32", "dit-s-2"):
        model = make(network).eval()
        given = inputs(network, 2)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            save_file(given, f"{folder}/in.safetensors")
            run([HELDOUT, "forward", folder, "--input", f"{folder}/in.safetensors", "--output",
                 f"{folder}/out.safetensors", "--gradients"])
            ours = load_file(f"{folder}/out.safetensors")
        out, gradients = passed(model, given)
        model.zero_grad()
        exact, exact_gradients = passed(model.double(), given)
        worst = lambda found: max((found(name) - g).abs().max().item() for name, g in exact_gradients.items())
        print(f"{network}: output {(ours['sample'] - exact).abs().max():.1e} (peer {(out - exact).abs().max():.1e}), "
              f"gradients {worst(lambda name: ours['grad.' + name]):.1e} (peer {worst(gradients.get):.1e})")


def profile():
    """Shares of the processor's time of two training steps of the peer, by operation."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(1)
    for network, rows in (("ddpm-32", 16), ("dit-s-2", 8), ("quickstart", 16)):
        model = make(network)
        optimizer = torch.optim.AdamW(model.parameters())
        given = inputs(network, rows)
        sample, timestep = given.pop("sample"), given.pop("timestep")

        def step():
            optimizer.zero_grad()
            model(sample, timestep, **given).sample.square().mean().backward()
            optimizer.step()

        step()
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            step(), step()
        print(network, seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=14), sep="\n")


def run(command):
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True, env=environment).stdout


def compare(name, rounds, ours, peer, share=None):
    """Prints one case. Both commands print milliseconds, MiB, and what `share` makes two numbers of, if it is given."""
    rows = []
    for _ in range(rounds):
        a, b = ([float(n) for n in run(command).split()] for command in (ours, peer))
        rows.append((a[0] / b[0], a[1] / b[1], a[0], b[0], a[1], b[1], *(share(a, b) if share else ())))
        print(f"  {a[0]:.2f} beside {b[0]:.2f} ms, {a[1]:.0f} beside {b[1]:.0f} MiB", file=sys.stderr, flush=True)
    middle = [statistics.median(column) for column in zip(*rows)]
    low, high = min(r[0] for r in rows), max(r[0] for r in rows)
    speed = f"; share of the product's speed {middle[6]:.2f} beside {middle[7]:.2f}" if share else ""
    print(f"{name}: time {middle[0]:.3f} ({low:.3f} to {high:.3f}), {1 / middle[0]:.2f}x; {middle[2]:.2f} beside "
          f"{middle[3]:.2f} ms; memory {middle[1]:.2f}, {middle[4]:.0f} beside {middle[5]:.0f} MiB{speed}", flush=True)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    names = sys.argv[2:] or list(CASES)
    with tempfile.TemporaryDirectory() as folder:
        for network in {CASES[name][0] for name in names}:
            make(network).save_pretrained(f"{folder}/{network}")
        for name in names:
            network, mode, rows, repeats = CASES[name]
            if DEVICE == "cuda":
                rows, repeats = rows if mode == "sample" else 16 * rows, 3 * repeats

            def share(ours, other):
                work = 2e-6 * ours[2] * (3 if mode == "step" else 1) / (rows if mode == "sample" else 1)
                return work / ours[0] / ours[3], work / other[0] / other[2]

            peer = [sys.executable, __file__, "theirs", f"{folder}/{network}", network, mode, rows, repeats]
            compare(name, rounds, [OURS, f"{folder}/{network}", mode, rows, repeats], peer, share)


if __name__ == "__main__":
    if sys.argv[1:2] in (["accuracy"], ["profile"]):
        sys.exit(globals()[sys.argv[1]]())
    if sys.argv[1:2] == ["theirs"]:
        folder, network, mode, rows, repeats = sys.argv[2:]
        theirs(folder, network, mode, int(rows), int(repeats))
    else:
        main()
