"""A training step of ours beside one of eager diffusers 0.42.1 (torch 2.13.0) with the same networks, batches and AdamW, in
turn, so that both meet the same machine. Prints the ratio ours / theirs: median and range of the rounds.

    cargo bench -p heldout-unet --bench training_step --no-run
    python3 crates/unet/benches/peer.py [rounds]"""

import resource
import statistics
import subprocess
import sys
import time

SIZES = {
    "quickstart": dict(channels=1, side=16, batch=16, blocks=(32, 64), layers=1, attention=(False, True), steps=60),
    "32x32": dict(channels=3, side=32, batch=16, blocks=(64, 128, 128), layers=2, attention=(False, True, False), steps=8),
}


def theirs(name):
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

    s = SIZES[name]
    model = UNet2DModel(
        sample_size=s["side"], in_channels=s["channels"], out_channels=s["channels"],
        block_out_channels=s["blocks"], layers_per_block=s["layers"], attention_head_dim=8, norm_num_groups=8,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in s["attention"]],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(s["attention"])],
    )
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01)
    x = torch.randn(s["batch"], s["channels"], s["side"], s["side"])
    times = []
    for _ in range(s["steps"] + 3):
        start = time.perf_counter()
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (s["batch"],))
        out = model(scheduler.add_noise(x, noise, t), t).sample
        loss = torch.nn.functional.mse_loss(out, scheduler.get_velocity(x, noise, t))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append((time.perf_counter() - start) * 1e3)
    print(name, statistics.median(times[3:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def ours():
    command = ["cargo", "bench", "-q", "-p", "heldout-unet", "--bench", "training_step"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    rows = [line.split() for line in lines if line]
    return {row[0]: (float(row[1]), int(row[4])) for row in rows}


if len(sys.argv) > 1 and sys.argv[1] in SIZES:
    theirs(sys.argv[1])
    sys.exit()
rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
ratios = {name: [] for name in SIZES}
for _ in range(rounds):
    mine = ours()
    for name in SIZES:
        row = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True).stdout.split()
        ratios[name].append((mine[name][0] / float(row[1]), mine[name][0], float(row[1]), mine[name][1], int(row[2])))
for name, rows in ratios.items():
    ratio = sorted(row[0] for row in rows)
    middle = [statistics.median(column) for column in zip(*rows)]
    print(f"{name}: {statistics.median(ratio):.2f} ({ratio[0]:.2f} to {ratio[-1]:.2f}); "
          f"{middle[1]:.1f} ms beside {middle[2]:.1f} ms; {middle[3]:.0f} MiB beside {middle[4]:.0f} MiB")
