"""Tests over requests: is a difference more than luck, how large is it, and what could this test set show at all?

The unit is the request and comparisons are paired. Sources: Smucker et al. (CIKM 2007) for the permutation test,
Ihemelandu and Ekstrand (SIGIR 2023) for its choice in recommendation, Phipson and Smyth (2010) for (c + 1) / (B + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from data.progress import bar

ALPHA = 0.05
RESAMPLES = 2_000
PERMUTATIONS = 10_000
CHUNK = 4_000_000  # random numbers held at once
ROUNDING = 1e-12  # of a sum of float64, relative to the sum of the magnitudes
TINY = 1e-12  # a mean or a standard deviation below it is 0


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
    for start in bar(range(0, RESAMPLES, chunk), "resampling requests"):
        rows = np.arange(min(chunk, RESAMPLES - start))[:, None]
        drawn = rng.integers(0, n, size=(len(rows), n)) + rows * n
        counts = np.bincount(drawn.ravel(), minlength=len(rows) * n).reshape(len(rows), n)
        means.append(counts.astype(np.float64) @ values / n)
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low, high


def permutation_test(differences: np.ndarray, seed: int) -> float:
    """Two-sided sign-flip p-value of the mean of [R] differences being 0, never 0 itself."""
    return float(permutation_p(differences[:, None], seed)[0])


def permutation_p(differences: np.ndarray, seed: int) -> np.ndarray:
    """The same of each column of [R, C] -> [C]; every column sees the same random signs.

    Sums that differ by less than the rounding of float64 are equal: metrics are fractions of few values and tie often.
    A request whose differences are all 0 takes no sign, so a column alone has another sample of signs than in a table.
    """
    rng = np.random.default_rng(seed)
    moving = differences.astype(np.float64)  # all rows, so that a column's p does not depend on the other columns
    if not moving.any():
        return np.ones(differences.shape[1])
    observed = abs(moving.sum(axis=0)) - ROUNDING * abs(moving).sum(axis=0)
    chunk, extreme = max(1, CHUNK // len(moving)), np.zeros(differences.shape[1], dtype=np.int64)
    for start in bar(range(0, PERMUTATIONS, chunk), "flipping signs"):
        signs = rng.integers(0, 2, size=(min(chunk, PERMUTATIONS - start), len(moving)), dtype=np.int8)
        extreme += (abs((2 * signs - 1).astype(np.float64) @ moving) >= observed).sum(axis=0)
    return (extreme + 1) / (PERMUTATIONS + 1)


def compare(a: np.ndarray, b: np.ndarray, seed: int) -> Comparison:
    """a and b are one metric of two rerankers over the same requests, [R] each."""
    return compare_all((a - b)[:, None], seed)[0]


def compare_all(differences: np.ndarray, seed: int) -> list[Comparison]:
    """Of each column of [R, C] differences over the same requests: other metrics, or other pairs of rerankers."""
    columns = np.ascontiguousarray(differences.T, dtype=np.float64)  # [C, R]: a row is summed as it is alone
    n = columns.shape[1]
    mean = columns.mean(axis=1)
    deviation = columns.std(axis=1, ddof=1) if n > 1 else np.zeros(len(columns))
    constant = deviation < TINY
    p_t = np.where((abs(mean) < TINY) | (n < 2), 1.0, 0.0)  # of constant columns
    if not constant.all():
        p_t[~constant] = stats.ttest_1samp(columns[~constant], 0.0, axis=1).pvalue
    low, high = bootstrap_interval(differences, seed)
    p_permutation = permutation_p(differences, seed)
    effect_size = np.where(constant, 0.0, mean / np.where(constant, 1.0, deviation))
    smallest = [smallest_difference(one, n) for one in deviation]
    found = zip(mean, low, high, p_t, p_permutation, effect_size, smallest, strict=True)
    return [Comparison(*map(float, one)) for one in found]


def power(effect: float, deviation: float, n: int, alpha: float = 0.05) -> float:
    """The probability that a two-sided paired test on n requests finds a true mean difference of `effect`, where
    differences have this standard deviation (normal theory).

    At the difference that was observed it is another way to write the p-value (Hoenig and Heisey, 2001).
    """
    if deviation == 0:
        return 1.0 if effect else alpha
    shift, critical = abs(effect) * np.sqrt(n) / deviation, stats.norm.ppf(1 - alpha / 2)
    return float(stats.norm.cdf(shift - critical) + stats.norm.cdf(-shift - critical))


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


def in_words(label: str, difference: float, low: float, high: float, p_holm: float) -> str:
    """ "beats <label> by .." and the like, with the interval; who does stands before it."""
    p = "< 0.001" if p_holm < 0.001 else f"= {p_holm:.3f}"
    size = f"{difference:+.4f} [{low:+.4f}, {high:+.4f}], Holm p {p}"
    if p_holm >= ALPHA:
        return f"cannot be told from {label} ({size})"
    return f"{'beats' if difference > 0 else 'is worse than'} {label} by {size}"
