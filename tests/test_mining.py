"""Hard negatives of queries: the best of the first stage, no known positive, no likely one; and how they are drawn."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny_passages import folded, generated, passages

from data import mining
from data.dataset import Catalog, Dataset, Ragged
from data.errors import UserError
from data.mining import mine
from data.negatives import relevant_by_text, uniform
from data.retrievers import EASE, Popularity, Retriever
from data.splits import Phase, Split
from data.text_retrievers import BM25, TfIdf


class Given(Retriever):
    """Scores as they are given, a row a query."""

    ranks_queries = True

    def __init__(self, scores: list[list[float]]) -> None:
        self.scores = np.array(scores, dtype=np.float32)

    def fit(self, catalog: Catalog, training: Phase) -> None:
        pass

    def score(self, phase: Phase) -> np.ndarray:
        return self.scores[phase.ids]


def training(relevant: list[list[int]]) -> Phase:
    n = len(relevant)
    return Phase(np.arange(n), Ragged.from_rows(relevant), Ragged.empty(n), np.array(["?"] * n, dtype=object))


INF = np.inf
SCORES = [
    [10, 9.6, 9.5, 4, -INF],
    [3, 8, 10, 7, 7.5],
    [5, 1, -INF, -INF, 2],
    [-INF, 2, 1, -INF, 3],
    [-4, -1, -5, -3, -2],
]
RELEVANT = [[0], [3, 0], [0, 1], [0], [0, 4]]


@pytest.mark.parametrize(
    ("margin", "wanted"),
    [
        (None, [[1, 2, 3], [2, 1, 4], [4, -1, -1], [4, 1, 2], [1, 3, 2]]),
        (0.05, [[2, 3, -1], [-1, -1, -1], [4, -1, -1], [-1, -1, -1], [3, 2, -1]]),
        (0.0, [[1, 2, 3], [-1, -1, -1], [4, -1, -1], [-1, -1, -1], [3, 2, -1]]),
        (0.7, [[-1, -1, -1], [-1, -1, -1], [-1, -1, -1], [-1, -1, -1], [2, -1, -1]]),
    ],
)
def test_a_case_worked_by_hand(margin: float | None, wanted: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    got = mine(Given(SCORES), training(RELEVANT), 5, 3, margin)
    assert got.dtype == np.int32 and got.tolist() == wanted
    monkeypatch.setattr(mining, "CELLS", 1)
    assert mine(Given(SCORES), training(RELEVANT), 5, 3, margin).tolist() == wanted, "sliced or not"


def test_more_than_there_are_is_padded_and_what_survives_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        got = mine(Given(SCORES), training(RELEVANT), 5, 7, None)
    assert got.shape == (5, 7) and (got >= 0).sum(axis=1).tolist() == [3, 3, 1, 3, 3]
    said = "hard negatives by Given: 2.6 of 7 a query on average; 100 % of 5 queries have fewer, 0 % none"
    assert said in caplog.text
    with caplog.at_level(logging.INFO):
        mine(Given(SCORES), training(RELEVANT), 5, 1, 0.05)
    assert (
        "0.6 of 1 a query on average; 40 % of 5 queries have fewer, 40 % none; margin 0.05 left out the 1.6 best of a"
        in caplog.text
    )
    for settings in ({"top_k": 0, "margin": None}, {"top_k": 1, "margin": 1.5}):
        with pytest.raises(UserError, match="out of range"):
            mine(Given(SCORES), training(RELEVANT), 5, **settings)  # type: ignore[arg-type]


def test_equal_scores_are_in_no_order_of_rows() -> None:
    flat = Given([[1.0] * 50] * 40)
    got = mine(flat, training([[0]] * 40), 50, 5, None)
    assert len(np.unique(got)) > 40 and len({tuple(row) for row in got.tolist()}) > 30
    assert np.array_equal(got, mine(flat, training([[0]] * 40), 50, 5, None))


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Split]:
    dataset = generated()
    return dataset, replace(folded(dataset), retriever=BM25())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_drawn_negatives_are_distinct_and_none_is_relevant(data: tuple[Dataset, Split], share: float) -> None:
    dataset, split = data
    negatives = split.negatives(dataset.catalog, share, top_k=8, margin=0.85)
    rows = np.repeat(np.arange(len(split.train)), 20)
    drawn = negatives.draw(rows, Ragged.empty(len(rows)), 6, np.random.default_rng(0))
    again = negatives.draw(rows, Ragged.empty(len(rows)), 6, np.random.default_rng(0))
    assert drawn.dtype == np.int32 and drawn.shape == (len(rows), 6) and np.array_equal(drawn, again)
    assert ((drawn >= 0) & (drawn < 40)).all()
    mined = np.full((len(split.train), 1), -1) if negatives.mined is None else negatives.mined
    assert (negatives.mined is None) == (share == 0)
    n_hard, n_lacking = int(6 * share), 0
    for row, items in zip(rows, drawn.tolist(), strict=True):
        assert len(set(items)) == 6 and not set(items) & set(split.train.histories.row(row).tolist())
        pool = set(mined[row][mined[row] >= 0].tolist())
        assert len(set(items) & pool) >= min(n_hard, len(pool))
        n_lacking += len(pool) < n_hard
    assert share < 1 or n_lacking, "some pools are short, and filled up"
    first = drawn[rows == 0]
    assert len({tuple(sorted(row)) for row in first.tolist()}) > 5
    held_out = set(split.test.relevant.values.tolist())
    assert held_out & set(drawn.ravel().tolist()), "leaving out what is held out would tell which it is"


def test_random_negatives_are_uniform_over_what_is_free() -> None:
    taken = np.tile(np.array([[1, 2, 5, 20, 21]]), (30_000, 1))  # 20 and 21 are padding
    drawn = uniform(taken, 9, 4, np.random.default_rng(0))
    assert not np.isin(drawn, [1, 2, 5]).any()
    assert all(len(set(row)) == 4 for row in drawn[:500].tolist())
    for place in range(4):
        counts = np.bincount(drawn[:, place], minlength=9)[[0, 3, 4, 6, 7, 8]]
        assert ((counts - 5000) ** 2 / 5000).sum() < 25, "chi-square, 5 degrees of freedom"
    everything = uniform(taken[:10], 9, 6, np.random.default_rng(0))
    assert (np.sort(everything, axis=1) == [0, 3, 4, 6, 7, 8]).all()


@pytest.mark.parametrize(("n_items", "longest"), [(99, 12), (99, 60), (300, 25)])
def test_rows_with_few_taken_items_beside_one_with_many(n_items: int, longest: int) -> None:
    """Padding, however much of it, moves no draw onto a taken item or out of the catalogue."""
    rng = np.random.default_rng(0)
    taken = np.full((2000, longest), n_items)
    for row in taken:
        row[:4] = np.sort(rng.choice(n_items, 4, replace=False))
    taken[0] = np.sort(rng.choice(n_items, longest, replace=False))
    drawn = uniform(taken, n_items, 3, rng)
    assert ((drawn >= 0) & (drawn < n_items)).all()
    assert not (drawn[:, :, None] == taken[:, None, :]).any()


def test_no_negative_says_what_a_relevant_passage_says() -> None:
    """Neither a passage of the same words, nor what is relevant to a query of the same words."""
    texts = ["the lake", "The  LAKE", "a match", "a hill", "a road"]
    dataset = passages(texts, ["where", "Where ", "who"], [[0], [2], [3]])
    train = Phase(np.arange(3), dataset.sequences, Ragged.empty(3), dataset.queries)
    known = relevant_by_text(train, dataset.catalog)
    assert [known.row(row).tolist() for row in range(3)] == [[0, 1, 2], [0, 1, 2], [3]]
    everything = Split(train, train, train, train, retriever=BM25(ngrams=1))
    drawn = everything.negatives(dataset.catalog, 0.5, top_k=5).draw(
        np.array([0, 1, 2] * 20), Ragged.empty(60), 2, np.random.default_rng(0)
    )
    assert set(drawn[[0, 1, 3, 4]].ravel().tolist()) == {3, 4}


def test_all_that_is_free_can_be_drawn_and_no_more() -> None:
    dataset = passages(["a b", "a c", "a d", "e", "f"], ["a b", "a d", "e f", "f"], [[0, 1], [2], [3, 4], [4]])
    split = replace(folded(dataset), retriever=BM25())
    negatives = split.negatives(dataset.catalog, 0.5)
    rows = np.arange(len(split.train))
    most = 5 - int(split.train.histories.lengths.max())
    for size in range(1, most + 1):
        drawn = negatives.draw(np.tile(rows, 30), Ragged.empty(30 * len(rows)), size, np.random.default_rng(1))
        for row, items in zip(np.tile(rows, 30), drawn.tolist(), strict=True):
            assert len(set(items)) == size and not set(items) & set(split.train.histories.row(row).tolist())
    with pytest.raises(UserError, match=f"{most + 1} negatives a training row are more than the {most} items"):
        negatives.draw(rows, Ragged.empty(len(rows)), most + 1, np.random.default_rng(0))


def test_a_share_loses_no_hard_negative_to_rounding(data: tuple[Dataset, Split]) -> None:
    dataset, split = data
    full = np.tile(np.arange(40, dtype=np.int32), (len(split.train), 1))
    negatives = split.negatives(dataset.catalog, 0.0)
    assert int(1 / 49 * 49) == 0 and int(2 / 3 * 3) == 2
    for hard, random in ((1, 48), (2, 1), (3, 2), (7, 18)):
        n = hard + random
        some = replace(negatives, hard_share=hard / n, mined=np.where(full < 3, full, -1), n_items=90)
        own = Ragged.from_rows([[80]] * len(split.train))
        drawn = replace(some, sequences=own).draw(np.arange(9), Ragged.empty(9), n, np.random.default_rng(0))
        assert ((drawn < 3).sum(axis=1) >= min(hard, 3)).all()


def test_the_first_stage_that_is_mined_is_fit_on_training_queries_alone(data: tuple[Dataset, Split]) -> None:
    dataset, split = data
    prior = split.negatives(dataset.catalog, 1.0, top_k=5, retriever=Popularity())
    counts = np.bincount(split.train.histories.values, minlength=40).astype(float)
    for row in range(len(split.train)):
        left = counts.copy()
        left[split.train.histories.row(row)] = -1
        assert np.array_equal(left[prior.mined[row]], np.sort(left)[::-1][:5])  # type: ignore[index]
    own = split.negatives(dataset.catalog, 1.0, margin=0.05)
    assert own.mined is not None and own.mined.shape == (len(split.train), 100)
    wider = split.negatives(dataset.catalog, 1.0)
    other = split.negatives(dataset.catalog, 1.0, retriever=TfIdf())
    assert (own.mined >= 0).sum() < (wider.mined >= 0).sum()  # type: ignore[operator]
    assert not np.array_equal(other.mined, wider.mined)
    assert not hasattr(split.retriever, "postings"), "the split's own stays unfitted"
    with pytest.raises(UserError, match="ease needs interactions"):
        split.negatives(dataset.catalog, 1.0, retriever=EASE())


def test_users_can_be_given_another_first_stage_and_depth(demo: Dataset, split: Split) -> None:
    few: Any = split.negatives(demo.catalog, 1.0, top_k=12, retriever=BM25())
    users = np.arange(50)
    histories = split.train.histories.take(users)
    drawn = few.draw(users, histories, 10, np.random.default_rng(0))
    scores = np.array(few.retriever.score(Phase(users, histories, histories)))
    scores[histories.row_of_value, histories.values] = -np.inf
    found = np.sort(scores, axis=1)[:, -12:-11]
    hit = np.take_along_axis(scores, drawn, axis=1)
    assert ((hit >= found) | np.isneginf(hit)).all() and np.isfinite(hit).mean() > 0.8
