"""Paired t tests, bootstraps and lines by scipy, Holm's adjustment by statsmodels; peers.json says which versions.

The bootstrap is there twice: the distribution of all n^n resamples by numpy (`all`: its 2.5th and 97.5th percentiles, by the
inverse of its distribution function), and scipy's by drawing. What is drawn is known up to the error of 400,000 draws, so scipy
gives each end at tails of 2.4 % and 2.6 % (`drawn`): four standard errors, sqrt(0.025 * 0.975 / 400000) = 0.025 %, to either side.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import scipy
import statsmodels
from scipy import stats
from scipy.special import gamma
from statsmodels.stats.multitest import multipletests

rng = np.random.default_rng(0)


def bootstrap(d, tail):
    found = stats.bootstrap(
        (d,), np.mean, n_resamples=400_000, confidence_level=1 - 2 * tail, method="percentile", batch=20_000, rng=1
    ).confidence_interval
    return [found.low, found.high]


def paired(n, shift, spread, offset):
    baseline = offset + spread * rng.normal(size=n)
    arm = baseline + shift + spread * rng.normal(size=n)
    test, d, m = stats.ttest_rel(arm, baseline), arm - baseline, n - 1
    interval = test.confidence_interval(0.95)
    case = dict(
        baseline=baseline.tolist(), arm=arm.tolist(), mean=d.mean(), sd=d.std(ddof=1), p=test.pvalue,
        interval=[interval.low, interval.high], d_z=d.mean() / d.std(ddof=1),
    )
    if n > 2:
        case["d_z_corrected"] = case["d_z"] * gamma(m / 2) / (np.sqrt(m / 2) * gamma((m - 1) / 2))
    if n <= 7:
        means = np.array(list(itertools.product(d, repeat=n))).mean(axis=1)
        case["all"] = np.percentile(means, [2.5, 97.5], method="inverted_cdf").tolist()
    if n in (3, 5, 10, 40):
        case["drawn"] = [bootstrap(d, 0.024), bootstrap(d, 0.026)]
    return case


def line(x, y):
    fit = stats.linregress(np.log(x), np.log(y))
    half = stats.t.ppf(0.975, len(x) - 2) * fit.stderr
    return dict(
        x=x.tolist(), y=y.tolist(), slope=fit.slope, error=fit.stderr, interval=[fit.slope - half, fit.slope + half],
        intercept=fit.intercept, r_squared=fit.rvalue**2,
    )


shapes = [(0.0, 1.0, 0.0), (-0.8, 1.0, 20.0), (3.0, 1.0, -5.0), (2e-6, 1e-6, 0.0), (-1e7, 4e7, 1e8), (30.0, 0.1, 0.0)]
sizes = [64, 128, 256, 512, 1024]
lines = []
for n, exponent, scatter in [(3, 1.0, 0.1), (5, -0.37, 0.02), (5, 0.0, 1.0)]:
    x = np.array(sizes[:n], dtype=float)
    lines.append(line(x, 7.3 * x**exponent * np.exp(scatter * rng.normal(size=n))))
x = np.repeat(np.array(sizes, dtype=float), 3)  # three seeds at each
lines.append(line(x, 1e-5 * x**2.1 * np.exp(0.3 * rng.normal(size=15))))
x = np.repeat(np.array([1e-3, 1e3]), 2)
lines.append(line(x, x**0.5 * np.exp(0.3 * rng.normal(size=4))))

families = [rng.uniform(size=m) ** 4 for m in (1, 2, 7, 30)] + [np.array([0.01, 0.01, 0.5, 1.0, 0.0, 0.03, 0.01])]
freedoms = [*range(1, 41), 60, 100, 999, 9_999]
ts = [1e-9, 1e-4, 0.3, 1.0, 2.0, 4.3, 12.7, 1e3]
golden = dict(
    versions=dict(numpy=np.__version__, scipy=scipy.__version__, statsmodels=statsmodels.__version__),
    paired=[paired(n, *shape) for n in (2, 3, 5, 7, 10, 40) for shape in shapes],
    holm=[dict(p=p.tolist(), adjusted=multipletests(p, method="holm")[1].tolist()) for p in families],
    lines=lines,
    quantiles=[[v, stats.t.ppf(0.975, v)] for v in freedoms],
    tails=[[t, v, 2 * stats.t.sf(t, v)] for v in freedoms for t in ts],
)
(Path(__file__).parent / "peers.json").write_text(json.dumps(golden) + "\n")
