"""Edges of scikit-image 0.26 and filters of scipy, of smooth and of noisy images."""

from pathlib import Path

import numpy as np
import scipy
import skimage
import torch
from safetensors.torch import save_file

rng = np.random.default_rng(0)
rows, columns = np.mgrid[0:32, 0:28]
smooth = 0.5 + 0.5 * np.sin(rows / 5) * np.cos(columns / 7 + rows / 11)
disc = ((rows - 14) ** 2 + (columns - 16) ** 2 < 90).astype(float)
images = np.stack([smooth, disc, 0.6 * disc + 0.3 * smooth + 0.1 * rng.random(disc.shape),
                   scipy.ndimage.gaussian_filter(rng.random(disc.shape), 1.5) * 2 - 0.5]).clip(0, 1).astype(np.float32)
tensors = {"grey": images}
for name, sigma, low, high in [("default", 1.0, 0.1, 0.2), ("wide", 2.0, 0.05, 0.4)]:
    edges = [skimage.feature.canny(i, sigma=sigma, low_threshold=low, high_threshold=high) for i in images]
    tensors[f"canny.{name}"] = np.stack(edges).astype(np.uint8)
sobel = [np.hypot(scipy.ndimage.sobel(i, 0), scipy.ndimage.sobel(i, 1)) for i in images]
tensors["sobel"] = np.stack(sobel)
weight = scipy.ndimage.gaussian_filter(np.ones_like(images[0]), 2.0, mode="constant")
tensors["gaussian"] = np.stack([scipy.ndimage.gaussian_filter(i, 2.0, mode="constant") / weight for i in images])
folder = Path(__file__).parent
save_file({n: torch.from_numpy(t)[:, None].contiguous() for n, t in tensors.items()}, folder / "hints.safetensors")
