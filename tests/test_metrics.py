"""Metrics against ir_measures and brute force; ties, chance, ceiling."""

import itertools
import math
from types import SimpleNamespace

import ir_measures
import numpy as np
import pytest
from conftest import random_requests
from hypothesis import given, settings
from hypothesis import strategies as st

from data.dataset import Ragged, Relevance, Requests
from data.errors import UserError
from experiments.chance import chance
from experiments.evaluation import Evaluator
from experiments.metrics import NAMES, measure, rank
from experiments.results import target_popularity

KS = [1, 3, 10, 20]
PROVIDERS = {
    "recall": "R@{}",
    "hit": "Success@{}",
    "ndcg": "nDCG@{}",
    "mrr": "RR@{}",
    "map": "AP@{}",
    "precision": "P@{}",
    "context_precision": "P@{}",
    "context_recall": "R@{}",
}


@pytest.mark.parametrize(("n_relevant", "inside"), [(1, True), (1, False), (6, True), (6, False)])
def test_equals_ir_measures(n_relevant: int, inside: bool) -> None:
    rng = np.random.default_rng(7)
    requests, relevance = random_requests(rng, 200, 30, 60, n_relevant, inside)
    scores = rng.permuted(np.tile(np.arange(30, dtype=np.float32), (200, 1)), axis=1)  # no ties
    ours = measure(rank(scores, requests, relevance.items, 0), list(NAMES), KS)

    qrels = [ir_measures.Qrel(str(r), str(i), 1) for r in range(200) for i in relevance.items.row(r)]
    run = [
        ir_measures.ScoredDoc(str(r), str(i), float(s))
        for r in range(200)
        for i, s in zip(requests.candidates[r], scores[r], strict=True)
    ]
    wanted = {f"{name}_at_{k}": ir_measures.parse_measure(PROVIDERS[name].format(k)) for name in NAMES for k in KS}
    for value in ir_measures.iter_calc(list(wanted.values()), qrels, run):
        for key in (name for name, measure_of_it in wanted.items() if measure_of_it == value.measure):
            assert ours[key][int(value.query_id)] == pytest.approx(value.value, abs=1e-9), key


def test_target_popularity_is_the_mean_over_the_relevant_items() -> None:
    dataset, split = (SimpleNamespace() for _ in range(2))
    dataset.catalog = range(6)
    split.train = SimpleNamespace(histories=Ragged.from_rows([[0, 1, 2], [1, 2], [2, 3]]))
    relevance = Relevance(Ragged.from_rows([[2], [1, 2, 5], [5], []]))
    popularity = target_popularity(dataset, split, relevance)  # type: ignore[arg-type]
    assert popularity[:3].tolist() == [3, (2 + 3 + 0) / 3, 0] and np.isnan(popularity[3])


def brute_force(order: list[int], relevant: set[int], name: str, k: int) -> float:
    hits = [item in relevant for item in order[:k]]
    name = name.removeprefix("context_")
    if name == "recall":
        return sum(hits) / len(relevant)
    if name == "hit":
        return float(any(hits))
    if name == "precision":
        return sum(hits) / k
    if name == "mrr":
        return next((1 / (i + 1) for i, hit in enumerate(hits) if hit), 0.0)
    if name == "ndcg":
        gain = sum(1 / math.log2(i + 2) for i, hit in enumerate(hits) if hit)
        return gain / sum(1 / math.log2(i + 2) for i in range(min(k, len(relevant))))
    return sum(sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit) / len(relevant)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 12), st.integers(1, 5), st.booleans(), st.integers(0, 10_000))
def test_equals_brute_force(width: int, n_relevant: int, inside: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    requests, relevance = random_requests(rng, 4, width, 15, min(n_relevant, width), inside)
    scores = rng.permuted(np.tile(np.arange(width, dtype=np.float32), (4, 1)), axis=1)
    ours = measure(rank(scores, requests, relevance.items, 0), list(NAMES), [1, 2, 5, 20])
    for r in range(4):
        order = requests.candidates[r][np.argsort(-scores[r])].tolist()
        for name, k in itertools.product(NAMES, [1, 2, 5, 20]):
            expected = brute_force(order, set(relevance.items.row(r).tolist()), name, k)
            assert ours[f"{name}_at_{k}"][r] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "m", "missed"), [(6, 1, 0), (6, 3, 0), (5, 2, 1), (4, 4, 0), (7, 2, 2)])
def test_chance_is_the_average_over_all_orders(n: int, m: int, missed: int) -> None:
    relevant = list(range(m)) + [100 + i for i in range(missed)]
    requests = Requests(None, np.arange(1), Ragged.empty(1), candidates=np.arange(n, dtype=np.int32)[None])  # type: ignore[arg-type]
    ranks = rank(np.zeros((1, n), dtype=np.float32), requests, Ragged.from_rows([relevant]), 0)
    ks = [1, 2, 3, 10]
    ours = chance(ranks, list(NAMES), ks)
    orders = list(itertools.permutations(range(n)))
    for name, k in itertools.product(NAMES, ks):
        values = [brute_force(list(order), set(relevant), name, k) for order in orders]
        assert ours.mean[f"{name}_at_{k}"][0] == pytest.approx(np.mean(values), abs=1e-12), (name, k)
        assert ours.variance[f"{name}_at_{k}"][0] == pytest.approx(np.var(values), abs=1e-12), (name, k)


def test_complaint_that_started_the_project() -> None:
    """50 candidates, one relevant: Recall@20 of 0.4 is chance."""
    requests, relevance = random_requests(np.random.default_rng(0), 1000, 50, 100)
    evaluator = Evaluator(requests, relevance, ["recall"], [20], seed=0)
    constant = evaluator(lambda part: np.zeros((len(part), 50), dtype=np.float32))
    center, low, high = evaluator.chance(constant.ranks).interval("recall_at_20")
    assert center == pytest.approx(0.4)
    assert low < 0.4 < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.4 * 0.6 / 1000), rel=1e-3)


@pytest.mark.parametrize("position", [0, 49])
def test_constant_scorer_is_chance_wherever_the_target_stands_and_oracle_is_one(position: int) -> None:
    rng = np.random.default_rng(1)
    requests, _ = random_requests(rng, 4000, 50, 200)
    relevance = Relevance(Ragged.from_lengths(requests.candidates[:, position], np.ones(4000, dtype=np.int64)))
    evaluator = Evaluator(requests, relevance, list(NAMES), [1, 10], seed=3)
    constant = evaluator(lambda part: np.ones((len(part), 50), dtype=np.float32))
    expected = evaluator.chance(constant.ranks)
    for name, mean in constant.means.items():
        center, low, high = expected.interval(name)
        assert abs(mean - center) < 1.5 * (high - low) / 2, name  # within 3 standard deviations
    assert constant.tie_rate == 1.0
    oracle = evaluator(lambda part: (part.candidates == part.candidates[:, [position]]).astype(np.float32))
    assert oracle.means["recall_at_1"] == oracle.means["ndcg_at_10"] == oracle.means["mrr_at_10"] == 1.0
    assert oracle.tie_rate == 0.0


def test_ties_do_not_depend_on_the_order_of_candidates() -> None:
    rng = np.random.default_rng(2)
    requests, relevance = random_requests(rng, 300, 20, 40, 3)
    scores = rng.integers(0, 3, (300, 20)).astype(np.float32)
    shuffled = np.argsort(rng.random((300, 20)), axis=1)
    other = Requests(
        requests.catalog,
        requests.ids,
        requests.histories,
        candidates=np.take_along_axis(requests.candidates, shuffled, 1),
    )
    a = rank(scores, requests, relevance.items, 5)
    b = rank(np.take_along_axis(scores, shuffled, 1), other, relevance.items, 5)
    assert np.array_equal(a.rank, b.rank)
    assert not np.array_equal(a.rank, rank(scores, requests, relevance.items, 6).rank)  # the seed decides


def test_padding_and_minus_infinity_are_never_ranked() -> None:
    candidates = np.array([[4, 7, -1, -1], [1, 2, 3, 9]], dtype=np.int32)
    requests = Requests(None, np.arange(2), Ragged.empty(2), candidates=candidates)  # type: ignore[arg-type]
    scores = np.array([[0.1, 0.2, 9, 9], [0, 0, 0, -np.inf]], dtype=np.float32)
    ranks = rank(scores, requests, Ragged.from_rows([[4], [9]]), 0)
    assert ranks.rank.tolist() == [2, np.inf]
    assert ranks.n_candidates.tolist() == [2, 4]
    assert ranks.found.tolist() == [1, 1], "a candidate that a reranker leaves unranked was there to be ranked"


def test_nan_scores_are_an_error() -> None:
    requests, relevance = random_requests(np.random.default_rng(0), 3, 5, 9)
    with pytest.raises(UserError, match="NaN"):
        rank(np.full((3, 5), np.nan, dtype=np.float32), requests, relevance.items, 0)


def test_slices_of_a_full_ranking_agree_with_one_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 9, (50, 30)).astype(np.float32)
    histories = Ragged.from_rows([rng.choice(30, rng.integers(0, 6), replace=False) for _ in range(50)])
    relevance = Relevance(Ragged.from_lengths(rng.integers(0, 30, 50), np.ones(50, dtype=np.int64)))
    requests = Requests(range(30), np.arange(50), histories)  # type: ignore[arg-type]
    evaluator = Evaluator(requests, relevance, ["mrr"], [30], seed=0)
    whole = evaluator(lambda part: scores[part.ids], keep=True)
    monkeypatch.setattr("experiments.evaluation.CELLS", 120)
    sliced = evaluator(lambda part: scores[part.ids], keep=True)
    assert np.array_equal(whole.ranks.rank, sliced.ranks.rank)
    assert np.array_equal(whole.items, sliced.items)
    for r in range(50):  # the kept list puts the target where its rank says; history is gone
        seen = set(histories.row(r).tolist()) - {int(relevance.items.values[r])}
        assert not seen & set(whole.items[r].tolist())
        assert whole.items[r].tolist().index(relevance.items.values[r]) == whole.ranks.rank[r] - 1


def test_chance_of_a_full_ranking_is_of_the_catalogue_less_the_history() -> None:
    """Also for a first stage, which keeps its best 100 and leaves the rest unranked."""
    histories = Ragged.from_rows([[0, 1, 2], [], [7]])
    relevance = Relevance(Ragged.from_rows([[5], [6], [7]]))  # the last repeats its history and stays
    requests = Requests(range(10), np.arange(3), histories)  # type: ignore[arg-type]
    evaluator = Evaluator(requests, relevance, ["recall"], [2], seed=0)

    def few(part: Requests) -> np.ndarray:
        scores = np.full((len(part), 10), -np.inf, dtype=np.float32)
        scores[:, :6] = 1
        return scores

    result = evaluator(few)
    assert result.ranks.n_candidates.tolist() == [7, 10, 10]
    assert result.ranks.found.tolist() == [1, 1, 1]
    assert evaluator.chance(result.ranks).mean["recall_at_2"] == pytest.approx([2 / 7, 2 / 10, 2 / 10])
    assert np.isinf(result.ranks.rank[1:]).all()
    assert evaluator.oracle(result.ranks)["recall_at_2"].tolist() == [1, 1, 1]
