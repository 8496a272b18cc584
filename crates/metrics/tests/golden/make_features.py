"""Metrics of feature matrices by pytorch-fid 0.3.0, scipy 1.17.1, torch-fidelity 0.4.0, torchmetrics 1.9.0, vendi-score 0.0.3
and scikit-image 0.26; CMMD, C_T and FLD, which no package has, by their definitions in numpy.
"""

from pathlib import Path

import numpy as np
import torch
from pytorch_fid.fid_score import calculate_frechet_distance
from safetensors.numpy import save_file
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from scipy.stats import mannwhitneyu
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.mifid import _mifid_compute
from vendi_score import vendi

rng = np.random.default_rng(0)
out = {}


def moments(x):
    return x.mean(0), np.cov(x, rowvar=False)


def frechet(name, x, y):
    (m1, s1), (m2, s2) = moments(x), moments(y)
    out[f"{name}.pytorch_fid"] = calculate_frechet_distance(m1, s1, m2, s2)
    root = np.trace(sqrtm(s1 @ s2)).real
    out[f"{name}.scipy"] = (m1 - m2) @ (m1 - m2) + np.trace(s1) + np.trace(s2) - 2 * root


# Full rank, rank-deficient on one side and on both, and with a feature that is always 0.
mix = rng.normal(size=(12, 12))
x, y = rng.normal(size=(60, 12)) @ mix + 3, rng.gamma(2.0, size=(80, 12)) @ mix
few, fewer = rng.normal(size=(25, 40)) + 0.3, rng.gamma(2.0, size=(30, 40))
many = rng.gamma(2.0, size=(70, 40))
dead_x, dead_y = x.copy(), y.copy()
dead_x[:, 4] = dead_y[:, 4] = 0
pairs = dict(full=(x, y), few=(few, fewer), few_many=(few, many), many_few=(many, few), dead=(dead_x, dead_y))
for name, (a, b) in pairs.items():
    out[f"{name}.x"], out[f"{name}.y"] = a, b
    frechet(name, a, b)
    frechet(f"{name}.f32", a.astype(np.float32).astype(np.float64), b.astype(np.float32).astype(np.float64))


def kid(a, b):
    settings = dict(kid_subsets=1, kid_subset_size=len(a), verbose=False)
    return kid_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), **settings)[
        "kernel_inception_distance_mean"
    ]


out["kid"] = kid(x, y[:60])


def unit(a):
    return a / np.linalg.norm(a, axis=1, keepdims=True)


def cmmd(a, b):
    kernel = lambda p, q: np.exp(-cdist(p, q, "sqeuclidean") / (2 * 10**2)).mean()
    a, b = unit(a), unit(b)
    return 1000 * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))


out["cmmd"] = cmmd(x, y)

score = isc_features_to_metric(torch.from_numpy(x), splits=7, shuffle=False)
out["inception_score"] = np.array([score["inception_score_mean"], score["inception_score_std"]])

for name, a in dict(full=x, few=few).items():
    out[f"{name}.vendi"] = vendi.score_X(unit(a), normalize=False)

# Copies, so that the cosine distance is below the threshold.
copies = np.concatenate([y[:40] + 0.01 * rng.normal(size=(40, 12)), y[:20] + 0.05 * rng.normal(size=(20, 12))])
out["copies"] = copies
for name, generated in dict(copies=copies, fresh=x).items():
    t = lambda a: torch.from_numpy(a)
    # torchmetrics looks for the nearest of its second set for each row of the first.
    both = [[t(a) for a in (*moments(s), s)] for s in (y, generated)]
    out[f"{name}.mifid_train"] = _mifid_compute(*both[0], *both[1]).numpy()
    out[f"{name}.mifid_generated"] = _mifid_compute(*both[1], *both[0]).numpy()


def data_copying(generated, train, held_out, labels, threshold):
    total, weight = 0.0, 0.0
    for cell in range(3):
        g, t, h = ([s[l == cell] for s, l in zip((generated, train, held_out), labels)])
        if len(g) / len(generated) <= threshold:
            continue
        lq, lp = cdist(g, t).min(1), cdist(h, t).min(1)
        m, n = len(g), len(h)
        u = mannwhitneyu(lq, lp, method="asymptotic").statistic
        z = (u - (n * m / 2 - 0.5)) / np.sqrt(n * m * (n + m + 1) / 12)
        total += n / len(held_out) * z
        weight += n / len(held_out)
    return total / weight


train, held_out, generated = (rng.normal(size=(n, 6)) for n in (90, 60, 50))
generated[:20] = train[:20] + 0.02 * rng.normal(size=(20, 6))
held_out[:3] = train[:3]
generated[3:6] = train[3:6]  # ties at distance 0
centers = rng.normal(size=(3, 6))
labels = [cdist(s, centers).argmin(1) for s in (generated, train, held_out)]
out |= dict(train=train, held_out=held_out, generated=generated)
out |= {f"labels.{n}": l.astype(np.int64) for n, l in zip(("generated", "train", "held_out"), labels)}
out["c_t"] = data_copying(generated, train, held_out, labels, 0.0)
smallest = min(np.mean(labels[0] == k) for k in range(3))
out["c_t.threshold"] = smallest
out["c_t.without"] = data_copying(generated, train, held_out, labels, smallest)


def fit(centers, data):
    """Logarithms of the variances of a mixture around centers, and the number of epochs."""
    d = data.shape[1]
    squared = cdist(data, centers, "sqeuclidean")
    origin = 0.81 * ((data - data.mean(0)) ** 2).sum(1)
    p = np.append(np.log((squared.min(0) + 1e-3) / d), 0.0)
    m, v, losses = np.zeros_like(p), np.zeros_like(p), []
    distances = np.column_stack([squared, origin])
    weights = np.append(np.full(len(centers), -np.log(len(centers))), 0.0)
    for step in range(1, 51):
        logs = -0.5 * distances / np.exp(p) - d / 2 * p - d / 2 * np.log(2 * np.pi) + weights
        total = logsumexp(logs, axis=1)
        losses.append(-total.mean() / d)
        shares = np.exp(logs - total[:, None])
        g = -(shares * (0.5 * distances / np.exp(p) - d / 2)).sum(0) / len(data) / d
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - 0.5 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        p[:-1] = p[:-1].clip(-40, 40)
        if step > 6 and max(abs(losses[-1] - losses[-j]) for j in range(1, 6)) < 5e-4:
            break
    return p[:-1], step


def nll(x, centers, logs):
    d = x.shape[1]
    all_logs = -0.5 * cdist(x, centers, "sqeuclidean") / np.exp(logs) - d / 2 * (logs + np.log(2 * np.pi))
    return -logsumexp(all_logs - np.log(len(centers)), axis=1) / d


mean, std = held_out.mean(0), held_out.std(0, ddof=1)
for name, samples in dict(copies=generated, fresh=rng.normal(size=(50, 6))).items():
    g, t, h = ((s - mean) / std for s in (samples, train, held_out))
    logs, epochs = fit(g, t)
    print(f"FLD of {name}: {epochs} epochs")
    out[f"fld.{name}.samples"] = samples
    out[f"fld.{name}"] = 100 * (nll(h, g, logs).mean() - 1.3)
    out[f"fld.{name}.gap"] = 100 * (nll(t, g, logs).mean() - nll(h, g, logs).mean())

originals = rng.random((3, 2, 20, 24)).astype(np.float32)
images = (originals + 0.1 * rng.normal(size=originals.shape) * np.arange(1, 4)[:, None, None, None]).astype(np.float32)
out |= dict(images=images, originals=originals)
settings = dict(
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=0
)
a, b = images.astype(np.float64), originals.astype(np.float64)
out["ssim"] = np.array([structural_similarity(p, q, **settings) for p, q in zip(a, b)])
out["psnr"] = np.array([peak_signal_noise_ratio(q, p, data_range=1.0) for p, q in zip(a, b)])
out["psnr.pooled"] = peak_signal_noise_ratio(b, a, data_range=1.0)

tensors = {k: np.ascontiguousarray(np.atleast_1d(v)) for k, v in out.items()}
save_file(tensors, Path(__file__).parent / "features.safetensors")
