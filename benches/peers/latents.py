"""Autoencoders, and a UNet with a ControlNet, beside eager diffusers 0.42.1 (torch 2.13.0): the same libtorch, weights, batch and
number of threads, one process each, in turn. Prints the ratio ours / theirs of time and of peak memory, median and range of
the rounds.

    cargo build -p heldout-benches
    python3 benches/peers/latents.py [rounds] [case ..]
    python3 benches/peers/latents.py large    one image of 1024 pixels through KL-f8's decoder, in tiles of 512 and whole"""

import resource
import sys
import tempfile
import time

from backbones import OURS, THREADS, compare, timed

LATENTS = OURS.with_name("latents")
TOKENS = 77
STEPS = 20
AUTOENCODERS = {"small": (32, 64, 64), "middle": (64, 128, 128), "kl-f8": (128, 256, 512, 512)}
SIDE = 128
LARGE, TILE = 1024, 512

# Network, what is timed, rows, repeats.
CASES = {
    "small-step": ("small", "step", 4, 3),
    "small-encode": ("small", "encode", 4, 10),
    "small-decode": ("small", "decode", 4, 10),
    "middle-step": ("middle", "step", 4, 2),
    "middle-encode": ("middle", "encode", 4, 5),
    "middle-decode": ("middle", "decode", 4, 5),
    "control-step": ("control", "step", 4, 5),
    "control-sample": ("control", "sample", 4, 1),
}


def make(network, folder):
    """Writes it with random weights."""
    import torch
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    torch.manual_seed(0)
    if network in AUTOENCODERS:
        widths = AUTOENCODERS[network]
        blocks = dict(down_block_types=("DownEncoderBlock2D",) * len(widths), up_block_types=("UpDecoderBlock2D",) * len(widths))
        AutoencoderKL(block_out_channels=widths, layers_per_block=2, sample_size=TILE, **blocks).save_pretrained(folder)
        return
    unet = UNet2DConditionModel(sample_size=32, block_out_channels=(32, 64, 64), cross_attention_dim=64,
                                down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))
    unet.save_pretrained(f"{folder}/unet")
    ControlNetModel.from_unet(unet).save_pretrained(f"{folder}/controlnet")


def finish(ms):
    print(ms, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def their_autoencoder(folder, mode, rows, repeats):
    import torch
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(folder)
    x = torch.rand(rows, 3, SIDE, SIDE) * 2 - 1
    if mode == "step":
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

        def run():
            optimizer.zero_grad()
            posterior = model.encode(x).latent_dist
            out = model.decode(posterior.sample()).sample
            (torch.nn.functional.mse_loss(out, x) + 1e-6 * posterior.kl().mean()).backward()
            optimizer.step()

        return timed(repeats, run)
    with torch.no_grad():
        z = model.encode(x).latent_dist.mode()
        if mode == "encode":
            return timed(repeats, lambda: model.encode(x).latent_dist.mode() * model.config.scaling_factor)
        return timed(repeats, lambda: model.decode(z / model.config.scaling_factor).sample)


def their_control(folder, mode, rows, repeats):
    import torch
    from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel

    unet, net = UNet2DConditionModel.from_pretrained(f"{folder}/unet"), ControlNetModel.from_pretrained(f"{folder}/controlnet")
    unet.requires_grad_(False)
    size = unet.config.sample_size
    x, text, hint = torch.randn(rows, 4, size, size), torch.randn(rows, TOKENS, 64), torch.rand(rows, 3, 8 * size, 8 * size)

    def predict(x, t, text, hint):
        down, mid = net(x, t, encoder_hidden_states=text, controlnet_cond=hint, return_dict=False)
        return unet(x, t, encoder_hidden_states=text, down_block_additional_residuals=down,
                    mid_block_additional_residual=mid, return_dict=False)[0]

    if mode == "step":
        net.train()
        t, target = torch.randint(0, 1000, (rows,)), torch.randn_like(x)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01)

        def run():
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(predict(x, t, text, hint), target).backward()
            optimizer.step()

        return timed(repeats, run)
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(STEPS)
    texts, hints = torch.cat([torch.zeros_like(text), text]), torch.cat([hint] * 2)

    def run():  # as its StableDiffusionControlNetPipeline
        state = x
        for t in scheduler.timesteps:
            null, told = predict(torch.cat([state] * 2), t, texts, hints).chunk(2)
            state = scheduler.step(null + 7.5 * (told - null), t, state).prev_sample

    with torch.no_grad():
        return timed(repeats, run) / STEPS


def theirs(folder, network, mode, rows, repeats):
    import torch

    torch.set_num_threads(THREADS)
    finish((their_control if network == "control" else their_autoencoder)(folder, mode, rows, repeats))


def their_large(folder, tile):
    import torch
    from diffusers import AutoencoderKL

    torch.set_num_threads(THREADS)
    model = AutoencoderKL.from_pretrained(folder)
    if tile:
        model.enable_tiling()
    z = torch.randn(1, 4, LARGE // 8, LARGE // 8)
    start = time.perf_counter()
    with torch.no_grad():
        model.decode(z)
    finish((time.perf_counter() - start) * 1e3)


def large():
    with tempfile.TemporaryDirectory() as folder:
        make("kl-f8", folder)
        for tile in (TILE, 0):
            compare("whole" if tile == 0 else f"tiles of {tile}", 1, [LATENTS, "large", LARGE, tile],
                    [sys.executable, __file__, "their_large", folder, tile])


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    names = sys.argv[2:] or list(CASES)
    with tempfile.TemporaryDirectory() as place:
        for network in dict.fromkeys(CASES[name][0] for name in names):
            make(network, f"{place}/{network}")
        for name in names:
            network, mode, rows, repeats = CASES[name]
            folder = f"{place}/{network}"
            if network == "control":
                ours = ["control", f"{folder}/unet", f"{folder}/controlnet", mode, rows, repeats]
            else:
                ours = ["autoencoder", folder, mode, rows, SIDE, repeats]
            peer = [sys.executable, __file__, "theirs", folder, network, mode, rows, repeats]
            compare(name, rounds, [LATENTS, *ours], peer)


if __name__ == "__main__":
    if sys.argv[1:2] == ["theirs"]:
        theirs(*sys.argv[2:5], int(sys.argv[5]), int(sys.argv[6]))
    elif sys.argv[1:2] == ["their_large"]:
        their_large(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:2] == ["large"]:
        large()
    else:
        main()
