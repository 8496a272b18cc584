"""Distances to the nearest and second-nearest reference and the memorised fraction, by numpy in f64."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

rng = np.random.default_rng(0)
references = rng.normal(size=(100, 32)).astype(np.float32)
noise = rng.normal(size=(60, 32)) * np.linspace(0.01, 1.0, 60)[:, None]
queries = (references[:60] + noise).astype(np.float32)
distances = np.linalg.norm(queries[:, None].astype(np.float64) - references[None].astype(np.float64), axis=2)
d1, d2 = np.sort(distances, axis=1)[:, :2].T
f_mem = np.array([np.mean(d1 / d2 < 1 / 3)])
tensors = dict(queries=queries, references=references, d1=d1, d2=d2, f_mem=f_mem)
save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, Path(__file__).parent / "f_mem.safetensors")
