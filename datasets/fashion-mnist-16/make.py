"""The first 12,000 training images of Fashion-MNIST at 16x16. Needs Debian's package dataset-fashion-mnist.

    python3 datasets/fashion-mnist-16/make.py [FOLDER WITH THE ORIGINALS]
"""

import gzip
import sys
from pathlib import Path

import numpy as np

here = Path(__file__).parent
sys.path.insert(0, str(here.parent))
from idx import write_dataset  # noqa: E402

source = Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist")
read = lambda name, skip: np.frombuffer(gzip.open(source / name).read(), np.uint8, offset=skip)
images = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[:12000]
labels = read("train-labels-idx1-ubyte.gz", 8)[:12000]

# A border of 2 makes 32x32, whose 2x2 means are exact in integers: no resampling filter to argue about.
wide = np.pad(images.astype(np.int32), ((0, 0), (2, 2), (2, 2)))
small = (wide[:, ::2, ::2] + wide[:, 1::2, ::2] + wide[:, ::2, 1::2] + wide[:, 1::2, 1::2] + 2) // 4

write_dataset(
    here, small.astype(np.uint8), labels, {},
    name="fashion-mnist-16", title="Fashion-MNIST, 16x16",
    source="Debian package dataset-fashion-mnist, training images 0 to 11999", license="MIT",
    classes=["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
)
