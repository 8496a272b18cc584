"""`heldout metrics` beside the packages that researchers use, on the same .npy files, one process each, in turn, with the same
number of threads: prints the ratio ours / theirs of wall time and of peak memory, median and range of the rounds. Both times
hold the start of the process and the reading of the files, but for what is printed as inside. Memory comes twice: of the whole
process, and above what each takes to start (ours with libtorch, theirs with what it imports).

    cargo build -p heldout-lab
    cargo build -p heldout-metrics --no-default-features --example coverage
    python3 benches/peers/metrics.py [rounds] [case ..]

Cases: prdc (10,000 x 10,000 x 512), prdc_crate (the same by heldout-metrics alone, without libtorch), fd (2048 wide, 4,000 rows, scipy's sqrtm), kid (100 x 1000, 2048 wide, 4,000 rows, torch-fidelity),
kid_many (the same of 20,000 rows), f_mem
(10,000 x 50,000 x 3072, the plain matrix product by torch), large (50,000 x 50,000 x 2048, ours alone: does it fit in 2 GB?),
large_usual (all that `heldout metrics` gives without --metric, of the same)."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
HELDOUT, COVERAGE = BUILT / "heldout", BUILT / "examples/coverage"
THREADS = os.cpu_count()

IMPORTS = "import numpy as np, sys, time; "
READ = "a, b = np.load(sys.argv[1]), np.load(sys.argv[2])\n"
PRDC = "from prdc import compute_prdc", READ + "print(compute_prdc(b, a, nearest_k=5))"
SQRTM = "from scipy.linalg import sqrtm", READ + """
m1, m2 = a.mean(0, dtype=np.float64), b.mean(0, dtype=np.float64)
s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
print(((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(sqrtm(s1 @ s2)).real)"""
KID = "import torch; from torch_fidelity.metric_kid import kid_features_to_metric", READ + """
torch.set_num_threads(int(sys.argv[3]))
a, b = torch.from_numpy(a), torch.from_numpy(b)
print(kid_features_to_metric(a, b, kid_subsets=100, kid_subset_size=1000, verbose=False))"""
PRODUCT = "import torch", READ + """
torch.set_num_threads(int(sys.argv[3]))
a, b = torch.from_numpy(a), torch.from_numpy(b)
start = time.time()
for part in a.split(1000):
    product = part @ b.T
print("inside", time.time() - start)"""

# name: (shape of generated, shape of train, metrics, further options, the peer's imports and program)
CASES = {
    "prdc": ((10_000, 512), (10_000, 512), ["precision", "recall", "density", "coverage"], [], PRDC),
    "prdc_crate": ((10_000, 512), (10_000, 512), None, [], PRDC),
    "fd": ((4_000, 2048), (4_000, 2048), ["fd"], ["--fast"], SQRTM),
    "kid": ((4_000, 2048), (4_000, 2048), ["kid"], [], KID),
    "kid_many": ((20_000, 2048), (20_000, 2048), ["kid"], [], KID),
    "f_mem": ((10_000, 3072), (50_000, 3072), ["f_mem"], [], PRODUCT),
    "large": ((50_000, 2048), (50_000, 2048), ["precision", "recall", "density", "coverage", "f_mem"], [], None),
    "large_usual": ((50_000, 2048), (50_000, 2048), [], [], None),
}


def run(command):
    """Wall time, and peak memory in MB, of a child process."""
    threads = {k: str(THREADS) for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")}
    start = time.time()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | threads)
    said = child.stdout.read().decode()
    errors = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(errors)
    return time.time() - start, usage.ru_maxrss / 1024, said


def data(shape, seed, path):
    import numpy as np

    rng = np.random.default_rng(seed)
    # Of lower rank than wide, as features are: distances vary.
    basis = rng.normal(size=(64, shape[1])).astype(np.float32)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for first in range(0, shape[0], 5000):
        n = min(5000, shape[0] - first)
        rows = rng.normal(size=(n, 64)).astype(np.float32) @ basis
        out[first : first + n] = rows + rng.normal(size=(n, shape[1])).astype(np.float32)
    out.flush()


def spread(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    for name in sys.argv[2:] or [n for n in CASES if not n.startswith("large")]:
        generated, train, metrics, options, peer = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            a, b = (str(Path(folder) / f"{x}.npy") for x in "ab")
            data(generated, 0, a), data(train, 1, b)
            ours = [str(HELDOUT), "metrics", "--generated", a, "--train", b, "--json", *options]
            ours += [x for m in metrics or [] for x in ("--metric", m)]
            if metrics is None:
                ours = [str(COVERAGE), a, b]
            start, program = peer or ("", "")
            python = [sys.executable, "-W", "ignore", "-c"]
            found = {"ours": [], "theirs": []}
            for _ in range(rounds):
                found["ours"].append(run(ours))
                if peer:
                    theirs = IMPORTS + start + "\n" + program
                    found["theirs"].append(run([*python, theirs, a, b, str(THREADS)]))
            idle = run([HELDOUT, "--version"])[1] if metrics is not None else 0, run([*python, IMPORTS + start])[1]
        for who, results in found.items():
            for what, k in (("s", 0), ("MB", 1)) if results else ():
                print(f"{name}: {who} {spread([r[k] for r in results])} {what}")
        pairs = list(zip(found["ours"], found["theirs"]))
        inside = [float(r[2].split()[1]) if "inside" in r[2] else r[0] for r in found["theirs"]]
        for what, ratio in (
            ("time", [o[0] / t for o, t in zip(found["ours"], inside)]),
            ("memory", [o[1] / t[1] for o, t in pairs]),
            # Where the imports of the peer take more than its computation, the latter is not seen.
            ("memory above the start", [(o[1] - idle[0]) / (t[1] - idle[1]) for o, t in pairs if t[1] > 2 * idle[1]]),
        ):
            if ratio:
                print(f"{name}: {what}, ours / theirs {spread(ratio)}", flush=True)


if __name__ == "__main__":
    main()
