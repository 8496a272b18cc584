"""scikit-learn's 1,797 handwritten digits, 8x8. Needs the Python packages scikit-learn and numpy.

    python3 datasets/digits/make.py
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

here = Path(__file__).parent
sys.path.insert(0, str(here.parent))
from idx import write_dataset  # noqa: E402

digits = load_digits()
# Values 0 to 16 become 0 to 255, rounded half up in integers.
images = (digits.images.astype(np.int32) * 255 * 2 + 16) // 32

write_dataset(
    here, images.astype(np.uint8), digits.target, {},
    name="digits", title="Optical digits, 8x8", source="scikit-learn, load_digits (UCI optdigits test set)",
    license="BSD-3-Clause", classes=[str(d) for d in range(10)],
)
