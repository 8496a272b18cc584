"""A training step that encodes every batch beside one with latents from disk: `heldout cost` in turns within one process.

    cargo build -p heldout-lab
    python3 benches/peers/cached.py [case ..]

Cases: faces (pixel-faces at 16x16 by its recipe's autoencoder, quickstart's UNet), dit (256 pixels by KL-f8 with random
weights, DiT-S/2, as Peebles and Xie 2023 have it)."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from backbones import HELDOUT, THREADS
from latents import make

QUICKSTART = "model.in_channels=4", "model.out_channels=4"
DIT = ('model={kind="dit", in_channels=4, out_channels=4, sample_size=32, patch_size=2, depth=12, width=384, heads=6, num_classes=0, label_dropout=0.0}',)
# Sets of the recipe, turns, steps of a turn.
CASES = {
    "faces": (('data.name="pixel-faces"', "data.split={held_out=500, n_train=1000, seed=0}", *QUICKSTART), 9, 5),
    "dit": (("data.split={held_out=4, n_train=4, seed=0}", "train.batch_size=4", "sample.batch_size=4", *DIT), 3, 1),
}


def heldout(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    return subprocess.run([HELDOUT, *map(str, arguments)], check=True, env=environment)


def options(sets):
    return [part for text in sets for part in ("--set", text)]


def images(folder, n):
    """Writes pictures of smooth noise of 256 pixels."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    for i in range(n):
        coarse = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{i}.png")


def main():
    for name in sys.argv[1:] or CASES:
        sets, rounds, steps = CASES[name]
        with tempfile.TemporaryDirectory() as place:
            place = Path(place)
            autoencoder = place / "run/autoencoder"
            if name == "faces":
                few = "train.steps=20", "data.split.n_train=1000"
                heldout("train-autoencoder", "pixel-faces", "--out", place / "run", *options(few))
            else:
                make("kl-f8", autoencoder)
                images(place / "images", 8)
                sets = (f'data.name="{place}/images"', *sets)
            sets = (f'latent.autoencoder="{autoencoder}"', f'latent.cache="{place}/latents"', *sets)
            anew = place / f"{name}-encoded-anew.toml"
            anew.write_text("[latent]\ncached = false\n")
            heldout("cost", "quickstart", "--with", anew, "--rounds", rounds, "--steps", steps, *options(sets))


if __name__ == "__main__":
    main()
