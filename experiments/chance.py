"""What a random order is expected to give, exactly: mean and variance of every metric, request by request.

With n candidates of which m are relevant, the indicators Z_1..Z_n of relevance by rank are exchangeable, so
E[Z_i] = q1, E[Z_i Z_j] = q2, ... with q_d = m(m-1)..(m-d+1) / n(n-1)..(n-d+1) for distinct ranks. Every metric is a
polynomial in the Z's (or the rank of the first one), and its moments follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from experiments.metrics import ALIASES, Ranks, key

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Chance:
    mean: dict[str, np.ndarray]  # metric -> [R] expected value
    variance: dict[str, np.ndarray]  # metric -> [R]

    def interval(self, metric: str, rows: np.ndarray | slice = slice(None)) -> tuple[float, float, float]:
        """Expected mean over the requests, and the 95 % interval in which a random order's mean falls."""
        mean, variance = self.mean[metric][rows], self.variance[metric][rows]
        half = Z95 * float(np.sqrt(variance.sum())) / max(len(mean), 1)
        center = float(mean.mean()) if len(mean) else 0.0
        return center, max(center - half, 0.0), min(center + half, 1.0)


def chance(ranks: Ranks, names: list[str], ks: list[int]) -> Chance:
    """For the candidates of `ranks`, whatever their order there."""
    classes, inverse = np.unique(
        np.stack([ranks.n_candidates, ranks.found, ranks.n_relevant]), axis=1, return_inverse=True
    )
    mean, variance = {}, {}
    for name in names:
        for k in ks:
            moments = np.array(
                [_moments(ALIASES.get(name, name), k, int(n), int(m), int(t)) for n, m, t in classes.T]
            )  # [C, 2]
            first, second = moments.reshape(-1, 2)[inverse.ravel()].T
            mean[key(name, k)] = first
            variance[key(name, k)] = np.maximum(second - first**2, 0)
    return Chance(mean, variance)


def _moments(name: str, k: int, n: int, m: int, total: int) -> tuple[float, float]:
    """First and second moment of one request's metric: n candidates, m relevant among them, `total` relevant."""
    depth = min(k, n)
    if m == 0 or depth == 0:
        return 0.0, 0.0
    q = [1.0]
    for d in range(4):
        q.append(q[-1] * max(m - d, 0) / max(n - d, 1))
    ranks = np.arange(1, depth + 1)
    if name in ("recall", "precision"):
        divisor = total if name == "recall" else k
        return _linear(np.full(depth, 1 / divisor), q)
    if name == "ndcg":
        ideal = (1 / np.log2(np.arange(2, min(total, k) + 2))).sum()
        return _linear(1 / np.log2(ranks + 1) / ideal, q)
    if name == "map":
        return _average_precision(depth, q, total)
    # P(first relevant at rank r) = C(n - r, m - 1) / C(n, m)
    first = ranks[ranks <= n - m + 1]
    p = np.exp(_log_choose(n - first, m - 1) - _log_choose(n, m))
    if name == "hit":
        return float(p.sum()), float(p.sum())
    return float((p / first).sum()), float((p / first**2).sum())  # mrr


def _linear(gains: np.ndarray, q: list[float]) -> tuple[float, float]:
    """Moments of the sum of gains[i] Z_i."""
    total, squares = gains.sum(), (gains**2).sum()
    return float(q[1] * total), float(q[1] * squares + q[2] * (total**2 - squares))


def _average_precision(depth: int, q: list[float], total: int) -> tuple[float, float]:
    """Moments of (1/total) sum_j Z_j S_j / j, S_j = Z_1 + .. + Z_j, by the number of distinct ranks in a product."""
    j = np.arange(1, depth + 1)
    mean = ((q[1] + (j - 1) * q[2]) / j).sum() / total
    a, b = np.minimum.outer(j, j), np.maximum.outer(j, j)  # E[Z_a S_a Z_b S_b] for a < b
    before, between = a - 1, b - a - 1
    apart = 2 * q[2] + q[3] * (4 * before + between) + q[4] * (before * (before - 1) + before * between)
    same = q[1] + 3 * q[2] * (j - 1) + q[3] * (j - 1) * (j - 2)
    products = np.where(np.eye(depth, dtype=bool), same[:, None], apart)
    return float(mean), float((products / np.outer(j, j)).sum() / total**2)


def _log_choose(n: np.ndarray | int, k: int) -> np.ndarray:
    n = np.asarray(n, dtype=np.float64)
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
