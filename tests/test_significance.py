"""Tests against scipy and against simulated data."""

import numpy as np
import pytest
from scipy import stats

from experiments.significance import bootstrap_interval, compare, holm, permutation_test, smallest_difference


def test_t_test_and_permutation_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(300), rng.random(300) - 0.03
    ours = compare(a, b, seed=1)
    assert ours.p_t == pytest.approx(stats.ttest_rel(a, b).pvalue)
    scipys = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=20_000, rng=rng)
    assert ours.p_permutation == pytest.approx(scipys.pvalue, abs=0.015)
    assert ours.effect_size == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    assert ours.low < ours.difference < ours.high


def test_permutation_is_exact_on_a_small_case_and_never_zero() -> None:
    assert permutation_test(np.array([1.0, 1.0, 1.0, 1.0]), 0) == pytest.approx(2 / 16, abs=0.01)
    assert permutation_test(np.ones(100), 0) == pytest.approx(1 / 10_001)
    assert permutation_test(np.zeros(10), 0) == 1.0


def test_false_positives_stay_at_five_per_cent() -> None:
    rng = np.random.default_rng(4)
    p = [permutation_test(rng.normal(size=40), seed) for seed in range(400)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.08


def test_bootstrap_covers_the_mean() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.exponential(size=100), seed)
        covered += low < 1.0 < high
    assert 180 <= covered <= 200


def test_smallest_difference_has_the_stated_power() -> None:
    rng = np.random.default_rng(6)
    shift = smallest_difference(1.0, 100)
    found = [stats.ttest_1samp(rng.normal(shift, 1, 100), 0).pvalue < 0.05 for _ in range(2000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
