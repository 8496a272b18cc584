"""Times torch-fidelity's KID and scipy's route to FID (numpy moments, sqrtm) on the problem of features.rs.

The number of threads is that of OMP_NUM_THREADS and OPENBLAS_NUM_THREADS; RAYON_NUM_THREADS is the other side's.
"""

import time
import warnings

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch_fidelity.metric_kid import kid_features_to_metric

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
x, y = (rng.random((4000, 2048), dtype=np.float32) for _ in range(2))


def kid():
    settings = dict(kid_subsets=100, kid_subset_size=1000, verbose=False)
    return kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), **settings)


def fid():
    (m1, s1), (m2, s2) = ((a.mean(0), np.cov(a.astype(np.float64), rowvar=False)) for a in (x, y))
    return ((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(sqrtm(s1 @ s2)).real


for f in (kid, fid):
    start = time.perf_counter()
    f()
    print(f"{f.__name__}: {time.perf_counter() - start:.1f} s")
