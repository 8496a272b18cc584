"""Small programs in TorchScript of torch 2.13.0: one that answers with features, logits and a map, one whose answer is no
vector, and what the first says of two images."""

from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
torch.manual_seed(0)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.head = torch.nn.Linear(4, 5)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, images: torch.Tensor, doubled: bool = False):
        maps = self.conv(images)
        features = self.drop(maps.mean(dim=(2, 3), keepdim=True)) * (2.0 if doubled else 1.0)
        return features, self.head(features.flatten(1)), maps


class Maps(torch.nn.Module):
    def forward(self, images: torch.Tensor):
        return images[:, :, ::2, ::2]


network = Network()
torch.jit.save(torch.jit.script(network), HERE / "network.pt")
torch.jit.save(torch.jit.script(Maps()), HERE / "maps.pt")
network.eval()
images = torch.rand(2, 3, 6, 6)
with torch.no_grad():
    features, logits, maps = network(images * 255 / 128 - 127 / 128, True)
tensors = {"images": images, "features": features.flatten(1), "logits": logits, "spatial": maps.flatten(1)}
save_file({k: v.contiguous() for k, v in tensors.items()}, HERE / "torchscript.safetensors")
