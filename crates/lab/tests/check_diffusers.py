"""Random tiny models of diffusers beside `heldout`: outputs, gradients, and folders in both directions.

    python check_diffusers.py path/to/heldout [--seed N] [--rounds K]

For K configurations of each of UNet2DModel, UNet2DConditionModel and DiTTransformer2DModel: `heldout forward` reads the
folder that the peer saved and must give its output and its gradients of mean(out^2), in f32 and in f64; the peer must
read what `heldout export` writes and give the same output to the bit. One line per configuration with the largest
differences. Then two tiny arms are trained, of images and of latents, and leave with `heldout export --pipeline`: the peer
opens the folders and makes the images of `heldout sample` from the same noise. Exit 0 if all hold, 1 if any fails, 77
without torch or diffusers.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import warnings
from math import sqrt
from pathlib import Path

try:
    import diffusers
    import torch
    from safetensors.torch import load_file, save_file
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)

# Of images in [-1, 1] after STEPS steps.
IMAGES, STEPS = 1e-3, 10
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}
ADDED = ("text_embeds", "time_ids", "image_embeds", "hint")


def mirrored(down):
    return [d.replace("Downsample", "Upsample").replace("Down", "Up") for d in reversed(down)]


def common(r, levels):
    """Options of both U-Nets."""
    return dict(
        sample_size=8,
        in_channels=r.randint(1, 5),
        out_channels=r.randint(1, 5),
        block_out_channels=[2 * r.randint(2, 7) for _ in range(levels)],
        norm_num_groups=2,
        layers_per_block=r.randint(1, 3 if levels < 3 else 2),
        center_input_sample=r.random() < 0.2,
        flip_sin_to_cos=r.random() < 0.5,
        freq_shift=r.randint(0, 1),
        time_embedding_type=r.choice(["positional", "positional", "fourier"]),
        time_embedding_dim=r.choice([None, None, 2 * r.randint(3, 8)]),
        downsample_padding=r.randint(0, 1),
        mid_block_scale_factor=r.choice([1, 1, 1.5]),
        dropout=r.choice([0.0, 0.1]),
        act_fn=r.choice(["silu", "swish", "mish", "gelu", "relu"]),
        norm_eps=r.choice([1e-5, 1e-6, 1e-3]),
        resnet_time_scale_shift=r.choice(["default", "scale_shift"]),
    )


def unet2d(r):
    levels = r.randint(1, 3)
    c = common(r, levels)
    kind = r.choice(["plain", "plain", "skip", "attention skip", "k"])
    if kind == "plain":
        blocks = ["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"]
        down, up = r.choices(blocks, k=levels), mirrored(r.choices(blocks, k=levels))
        down = ["UNetRes" + d if r.random() < 0.1 else d for d in down]
    elif kind == "k":
        down = r.choices(["KDownBlock2D", "KCrossAttnDownBlock2D"], k=levels)
        up = mirrored(down)
        c["block_out_channels"] = [r.choice([32, 48, 64])] * levels
        c["time_embedding_dim"] = r.choice([None, c["block_out_channels"][0]])
    else:
        blocks = ["SkipDownBlock2D"] + ["AttnSkipDownBlock2D"] * (kind == "attention skip")
        down, up = r.choices(blocks, k=levels), mirrored(r.choices(blocks, k=levels))
        width = 4 if kind == "skip" else 64
        c["block_out_channels"] = [width * r.randint(1, 3 if kind == "skip" else 1) for _ in range(levels)]
        c |= dict(in_channels=3, out_channels=3)
    if kind != "plain":
        c["norm_num_groups"] = r.choice([None, 4])
    if r.random() < 0.1:
        c |= dict(time_embedding_type="learned", num_train_timesteps=12)
    c |= dict(
        down_block_types=down,
        up_block_types=up,
        mid_block_type=r.choice(["UNetMidBlock2D", "UNetMidBlock2D", "UNetMidBlock2D", None]),
        attention_head_dim=r.choice([16, 32, None]) if c["block_out_channels"][0] >= 32 else r.choice([1, 2, 4, None]),
        attn_norm_num_groups=r.choice([None, None, 2]),
        add_attention=r.random() < 0.8,
        downsample_type=r.choice(["conv", "resnet"]),
        upsample_type=r.choice(["conv", "resnet"]),
        class_embed_type=r.choice([None, None, "timestep", "identity"]),
    )
    if c["class_embed_type"] is None and r.random() < 0.3:
        c["num_class_embeds"] = 5
    return c


def unet2d_condition(r):
    levels = r.randint(1, 3)
    c = common(r, levels)
    kind = r.choice(["cross", "cross", "simple", "k"])

    def by_block(draw):
        return [draw() for _ in range(levels)] if r.random() < 0.3 else draw()

    c |= dict(
        mid_block_type=r.choice(["UNetMidBlock2DCrossAttn", "UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None]),
        cross_attention_dim=r.randint(3, 9),
        attention_head_dim=by_block(lambda: r.randint(1, 4)),
        layers_per_block=by_block(lambda: r.randint(1, 2)),
        only_cross_attention=by_block(lambda: r.random() < 0.2),
        use_linear_projection=r.random() < 0.5,
        upcast_attention=r.random() < 0.3,
        conv_in_kernel=r.choice([1, 3, 3, 5]),
        conv_out_kernel=r.choice([1, 3, 3, 5]),
        resnet_skip_time_act=r.random() < 0.3,
        resnet_out_scale_factor=r.choice([1.0, 1.0, sqrt(2)]),
        time_embedding_act_fn=r.choice([None, None, "silu", "mish", "gelu"]),
        timestep_post_act=r.choice([None, None, "silu", "gelu"]),
        time_cond_proj_dim=r.choice([None, None, 5]),
        attention_type=r.choice(["default", "default", "default", "gated", "gated-text-image"]),
    )
    plain = ["DownBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"]
    if kind == "cross":
        blocks = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "UNetResCrossAttnDownBlock2D", *plain]
        down = r.choices(blocks, k=levels)
        up = mirrored(r.choices(blocks, k=levels))
        c["transformer_layers_per_block"] = by_block(lambda: r.randint(1, 2))
        if r.random() < 0.2:
            layers = c["layers_per_block"]
            layers = layers if isinstance(layers, list) else [layers] * levels
            c["transformer_layers_per_block"] = [[r.randint(1, 2) for _ in range(n)] for n in layers]
            c["reverse_transformer_layers_per_block"] = [[r.randint(1, 2) for _ in range(n + 1)] for n in layers[::-1]]
    elif kind == "simple":
        down = r.choices(["SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D", *plain], k=levels)
        up = mirrored(down)
        norm = r.choice([None, "layer_norm", "group_norm"])
        c |= dict(
            cross_attention_norm=norm,
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            attention_head_dim=r.choice([1, 2]),
            mid_block_only_cross_attention=r.choice([None, True, False]),
        )
        if norm == "layer_norm":
            c["block_out_channels"] = [c["cross_attention_dim"]] * levels
            c["norm_num_groups"] = 1
        if norm == "group_norm":
            c["cross_attention_dim"] = 32
    else:
        down = ["KDownBlock2D"] + ["KCrossAttnDownBlock2D"] * (levels - 1)
        up = mirrored(down)
        width = r.choice([32, 64])
        c |= dict(
            block_out_channels=[32] + [width] * (levels - 1),
            attention_head_dim=r.choice([8, 16]),
            layers_per_block=2,
            mid_block_type=None,
            norm_num_groups=r.choice([None, 4]),
            time_embedding_dim=width if levels > 1 else None,
        )
    c |= dict(down_block_types=down, up_block_types=up)

    class_embed_type = r.choice([None, None, "timestep", "identity", "projection", "simple_projection", "table"])
    if class_embed_type == "table":
        c["num_class_embeds"] = 5
    else:
        c["class_embed_type"] = class_embed_type
    if class_embed_type is not None:
        c["class_embeddings_concat"] = r.random() < 0.2
    if class_embed_type in ("projection", "simple_projection"):
        c["projection_class_embeddings_input_dim"] = 31

    added = r.choice([None, None, "text", "text_image", "text_time", "image", "image_hint"])
    c["addition_embed_type"] = added
    hidden = r.choice([None, None, "text_proj", "text_image_proj", "image_proj"])
    if added in ("image", "image_hint"):
        hidden = "image_proj"
    elif added == "text_image":
        hidden = r.choice([None, "text_proj", "text_image_proj"])
    elif added is not None:
        hidden = r.choice([None, "text_proj"])
    c["encoder_hid_dim_type"] = hidden
    if hidden is not None:
        c["encoder_hid_dim"] = 6
    if added == "text":
        width = c.get("encoder_hid_dim", c["cross_attention_dim"])
        c["addition_embed_type_num_heads"] = r.choice([n for n in range(1, 5) if width % n == 0])
    if added == "text_time":
        c |= dict(addition_time_embed_dim=4, projection_class_embeddings_input_dim=31)
    if added == "image_hint":
        c["in_channels"] += 4
    return c


def dit(r):
    return dict(
        num_attention_heads=r.randint(1, 3),
        attention_head_dim=4 * r.randint(1, 3),
        in_channels=r.randint(1, 4),
        out_channels=r.choice([None, r.randint(1, 8)]),
        num_layers=r.randint(1, 3),
        sample_size=8,
        patch_size=r.choice([1, 2, 4]),
        num_embeds_ada_norm=r.randint(1, 9),
        activation_fn=r.choice(["gelu", "gelu-approximate", "geglu", "geglu-approximate", "swiglu", "linear-silu"]),
        attention_bias=r.random() < 0.7,
        upcast_attention=r.random() < 0.3,
        norm_elementwise_affine=r.random() < 0.3,
        norm_eps=r.choice([1e-5, 1e-3]),
        dropout=r.choice([0.0, 0.1]),
    )


def inputs(r, model):
    """Inputs that `model` takes, as f64."""
    config = model.config
    noise = lambda *shape: torch.randn(shape).double()
    hint = config.get("addition_embed_type") == "image_hint"
    if isinstance(model, diffusers.DiTTransformer2DModel):
        side = config.patch_size * r.randint(2, 4)
        return {
            "sample": noise(2, config.in_channels, side, side),
            "timestep": torch.tensor([r.randrange(1000), r.randrange(1000)]),
            "class_labels": torch.tensor([r.randint(0, config.num_embeds_ada_norm), 0]),
        }
    unit = 2 ** (len(config.block_out_channels) - 1)
    height, width = unit * r.randint(2, 4), unit * r.randint(2, 4)
    condition = isinstance(model, diffusers.UNet2DConditionModel)
    if condition and not hint and r.random() < 0.3:
        height += r.randint(0, unit - 1)
        width += r.randint(0, unit - 1)
    x = {"sample": noise(2, config.in_channels - 4 * hint, height, width)}

    learned, fourier = config.time_embedding_type == "learned", config.time_embedding_type == "fourier"
    if fourier:
        x["timestep"] = torch.tensor([r.uniform(0.3, 2), r.uniform(0.3, 2)]).double()
    else:
        x["timestep"] = torch.tensor([r.randrange(12 if learned else 1000), 1])
    time_width = config.time_embedding_dim or config.block_out_channels[0] * (2 if fourier and condition else 4)
    if config.class_embed_type == "timestep":
        x["class_labels"] = torch.tensor([3, 9]) if learned else torch.tensor([0.5, 2.25]).double()
    elif config.class_embed_type == "identity":
        x["class_labels"] = noise(2, time_width)
    elif config.class_embed_type is not None:
        x["class_labels"] = noise(2, config.projection_class_embeddings_input_dim)
    elif config.num_class_embeds is not None:
        x["class_labels"] = torch.tensor([r.randrange(5), 4])
    if not condition:
        return x

    tokens, context, added = r.randint(5, 11), config.cross_attention_dim, config.addition_embed_type
    if config.encoder_hid_dim_type != "image_proj":
        x["encoder_hidden_states"] = noise(2, tokens, config.encoder_hid_dim or context)
        if r.random() < 0.4:
            mask = torch.ones(2, tokens + 10 * (config.encoder_hid_dim_type == "text_image_proj")).double()
            mask[0, r.randint(1, tokens - 1):] = 0
            x["encoder_attention_mask"] = mask
    if config.time_cond_proj_dim is not None and r.random() < 0.7:
        x["timestep_cond"] = noise(2, config.time_cond_proj_dim)
    if added == "text_time":
        x["text_embeds"] = noise(2, config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim)
        x["time_ids"] = torch.tensor([[512, 640, 0, 16, 512, 768], [1024, 256, 8, 0, 1024, 1000]]).double()
    if added == "text_image":
        x["text_embeds"] = noise(2, context)
    if added == "text_image" or config.encoder_hid_dim_type == "text_image_proj":
        x["image_embeds"] = noise(2, context)
    elif config.encoder_hid_dim_type == "image_proj":
        x["image_embeds"] = noise(2, config.encoder_hid_dim)
    if hint:
        x["hint"] = noise(2, 3, 8 * height, 8 * width)
    return x


def cast(x, dtype):
    """Inputs in `dtype`; indices and the timestep keep theirs."""
    return {k: v.to(dtype) if v.is_floating_point() and k != "timestep" else v for k, v in x.items()}


def run(model, x):
    """The peer's output and gradients of mean(out^2), by the names of `heldout forward`."""
    sample = x["sample"].clone().requires_grad_()
    added = {k: x[k] for k in ADDED if k in x}
    rest = {k: v for k, v in x.items() if k not in ("sample", "timestep", *ADDED)}
    if added:
        rest["added_cond_kwargs"] = added
    if isinstance(model, diffusers.UNet2DConditionModel):
        rest.setdefault("encoder_hidden_states", None)
    model.zero_grad(set_to_none=True)
    out = model(sample, x["timestep"], **rest).sample
    out.square().mean().backward()
    grads = {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"sample": out.detach(), "grad.sample": sample.grad, **grads}


def difference(ours, theirs):
    """Largest difference of tensors by name; what only one has counts as zeros there."""
    worst = 0.0
    for name in ours.keys() | theirs.keys():
        a, b = (t[name].double() if name in t else None for t in (ours, theirs))
        a = torch.zeros_like(b) if a is None else a
        b = torch.zeros_like(a) if b is None else b
        if a.shape != b.shape or not a.isfinite().all():
            return float("inf")
        worst = max(worst, (a - b).abs().max().item() if a.numel() else 0.0)
    return worst


def build(cls, config):
    """A model whose every parameter has a value of its own (norms and some gates start at constants)."""
    model = cls(**config).eval()
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    if cls is diffusers.UNet2DModel:  # the peer leaves the embedding of a class label that is a timestep in f32
        model.time_proj.register_forward_hook(lambda module, args, out: out.to(model.dtype))
    return model


def draw(r, cls, configuration):
    """A random model the peer can run, well enough conditioned that its f32 is near its f64; with what it gives."""
    for _ in range(100):
        config = configuration(r)
        torch.manual_seed(r.randrange(2**31))
        try:
            model = build(cls, config)
            x = inputs(r, model)
            expected = {torch.float32: run(model, cast(x, torch.float32))}
            expected[torch.float64] = run(model.double(), x)
        except (AttributeError, AssertionError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError):
            continue  # a combination of options that the peer refuses
        if difference(*expected.values()) < TOLERANCE[torch.float32] / 4:
            return model, x, expected
    raise RuntimeError(f"no {cls.__name__} that diffusers can run in 100 draws")


def heldout(binary, *arguments, cwd=None):
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, cwd=cwd)
    if done.returncode != 0:
        raise RuntimeError(f"heldout {arguments[0]}: exit {done.returncode}: {done.stderr.strip()[-500:]}")


def check(binary, r, cls, configuration, folder):
    """What held of one random model, in words, and what did not."""
    model, x, expected = draw(r, cls, configuration)
    config = {k: v for k, v in model.config.items() if not k.startswith("_")}
    shards = {"max_shard_size": 20_000} if r.random() < 0.3 else {}
    words, problems = [], []
    for dtype, label in [(torch.float64, "f64"), (torch.float32, "f32")]:
        directory, given, got = (folder / f"{name}_{label}" for name in ("model", "in", "out"))
        model.to(dtype).save_pretrained(directory, **shards)
        save_file({k: v.contiguous() for k, v in cast(x, dtype).items()}, given)
        # The softmax of the peer's attention pool is always f32.
        pool = dtype == torch.float64 and config.get("addition_embed_type") == "text"
        tolerance = 1e-7 if pool else TOLERANCE[dtype]
        try:
            heldout(binary, "forward", directory, "--input", given, "--output", got, "--gradients")
            worst = difference(load_file(got), expected[dtype])
            words.append(f"{label} {worst:.1e}")
            if not worst <= tolerance:
                problems.append(f"{label} differs by {worst:.1e}")
        except RuntimeError as e:
            problems.append(str(e))
    try:
        heldout(binary, "export", folder / "model_f32", "--out", folder / "export")
        back, info = cls.from_pretrained(folder / "export", output_loading_info=True)
        if any(info.values()):
            problems.append(f"export: {info}")
        elif not torch.equal(run(back.eval(), cast(x, torch.float32))["sample"], expected[torch.float32]["sample"]):
            problems.append("export: another output")
        else:
            words.append("export same")
    except (OSError, RuntimeError, ValueError) as e:
        problems.append(f"export: {e}")
    if problems:
        problems.append(json.dumps(config))
    return words, problems


TINY = """
name = "tiny"
question = "Does it leave?"
seeds = [0]
arms = { base = {} }
data = { name = "digits", split = { held_out = 64, n_train = 500, seed = 0 } }
schedule = { kind = "cosine", steps = 100 }
objective = { prediction = "v", weighting = { kind = "min_snr", gamma = 5.0 } }
sample = { sampler = { kind = "ddim", eta = 0.0 }, steps = 5, samples = 8, batch_size = 8 }
monitor = { every = 10, samples = 4, sampling_steps = 3 }
checkpoint = { every = 5, keep = 3 }
validation = { every = 10, images = 8, log_snr = [-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0] }

[train]
steps = 10
batch_size = 16
optimizer = { kind = "adam_w", betas = [0.9, 0.99], eps = 1e-8, weight_decay = 0.01 }
learning_rate = { peak = 2e-3, warmup_steps = 5, decay = "cosine" }
non_finite = "stop"
log_every = 7
"""
UNET = """
[model]
kind = "unet"
in_channels = 1
out_channels = 1
block_out_channels = [8, 8]
layers_per_block = 1
attention = [false, true]
mid_attention = false
attention_head_dim = 4
norm_num_groups = 4
norm_eps = 1e-5
dropout = 0.1
"""
DIT = """
[latent]
autoencoder = "vae"

[model]
kind = "DiTTransformer2DModel"
num_attention_heads = 2
attention_head_dim = 4
in_channels = 2
out_channels = 2
num_layers = 2
sample_size = 4
patch_size = 2
num_embeds_ada_norm = 10
"""


def pipeline(binary, folder, recipe, module, sample, call):
    """Largest difference of the images of an arm that was exported as a pipeline, from the same noise."""
    (folder / "tiny.toml").write_text(TINY + recipe)
    heldout(binary, "train", "tiny.toml", "--out", "run", cwd=folder)
    heldout(binary, "export", "run/arms/base-seed0", "--out", "pipe", "--pipeline", cwd=folder)
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder / "pipe")
    pipe.set_progress_bar_config(disable=True)
    tape = []

    def draw(shape, **_):
        tape.append(torch.randn(shape))
        return tape[-1]

    torch.manual_seed(0)
    modules = [module, diffusers.schedulers.scheduling_ddpm]
    drawn = [m.randn_tensor for m in modules]
    for m in modules:
        m.randn_tensor = draw
    try:
        theirs = call(pipe).images
    finally:
        for m, original in zip(modules, drawn):
            m.randn_tensor = original
    noise, rest = {"initial": tape[0]}, tape[1:]
    if rest:  # the last step draws nothing
        noise["steps"] = torch.stack(rest + [torch.zeros_like(tape[0])] * (STEPS - len(rest)))
    save_file(noise, folder / "noise")
    sample = [*sample, "--steps", STEPS, "--noise", "noise", "--tensors"]
    heldout(binary, "sample", "pipe", *sample, "--out", "images", cwd=folder)
    ours = load_file(folder / "images" / "images.safetensors")["images"]
    return difference({"images": ours}, {"images": theirs * 2 - 1})


def pipelines(binary, folder):
    """What held of whole pipelines: a line each, and whether it held."""
    options = dict(num_inference_steps=STEPS, output_type="pt")
    vae = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        latent_channels=2,
        norm_num_groups=4,
        scaling_factor=0.7,
        shift_factor=0.1,
    )
    ddpm, dit = diffusers.pipelines.ddpm.pipeline_ddpm, diffusers.pipelines.dit.pipeline_dit
    classes = ["--class", 7, "--class", 3, "--guidance", 1]  # guidance of the peer takes class 1000 for none
    cases = [
        ("DDPMPipeline", UNET, ddpm, ["--n", 2], lambda p: p(batch_size=2, **options)),
        ("DiTPipeline", DIT, dit, classes, lambda p: p([7, 3], guidance_scale=1.0, **options)),
    ]
    for name, recipe, module, sample, call in cases:
        place = folder / name
        vae.save_pretrained(place / "vae")
        try:
            off = pipeline(binary, place, recipe, module, sample, call)
            yield name, f"images {off:.1e}", off <= IMAGES
        except (OSError, RuntimeError, ValueError) as e:
            yield name, str(e), False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heldout", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Initializing zero-element tensors")

    failed = False
    for cls, configuration in [
        (diffusers.UNet2DModel, unet2d),
        (diffusers.UNet2DConditionModel, unet2d_condition),
        (diffusers.DiTTransformer2DModel, dit),
    ]:
        for number in range(options.rounds):
            r = random.Random(f"{options.seed} {cls.__name__} {number}")
            with tempfile.TemporaryDirectory() as folder:
                words, problems = check(options.heldout.resolve(), r, cls, configuration, Path(folder))
            failed |= bool(problems)
            print("FAIL" if problems else "ok  ", cls.__name__, number, *words, *problems, sep="  ", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, words, held in pipelines(options.heldout.resolve(), Path(folder)):
            failed |= not held
            print("ok  " if held else "FAIL", name, words, sep="  ", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
