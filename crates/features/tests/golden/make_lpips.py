"""LPIPS 0.1.4 with narrow random trunks and heads: distances, and the gradient of their sum with regard to the first image.

The package's own forward pass runs; its convolutions and heads are replaced by ones a small part as wide, so that the
files are small."""

import warnings
from pathlib import Path

import lpips
import torch
from safetensors.torch import save_file

warnings.simplefilter("ignore")
folder = Path(__file__).parent
torch.manual_seed(0)
out = {}
for net, share in (("alex", 8), ("vgg", 16)):
    peer = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    trunk, width = {}, 3
    for name, module in list(peer.net.named_modules()):
        if isinstance(module, torch.nn.Conv2d):
            narrow = torch.nn.Conv2d(
                width, module.out_channels // share, module.kernel_size, module.stride, module.padding
            )
            width = narrow.out_channels
            parent, place = name.rsplit(".", 1)
            setattr(peer.net.get_submodule(parent), place, narrow)
            trunk |= {f"features.{place}.{k}": v for k, v in narrow.state_dict().items()}
    heads = {}
    for i, lin in enumerate(peer.lins):
        narrow = torch.nn.Conv2d(peer.chns[i] // share, 1, 1, bias=False)
        torch.nn.init.uniform_(narrow.weight)
        lin.model[-1] = narrow
        heads[f"lin{i}.model.1.weight"] = narrow.weight.data
    a, b = torch.rand(2, 3, 48, 40, requires_grad=True), torch.rand(2, 3, 48, 40)
    distance = peer(a, b, normalize=True)
    (gradient,) = torch.autograd.grad(distance.sum(), a)
    out |= {f"{net}.a": a, f"{net}.b": b, f"{net}.distance": distance.flatten(), f"{net}.gradient": gradient}
    for part, tensors in (("trunk", trunk), ("heads", heads)):
        tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
        save_file(tensors, folder / f"lpips_{net}_{part}.safetensors")
save_file({k: v.detach().contiguous() for k, v in out.items()}, folder / "lpips.safetensors")
