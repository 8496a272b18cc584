"""Precision, recall, density and coverage by prdc 0.2 (`<`) and torch-fidelity 0.4.0 (`<=`, precision and recall); AuthPct,
f_mem, Carlini's distance and realism by their definitions in numpy, f64.

Whole numbers give exact ties, and squared distances that every order of summation finds alike."""

import contextlib
import io
import os
from pathlib import Path

import numpy as np
import torch
os.environ["PYTHONWARNINGS"] = "ignore"  # those of prdc's workers
from prdc import compute_prdc
from safetensors.numpy import save_file
from torch_fidelity.metric_prc import prc_features_to_metric

rng = np.random.default_rng(6)


def lcg(n, seed):
    x, out = seed, np.empty(n)
    for i in range(n):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        out[i] = (x >> 11) / 2**53
    return out


def features(n, d, seed, scale, shift):
    return (lcg(n * d, seed).reshape(n, d) - 0.5) * scale + shift


def cases():
    train, generated = features(200, 16, 1, 2.0, 0.0), features(150, 16, 2, 1.9, 0.05)
    generated[:20] = train[:20] + 0.01 * (lcg(20 * 16, 4).reshape(20, 16) - 0.5)
    yield "lcg", train, generated
    train, generated = rng.normal(size=(120, 40)), rng.normal(size=(90, 40)) * 0.9
    generated[:15] = train[:15] + 0.02 * rng.normal(size=(15, 40))
    yield "f64", train, generated
    yield "f32", (train + 5).astype(np.float32), (generated + 5).astype(np.float32)
    yield "deficient", train @ rng.normal(size=(40, 3)) @ np.eye(3, 50), generated[:, :3] @ np.eye(3, 50)
    train, generated = rng.integers(0, 3, size=(110, 6)), rng.integers(0, 3, size=(130, 6))
    generated[:30] = train[:30]
    train[50:70] = train[:20]
    yield "ties", train.astype(np.float32), generated.astype(np.float32)


def squared(a, b):
    return ((a[:, None].astype(np.float64) - b[None].astype(np.float64)) ** 2).sum(2)


out = {}
for name, train, generated in cases():
    for k in (3, 5):
        with contextlib.redirect_stdout(io.StringIO()):
            p = compute_prdc(train, generated, nearest_k=k)
        out[f"{name}.open{k}"] = np.array([p[m] for m in ("precision", "recall", "density", "coverage")])
        if name != "ties":  # its distances are products in f32 or f64, whose roundings decide ties
            q = prc_features_to_metric(
                torch.from_numpy(generated), torch.from_numpy(train),
                prc_neighborhood=k, prc_batch_size=10000, save_cpu_ram=False, verbose=False,
            )
            out[f"{name}.closed{k}"] = np.array([q["precision"], q["recall"]])
    cross, within = squared(train, generated), squared(train, train)
    np.fill_diagonal(within, np.inf)
    auth = 100 * np.mean(within.min(0)[cross.argmin(0)] < cross.min(0))
    d = np.sqrt(np.sort(squared(generated, np.unique(train, axis=0)), axis=1))
    nearest = np.sqrt(np.sort(cross.T, axis=1)[:, :50])
    carlini = nearest[:, 0] / (0.5 * nearest.mean(1))
    radius = np.sqrt(np.sort(within, axis=1)[:, 4])
    with np.errstate(divide="ignore"):
        ratio = radius[:, None] / np.sqrt(cross)
    realism = np.median(np.where((radius <= np.median(radius))[:, None], ratio, 0).max(0))
    out[f"{name}.numpy"] = np.array(
        [auth, np.mean(d[:, 0] < d[:, 1] / 3), np.mean(carlini < 1), carlini.min(), realism]
    )
    if name != "lcg":
        out |= {f"{name}.train": train, f"{name}.generated": generated}

path = Path(__file__).parent / "neighbors.safetensors"
save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, path)
