"""Tests against scipy, against brute force and against simulated metrics of 200 requests."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from experiments.significance import (
    bootstrap_interval,
    compare,
    compare_all,
    holm,
    permutation_p,
    permutation_test,
    power,
    smallest_difference,
)

SIMULATED, REQUESTS = 2_000, 200


def ndcg(rng: np.random.Generator, hit_rate: float, shape: tuple[int, ...]) -> np.ndarray:
    """NDCG@10 of one relevant item: 0 for a miss, else one of ten values."""
    return np.where(rng.random(shape) < hit_rate, 1 / np.log2(rng.integers(1, 11, shape) + 1), 0)


def differences(hit_rate: float = 0.3, columns: int = SIMULATED, seed: int = 0) -> np.ndarray:
    """[R, columns]: each column a test set on which b finds the item in 30 % of requests and a in `hit_rate`."""
    rng = np.random.default_rng(seed)
    return ndcg(rng, hit_rate, (REQUESTS, columns)) - ndcg(rng, 0.3, (REQUESTS, columns))


@pytest.fixture(scope="module")
def null() -> np.ndarray:
    return differences()


def test_t_test_and_permutation_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(300), rng.random(300) - 0.03
    ours = compare(a, b, seed=1)
    assert ours.p_t == pytest.approx(stats.ttest_rel(a, b).pvalue)
    scipys = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=20_000, rng=rng)
    assert ours.p_permutation == pytest.approx(scipys.pvalue, abs=0.015)
    assert ours.effect_size == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    assert ours.low < ours.difference < ours.high


@pytest.mark.parametrize("kind", ["ndcg", "hits", "normal"])
def test_permutation_is_that_of_all_sign_flips(kind: str) -> None:
    """Of eleven requests scipy takes all 2,048 assignments of signs; ours are 10,000 random ones."""
    rng = np.random.default_rng(3)
    values = {
        "ndcg": ndcg(rng, 0.6, (11, 30)) - ndcg(rng, 0.3, (11, 30)),
        "hits": rng.integers(-1, 2, (11, 30)) / 1.0,
        "normal": rng.normal(0.3, 1, (11, 30)),
    }[kind]
    all_of_them = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf, axis=0)
    error = abs(permutation_p(values, 0) - all_of_them.pvalue)
    assert (error < 5 * np.sqrt(all_of_them.pvalue * (1 - all_of_them.pvalue) / 10_000) + 2e-4).all()


def test_sums_that_are_equal_but_for_rounding_tie() -> None:
    """0.1 + 0.2 - 0.3 is 0 in fractions and not in floats; of 16 sign flips all reach a mean of 0."""
    assert permutation_test(np.array([0.1, 0.2, -0.3, 0.0]), 0) == 1.0
    values = np.array([1 / np.log2(rank + 1) for rank in (2, 3, 5, 9, 2, 3, 5, 9, 7)])
    values[:4] *= -1  # the observed difference is that of rank 7 alone
    flips = np.array(list(product((-1, 1), repeat=9)))
    exact = (abs(flips @ values) >= values[-1] - 1e-9).mean()
    assert permutation_test(values, 0) == pytest.approx(exact, abs=0.015)


def test_permutation_is_exact_on_a_small_case_and_never_zero() -> None:
    assert permutation_test(np.array([1.0, 1.0, 1.0, 1.0]), 0) == pytest.approx(2 / 16, abs=0.01)
    assert permutation_test(np.ones(100), 0) == pytest.approx(1 / 10_001)
    assert permutation_test(np.zeros(10), 0) == 1.0
    mixed = np.stack([np.ones(100), np.zeros(100)], axis=1)
    assert permutation_p(mixed, 0) == pytest.approx([1 / 10_001, 1.0])


def test_a_table_at_once_is_its_columns_one_by_one(null: np.ndarray) -> None:
    columns = np.concatenate([null[:, :4] + 0.05, np.zeros((REQUESTS, 1)), np.full((REQUESTS, 1), 0.25)], axis=1)
    for one, column in zip(compare_all(columns, 7), columns.T, strict=True):
        alone = compare(column, np.zeros(REQUESTS), 7)
        assert one.p_permutation == pytest.approx(alone.p_permutation, abs=0.02), "other random signs"
        for name in ("difference", "low", "high", "p_t", "effect_size", "smallest_difference"):
            assert getattr(one, name) == pytest.approx(getattr(alone, name), abs=1e-12), name
    unchanged, constant = compare_all(columns, 7)[4:]
    assert (unchanged.p_t, unchanged.p_permutation, unchanged.effect_size) == (1.0, 1.0, 0.0)
    assert (constant.p_t, constant.low, constant.high) == (0.0, 0.25, 0.25)


def test_false_positives_stay_at_five_per_cent(null: np.ndarray) -> None:
    """Without a difference, on metrics of which half are 0 for both."""
    assert (null == 0).mean() > 0.45
    found = {"permutation": permutation_p(null, 0), "t": stats.ttest_1samp(null, 0).pvalue}
    for name, p in found.items():
        assert 0.04 < (p < 0.05).mean() < 0.06, name
        assert 0.005 < (p < 0.01).mean() < 0.015, name


def test_holm_keeps_the_rate_of_the_family(null: np.ndarray) -> None:
    """Families of five comparisons: any false finding in at most 5 %, alone or beside two true differences."""
    p = permutation_p(null, 0).reshape(-1, 5)
    adjusted = np.array([holm(family) for family in p.tolist()])
    assert 0.02 < (adjusted < 0.05).any(axis=1).mean() < 0.07
    assert (p < 0.05).any(axis=1).mean() > 0.15, "without Holm"
    p[:, :2] = 1e-4
    adjusted = np.array([holm(family) for family in p.tolist()])
    assert (adjusted[:, 2:] < 0.05).any(axis=1).mean() < 0.07
    assert (adjusted[:, :2] < 0.05).all()


def test_bootstrap_covers_the_mean() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.exponential(size=100), seed)
        covered += low < 1.0 < high
    assert 180 <= covered <= 200


def test_bootstrap_agrees_with_scipy(null: np.ndarray) -> None:
    values = null[:, 0] + 0.02
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    width = theirs.high - theirs.low
    low, high = bootstrap_interval(values, 0)
    assert low == pytest.approx(theirs.low, abs=0.05 * width) and high == pytest.approx(theirs.high, abs=0.05 * width)


def test_smallest_difference_is_found_in_80_per_cent(null: np.ndarray) -> None:
    deviation = float(null.std())
    shift = smallest_difference(deviation, REQUESTS)
    assert power(shift, deviation, REQUESTS) == pytest.approx(0.8, abs=1e-4)
    assert (permutation_p(null + shift, 0) < 0.05).mean() == pytest.approx(0.8, abs=0.03)
    assert (stats.ttest_1samp(null + shift, 0).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("hit_rate", [0.33, 0.38, 0.45])
def test_power_is_the_share_of_simulations_that_find_it(hit_rate: float) -> None:
    values = differences(hit_rate, seed=1)
    effect = (hit_rate - 0.3) * (1 / np.log2(np.arange(1, 11) + 1)).mean()
    for alpha in (0.05, 0.01):
        expected = power(effect, float(values.std()), REQUESTS, alpha)
        assert (permutation_p(values, 0) < alpha).mean() == pytest.approx(expected, abs=0.03)


def test_power_at_its_limits() -> None:
    assert power(0.0, 1.0, 100) == pytest.approx(0.05) and power(0.1, 1.0, 10**6) == pytest.approx(1.0)
    assert power(0.2, 1.0, 50) == power(-0.2, 1.0, 50) > power(0.2, 1.0, 50, alpha=0.01)
    assert power(0.1, 0.0, 5) == 1.0 and power(0.0, 0.0, 5) == 0.05, "every request differs by the same"


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_holm_is_the_step_down_procedure() -> None:
    """Adjusted p <= alpha exactly where Holm's procedure at alpha rejects: p_(1) <= alpha / m, p_(2) <= alpha /
    (m - 1), and so on until the first that is not."""
    rng = np.random.default_rng(8)
    for _ in range(50):
        p = rng.random(6) ** 3
        adjusted = np.array(holm(p.tolist()))
        for alpha in (0.01, 0.05, 0.2, 0.6):
            rejected = np.zeros(6, dtype=bool)
            for step, index in enumerate(np.argsort(p)):
                if p[index] > alpha / (6 - step):
                    break
                rejected[index] = True
            assert ((adjusted <= alpha) == rejected).all()
