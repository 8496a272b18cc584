"""Writes IDX files and the dataset.toml beside them; the generators in the folders below use it."""

import gzip
import hashlib
import json
import struct
from pathlib import Path

import numpy as np


def write_idx(path: Path, array: np.ndarray) -> str:
    """Gzipped IDX of unsigned bytes, the same bytes at every run; gives the file's SHA-256."""
    assert array.dtype == np.uint8
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_dataset(folder: Path, images: np.ndarray, labels: np.ndarray | None, extra_files: dict, **fields) -> None:
    """`images.idx.gz`, `labels.idx.gz`, `dataset.toml`; `extra_files` maps keys of dataset.toml to file names.

    Images are `[N, H, W]` or `[N, H, W, 3]`; with `frames` among the fields they are grey clips `[N, T, H, W]`.
    """
    files = {"images": "images.idx.gz"}
    sums = {"images.idx.gz": write_idx(folder / "images.idx.gz", images)}
    if labels is not None:
        files["labels"] = "labels.idx.gz"
        sums["labels.idx.gz"] = write_idx(folder / "labels.idx.gz", labels.astype(np.uint8))
    for key, name in extra_files.items():
        files[key] = name
        sums[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    count, height, width, *channels = (images[:, 0] if "frames" in fields else images).shape
    shape = dict(count=count, height=height, width=width, channels=channels[0] if channels else 1)
    classes = {"classes": fields.pop("classes")} if "classes" in fields else {}
    lines = [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in (fields | files | shape | classes).items()]
    lines += ["", "[sha256]"] + [f'"{k}" = "{v}"' for k, v in sums.items()]
    (folder / "dataset.toml").write_text("\n".join(lines) + "\n")
