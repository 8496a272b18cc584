"""Augmentations with fixed parameters, by torchvision 0.28.0 (torch 2.13.0), `torchvision.transforms.v2.functional`.

Every name ends in the parameter of each of the two images.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

torch.manual_seed(0)
images = torch.rand(2, 3, 8, 6)
images[0, :, 0, 0] = 0.5  # Grey, which has no hue.
images[0, :, 0, 1] = 0.0
images[0, :, 0, 2] = torch.tensor([0.7, 0.7, 0.2])  # Two channels that are the largest.


def both(change, first, second):
    return torch.cat([change(images[:1], first), change(images[1:], second)])


def rotated(image, degrees):
    return F.rotate(image, degrees, interpolation=InterpolationMode.BILINEAR)


def padded_and_cut(image, place):
    return F.crop(F.pad(image, [3, 3, 3, 3], padding_mode="reflect"), *place, 8, 6)


tensors = {
    "images": images,
    "rotate 30 -100": both(rotated, 30.0, -100.0),
    "brightness 0.6 1.7": both(F.adjust_brightness, 0.6, 1.7),
    "contrast 0.3 1.8": both(F.adjust_contrast, 0.3, 1.8),
    "contrast of one channel 0.3 1.8": both(lambda x, f: F.adjust_contrast(x[:, :1], f), 0.3, 1.8),
    "saturation 0.2 1.9": both(F.adjust_saturation, 0.2, 1.9),
    "hue 0.3 -0.45": both(F.adjust_hue, 0.3, -0.45),
    "blur 0.7 2": both(lambda x, s: F.gaussian_blur(x, [7, 7], [s, s]), 0.7, 2.0),
    "erase 1 2 4 3, 5 0 3 2": both(lambda x, box: F.erase(x, *box, torch.zeros(1)), (1, 2, 4, 3), (5, 0, 3, 2)),
    "horizontal flip": F.horizontal_flip(images),
    "vertical flip": F.vertical_flip(images),
    "crop 0 5, 6 2": both(padded_and_cut, (0, 5), (6, 2)),
}
save_file({k: v.contiguous() for k, v in tensors.items()}, Path(__file__).parent / "augment.safetensors")
