"""Images of other sizes by Pillow, in floats and so without rounding to bytes, and by torch's interpolate without
antialiasing."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

rng = np.random.default_rng(0)
image = rng.random((3, 20, 26)).astype(np.float32)
tensors = {"image": image}
for name, rule in [("bicubic", Image.BICUBIC), ("bilinear", Image.BILINEAR)]:
    for height, width in [(7, 9), (23, 29), (12, 40)]:
        channels = [np.asarray(Image.fromarray(c, "F").resize((width, height), rule)) for c in image]
        tensors[f"{name}.{height}x{width}"] = np.stack(channels).clip(0, 1)
plain = torch.nn.functional.interpolate(torch.tensor(image)[None], size=(7, 9), mode="bilinear")[0]
tensors["bilinear_no_antialias.7x9"] = plain.numpy()
save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, Path(__file__).parent / "images.safetensors")
