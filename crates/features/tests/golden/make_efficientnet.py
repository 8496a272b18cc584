"""EfficientNet-Lite0 by numpy on the published weights, on three photographs of scikit-image (all public domain or CC0)
cut to 56x56 and repeated to 224x224, so that no rule of resizing enters. Needs the weights in the cache:
cargo xtask datasets fetch efficientnet-lite0"""

import os
from pathlib import Path

import numpy as np
import skimage
from PIL import Image
from safetensors.numpy import load_file, save_file

cache = os.environ.get("HELDOUT_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "heldout"
)
weights = {k: v.astype(np.float64) for k, v in load_file(f"{cache}/networks/efficientnet-lite0.safetensors").items()}
HALVING = {1, 3, 5, 11}


def norm(x, name):
    mean, variance, scale, shift = (
        weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(variance + 1e-3) * scale + shift


def relu6(x):
    return np.clip(x, 0, 6)


def windows(x, kernel, stride):
    """[C, H, W] to [C, H', W', kernel, kernel], with TensorFlow's padding."""
    out = -(-x.shape[1] // stride)
    missing = max((out - 1) * stride + kernel - x.shape[1], 0)
    x = np.pad(x, ((0, 0), (missing // 2, missing - missing // 2), (missing // 2, missing - missing // 2)))
    return np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]


def conv(x, name, stride=1):
    w = weights[f"{name}.weight"]
    return np.einsum("chwij,ocij->ohw", windows(x, w.shape[-1], stride), w, optimize=True)


def depthwise(x, name, stride):
    w = weights[f"{name}.weight"][:, 0]
    return np.einsum("chwij,cij->chw", windows(x, w.shape[-1], stride), w, optimize=True)


def network(x):
    x = relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    for i in range(16):
        at, y = f"_blocks.{i}", x
        if f"{at}._expand_conv.weight" in weights:
            y = relu6(norm(conv(y, f"{at}._expand_conv"), f"{at}._bn0"))
        y = relu6(norm(depthwise(y, f"{at}._depthwise_conv", 2 if i in HALVING else 1), f"{at}._bn1"))
        y = norm(conv(y, f"{at}._project_conv"), f"{at}._bn2")
        x = x + y if x.shape == y.shape else y
    features = relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((1, 2))
    return features, weights["_fc.weight"] @ features + weights["_fc.bias"]


def photograph(name):
    image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)).resize((56, 56), Image.BICUBIC))


images = np.stack([photograph(name).transpose(2, 0, 1) for name in ("astronaut.png", "chelsea.png", "rocket.jpg")])
found = [network((x.repeat(4, 1).repeat(4, 2).astype(np.float64) - 127) / 128) for x in images]
tensors = {
    "images": images,
    "features": np.stack([f for f, _ in found]).astype(np.float32),
    "logits": np.stack([l for _, l in found]).astype(np.float32),
}
save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, Path(__file__).parent / "efficientnet.safetensors")
