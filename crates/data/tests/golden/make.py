"""Arrays as numpy 2 and safetensors write them, and what they hold."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

here = Path(__file__).parent
rng = np.random.default_rng(0)
rows = rng.normal(size=(5, 3))
whole = rng.integers(-100, 100, size=(5, 3))
kinds = {
    "f4": rows.astype("<f4"),
    "f8": rows,
    "f8_fortran": np.asfortranarray(rows),
    "f4_big": rows.astype(">f4"),
    "i2_big_fortran": np.asfortranarray(whole.astype(">i2")),
    "i8": whole.astype("<i8"),
    "f2": rows.astype("<f2"),
}
for name, array in kinds.items():
    np.save(here / f"{name}.npy", array)
np.savez(here / "two.npz", features=rows.astype("<f4"), other=whole)
np.savez_compressed(here / "compressed.npz", rows)
images = rng.integers(0, 256, size=(4, 6, 5, 3)).astype(np.uint8)
np.savez(here / "adm.npz", images, np.arange(4))
expected = dict(rows=rows, rows_f4=rows.astype("f4"), rows_f2=rows.astype("f2").astype("f4"), whole=whole.astype("f8"))
planar = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
save_file(expected | dict(images=planar), here / "arrays.safetensors")
