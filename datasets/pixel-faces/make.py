"""Packs what render.mjs rendered.

    npm install @dicebear/core@9.4.3 @dicebear/collection@9.4.3 @resvg/resvg-js
    node datasets/pixel-faces/render.mjs OUT && python3 datasets/pixel-faces/make.py OUT
"""

import gzip
import sys
from pathlib import Path

import numpy as np

here = Path(__file__).parent
sys.path.insert(0, str(here.parent))
from idx import write_dataset  # noqa: E402

rendered = Path(sys.argv[1])
images = np.frombuffer((rendered / "images.rgb").read_bytes(), np.uint8).reshape(-1, 16, 16, 3)
csv = (rendered / "attributes.csv").read_bytes()
(here / "attributes.csv.gz").write_bytes(gzip.compress(csv, compresslevel=9, mtime=0))

write_dataset(
    here, images, None, {"attributes": "attributes.csv.gz"},
    name="pixel-faces", title="DiceBear pixel-art faces, 16x16",
    source="npm packages @dicebear/core and @dicebear/collection 9.4.3, style pixel-art", license="CC0-1.0",
)
