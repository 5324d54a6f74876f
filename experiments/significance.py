"""Tests over requests: is a difference more than luck, how large is it, and what could this test set show at all?

The unit is the request and comparisons are paired. Sources: Smucker et al. (CIKM 2007) for the permutation test,
Ihemelandu and Ekstrand (SIGIR 2023) for its choice in recommendation, Phipson and Smyth (2010) for (c + 1) / (B + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2_000
PERMUTATIONS = 10_000
CHUNK = 4_000_000  # random numbers held at once


@dataclass(frozen=True)
class Comparison:
    """a - b, paired over requests."""

    difference: float
    low: float  # 95 % bootstrap interval of the difference
    high: float
    p_t: float  # paired t-test, two-sided
    p_permutation: float  # sign-flip, two-sided
    effect_size: float  # Cohen's d of the differences
    smallest_difference: float  # detectable with power .8 at alpha .05, two-sided


def bootstrap_interval(values: np.ndarray, seed: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of the mean over requests: values [R] or [R, M] -> (low, high), each [] or [M]."""
    rng = np.random.default_rng(seed)
    n = len(values)
    chunk = max(1, CHUNK // max(n, 1))
    means = []
    for start in range(0, RESAMPLES, chunk):
        rows = np.arange(min(chunk, RESAMPLES - start))[:, None]
        drawn = rng.integers(0, n, size=(len(rows), n)) + rows * n
        counts = np.bincount(drawn.ravel(), minlength=len(rows) * n).reshape(len(rows), n)
        means.append(counts.astype(np.float64) @ values / n)
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low, high


def permutation_test(differences: np.ndarray, seed: int) -> float:
    """Two-sided sign-flip p-value of the mean difference being 0, never 0 itself."""
    rng = np.random.default_rng(seed)
    moving = differences[differences != 0]  # flipping the sign of 0 changes nothing
    if len(moving) == 0:
        return 1.0
    observed = abs(moving.sum()) * (1 - 1e-12)  # sums in another order differ in the last bits
    chunk, extreme = max(1, CHUNK // len(moving)), 0
    for start in range(0, PERMUTATIONS, chunk):
        signs = rng.integers(0, 2, size=(min(chunk, PERMUTATIONS - start), len(moving)), dtype=np.int8)
        extreme += int((abs((2.0 * signs - 1) @ moving) >= observed).sum())
    return (extreme + 1) / (PERMUTATIONS + 1)


def compare(a: np.ndarray, b: np.ndarray, seed: int) -> Comparison:
    """a and b are one metric of two rerankers over the same requests, [R] each."""
    d = a - b
    deviation = float(d.std(ddof=1)) if len(d) > 1 else 0.0
    low, high = bootstrap_interval(d, seed)
    constant = deviation < 1e-12
    return Comparison(
        difference=float(d.mean()),
        low=float(low),
        high=float(high),
        p_t=float(abs(d.mean()) < 1e-12 or len(d) < 2) if constant else float(stats.ttest_1samp(d, 0.0).pvalue),
        p_permutation=permutation_test(d, seed),
        effect_size=0.0 if constant else float(d.mean()) / deviation,
        smallest_difference=smallest_difference(deviation, len(d)),
    )


def smallest_difference(deviation: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The mean paired difference that a two-sided test on n requests finds with the given power (normal theory)."""
    return float((stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) * deviation / np.sqrt(max(n, 1)))


def holm(p: list[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order."""
    order = np.argsort(p)
    adjusted, running = np.empty(len(p)), 0.0
    for step, index in enumerate(order):
        running = max(running, min(1.0, p[index] * (len(p) - step)))
        adjusted[index] = running
    return adjusted.tolist()
