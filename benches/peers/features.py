"""EfficientNet-Lite0 beside timm's in eager torch 2.13.0: the same libtorch, batch and number of threads, one process each, in
turn. Prints the ratio ours / theirs of time and of peak memory, median and range of the rounds. timm's weights are random: the
features are compared elsewhere, by the golden files of heldout-features.

    cargo xtask datasets fetch efficientnet-lite0
    cargo build -p heldout-benches
    python3 benches/peers/features.py WEIGHTS.safetensors [rounds]"""

import sys

from backbones import OURS, THREADS, compare, timed
from latents import finish

FEATURES = OURS.with_name("features")
ROWS, REPEATS = 32, 5


def theirs():
    import timm
    import torch

    torch.set_num_threads(THREADS)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    images = torch.rand(ROWS, 3, 224, 224)
    with torch.no_grad():
        finish(timed(REPEATS, lambda: network(images)))


def main():
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    ours = [FEATURES, sys.argv[1], ROWS, REPEATS]
    compare("EfficientNet-Lite0", rounds, ours, [sys.executable, __file__, "theirs"])


if __name__ == "__main__":
    theirs() if sys.argv[1:] == ["theirs"] else main()
