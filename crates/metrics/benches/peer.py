"""Times scikit-learn's brute force and numpy in f64 on the problem of nearest.rs."""

import time

import numpy as np
from sklearn.neighbors import NearestNeighbors

rng = np.random.default_rng(0)
train, samples = rng.random((8192, 256), dtype=np.float32), rng.random((256, 256), dtype=np.float32)


def numpy64():
    a, b = samples.astype(np.float64), train.astype(np.float64)
    d = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
    return np.partition(d, 1, axis=1)[:, :2]


def sklearn():
    return NearestNeighbors(n_neighbors=2, algorithm="brute").fit(train).kneighbors(samples)


for f in (numpy64, sklearn):
    f()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    print(f"{f.__name__}: {min(times) * 1e3:.1f} to {max(times) * 1e3:.1f} ms")
