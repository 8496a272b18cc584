"""The 1,797 digits of datasets/digits, each moving over a canvas of 16x16 for 8 frames. Needs the Python package numpy.

    python3 datasets/moving-digits/make.py
"""

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np

FRAMES, SIDE, CANVAS, FASTEST = 8, 8, 16, 1
ROOM = CANVAS - SIDE

here = Path(__file__).parent
sys.path.insert(0, str(here.parent))
from idx import write_dataset  # noqa: E402


def read(name: str, *shape: int) -> np.ndarray:
    file = gzip.decompress((here.parent / "digits" / name).read_bytes())
    return np.frombuffer(file, np.uint8, offset=4 + 4 * file[3]).reshape(-1, *shape)


def motion(index: int) -> tuple[list[int], list[int]]:
    """Start and velocity, pixels and pixels a frame as (y, x): a function of the index."""
    drawn = hashlib.sha256(f"heldout-moving-{index:05}".encode()).digest()
    start = [int.from_bytes(drawn[i : i + 4], "big") % (ROOM + 1) for i in (0, 4)]
    directions = (2 * FASTEST + 1) ** 2 - 1  # every velocity but standing still
    velocity = int.from_bytes(drawn[8:12], "big") % directions
    velocity += velocity >= directions // 2
    return start, [v - FASTEST for v in divmod(velocity, 2 * FASTEST + 1)]


def place(start: int, velocity: int, frame: int) -> int:
    """Reflected by the walls."""
    walked = (start + velocity * frame) % (2 * ROOM)
    return min(walked, 2 * ROOM - walked)


digits, labels = read("images.idx.gz", SIDE, SIDE), read("labels.idx.gz")
clips = np.zeros((len(digits), FRAMES, CANVAS, CANVAS), np.uint8)
for i, digit in enumerate(digits):
    start, velocity = motion(i)
    for t in range(FRAMES):
        y, x = (place(s, v, t) for s, v in zip(start, velocity))
        clips[i, t, y : y + SIDE, x : x + SIDE] = digit

write_dataset(
    here, clips, labels, {},
    name="moving-digits", title="Moving digits, 8 frames of 16x16",
    source="scikit-learn, load_digits (UCI optdigits test set), set in motion", license="BSD-3-Clause",
    frames=FRAMES, classes=[str(d) for d in range(10)],
)
