"""Candidates, first stages and the leaks they must not have."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.candidates import Candidates, Prepared, prepare
from data.dataset import Catalog, Dataset, Interactions, Provenance, Ragged
from data.errors import UserError
from data.retrievers import EASE, ItemKNN, Markov, Popularity, Retriever, _inverse
from data.splits import LeaveOneOut, Phase, Split
from experiments.evaluation import Evaluator

RETRIEVERS = [Popularity(), ItemKNN(), Markov(), EASE()]


def prepared(demo: Dataset, split: Split, tmp_path: Path, mode: str, **settings: object) -> Prepared:
    return prepare(demo, split, Candidates(mode=mode, size=20, **settings), tmp_path, "x")  # type: ignore[arg-type]


def test_sampled_lists_hold_the_target_and_nothing_the_user_ever_touched(
    demo: Dataset, split: Split, tmp_path: Path
) -> None:
    got = prepared(demo, split, tmp_path, "sampled")
    for requests, relevance in ((got.validation, got.validation_relevance), (got.test, got.test_relevance)):
        assert requests.candidates is not None
        for r, user in enumerate(requests.ids):
            row = requests.candidates[r].tolist()
            target = int(relevance.items.values[r])
            assert len(set(row)) == 20
            assert target in row
            assert not (set(row) - {target}) & set(demo.sequences.row(int(user)).tolist())
    place = (got.test.candidates == got.test_relevance.items.values[:, None]).argmax(axis=1)
    counts = np.bincount(place, minlength=20)
    assert ((counts - len(place) / 20) ** 2 / (len(place) / 20)).sum() < 43.8  # chi-square, 19 df, p = .001


def test_validation_and_test_share_no_draw_and_a_subset_keeps_its_lists(
    demo: Dataset, split: Split, tmp_path: Path
) -> None:
    got = prepared(demo, split, tmp_path, "sampled")
    assert got.test.candidates is not None and got.validation.candidates is not None
    shared = [len(set(a) & set(b)) for a, b in zip(got.test.candidates, got.validation.candidates, strict=True)]
    assert np.mean(shared) < 12  # 20 of about 48 each: 8 by chance
    some = prepare(demo, split, Candidates(mode="sampled", size=20), tmp_path, "some", max_requests=9)
    rows = np.searchsorted(got.test.ids, some.test.ids)
    assert np.array_equal(some.test.candidates, got.test.candidates[rows])


def test_a_sampled_candidate_that_the_first_stage_cannot_link_is_last_not_missed(
    demo: Dataset, split: Split, tmp_path: Path
) -> None:
    got = prepared(demo, split, tmp_path, "sampled", retriever=Markov())
    evaluator = Evaluator(got.test, got.test_relevance, ["recall"], [20], 0)
    assert evaluator(lambda part: part.first_stage_scores).means["recall_at_20"] == 1.0  # type: ignore[arg-type, return-value]


def test_popularity_negatives_are_more_popular(demo: Dataset, split: Split, tmp_path: Path) -> None:
    counts = np.bincount(split.train.histories.values, minlength=len(demo.catalog))
    means = []
    for negatives in ("uniform", "popularity"):
        got = prepared(demo, split, tmp_path / negatives, "sampled", negatives=negatives)
        means.append(counts[got.test.candidates].mean())
    assert means[1] > means[0] * 1.05


def test_retrieved_lists_inject_nothing_and_filter_the_history(demo: Dataset, split: Split, tmp_path: Path) -> None:
    got = prepared(demo, split, tmp_path, "retrieved")
    assert got.test.candidates is not None
    hit = (got.test.candidates == got.test_relevance.items.values[:, None]).any(axis=1)
    assert 0 < hit.mean() < 1
    for r in range(len(got.test)):
        target = int(got.test_relevance.items.values[r])
        assert not (set(got.test.candidates[r].tolist()) - {target}) & set(got.test.histories.row(r).tolist())
    retriever = EASE()
    retriever.fit(demo.catalog, split.train)
    scores = retriever.score(split.test)
    for r in range(len(got.test)):
        scores[r, got.test.histories.row(r)] = -np.inf
        assert set(got.test.candidates[r].tolist()) == set(np.argsort(-scores[r])[:20].tolist())


def test_presentation_is_shuffled_by_default_and_the_ablation_is_labelled(
    demo: Dataset, split: Split, tmp_path: Path
) -> None:
    shuffled = prepared(demo, split, tmp_path / "a", "retrieved").test
    ordered = prepared(demo, split, tmp_path / "b", "retrieved", presentation="first_stage").test
    assert ordered.first_stage_scores is not None and shuffled.first_stage_scores is not None
    assert (np.diff(ordered.first_stage_scores, axis=1) <= 0).all()
    rises = (np.diff(shuffled.first_stage_scores, axis=1) > 0).mean()
    assert 0.4 < rises < 0.6
    assert any("ablation" in label for label in Candidates(presentation="first_stage").labels)
    assert np.array_equal(np.sort(shuffled.candidates), np.sort(ordered.candidates))


def test_one_file_is_written_once_and_read_by_all(demo: Dataset, split: Split, tmp_path: Path) -> None:
    first = prepared(demo, split, tmp_path, "retrieved", seed=0)
    stamp = first.path.stat().st_mtime_ns
    again = prepare(demo, split, Candidates(size=20, retriever=Broken()), tmp_path, "x")
    assert again.path.stat().st_mtime_ns == stamp and first.sha256 == again.sha256
    assert np.array_equal(first.test.candidates, again.test.candidates)


class Broken(Retriever):
    def fit(self, catalog: Catalog, training: Phase) -> None:
        raise AssertionError("the file is there; nothing may be fitted")


@pytest.mark.parametrize("retriever", RETRIEVERS, ids=lambda r: type(r).__name__)
def test_first_stage_is_fit_on_training_alone(
    demo: Dataset, split: Split, retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    fit = type(retriever).fit
    monkeypatch.setattr(type(retriever), "fit", lambda self, c, t: (seen.append(t.histories), fit(self, c, t))[1])
    prepare(demo, split, Candidates(size=20, retriever=retriever), tmp_path, "x")
    assert seen and all(s is split.train.histories for s in seen)
    seen.clear()
    prepare(demo, split, Candidates(size=20, retriever=retriever), tmp_path, "y", refit_on_validation=True)
    assert [len(s.values) for s in seen] == [len(split.train.histories.values), len(split.test.histories.values)]


@pytest.mark.parametrize("retriever", RETRIEVERS, ids=lambda r: type(r).__name__)
def test_fitting_leaves_the_training_data_as_it_was(split: Split, retriever: Retriever, demo: Dataset) -> None:
    before = split.train.histories.values.copy()
    retriever.fit(demo.catalog, split.train)
    retriever.score(split.test)
    assert np.array_equal(before, split.train.histories.values)


def test_retrievers_on_a_case_worked_by_hand() -> None:
    sequences = Ragged.from_rows([[0, 1, 2], [0, 1], [3, 1]])
    catalog: Any = range(5)

    def phase(rows: Ragged) -> Phase:
        return Phase(np.arange(len(rows)), rows, Ragged.empty(len(rows)))

    popularity = Popularity()
    popularity.fit(catalog, phase(sequences))
    assert popularity.score(phase(Ragged.from_rows([[]])))[0].tolist() == [2, 3, 1, 1, 0]
    markov = Markov(last_n=2, decay=0.5, window=2)
    markov.fit(catalog, phase(sequences))  # from 0: 1 twice at distance 1, 2 once at distance 2 = 2 and 1/2, sum 2.5
    assert markov.score(phase(Ragged.from_rows([[3, 0]])))[0] == pytest.approx(
        [-np.inf, 0.8 + 0.5, 0.2, -np.inf, -np.inf]
    )
    knn = ItemKNN(last_n=1, decay=1.0, neighbours=10)
    knn.fit(catalog, phase(sequences))
    expected = [2 / np.sqrt(2 * 3), -np.inf, 1 / np.sqrt(3), 1 / np.sqrt(3), -np.inf]
    assert knn.score(phase(Ragged.from_rows([[0, 1]])))[0] == pytest.approx(expected)
    ease = EASE(last_n=None, decay=1.0, regularization=2.0)
    ease.fit(catalog, phase(sequences))
    x = np.zeros((3, 5))
    for r in range(3):
        x[r, sequences.row(r)] = 1
    p = np.linalg.inv(x.T @ x + 2 * np.eye(5))
    b = np.eye(5) - p / np.diag(p)
    assert ease.score(phase(Ragged.from_rows([[0, 3]])))[0] == pytest.approx((b[0] + b[3]), abs=1e-6)


@pytest.mark.parametrize("n", [1, 5, 1024, 1025, 2100])
def test_the_inverse_in_place_is_numpys(n: int) -> None:
    a = np.random.default_rng(n).standard_normal((n, n + 10)).astype(np.float32)
    matrix = np.asfortranarray(a @ a.T / n + 3 * np.eye(n, dtype=np.float32))
    wanted = np.linalg.inv(matrix.astype(np.float64))
    got = _inverse(matrix)
    assert np.allclose(got, wanted, atol=1e-5) and np.array_equal(got, got.T)


def test_ease_refuses_a_large_catalogue_and_names_markov() -> None:
    with pytest.raises(UserError, match="retriever=markov"):
        EASE(max_items=3).fit(range(4), Phase(np.arange(1), Ragged.from_rows([[0, 1]]), Ragged.empty(1)))  # type: ignore[arg-type]


def test_last_id_plus_one_scores_as_chance(tmp_path: Path) -> None:
    """Ids in order of first appearance, as in the P5 and S3-Rec files, tell the next item; rows must not."""
    rng = np.random.default_rng(0)
    n_users, n_items = 400, 900
    raw: dict[int, str] = {}
    rows = []
    for user in range(n_users):
        for step, item in enumerate(rng.choice(n_items, 8, replace=False)):
            rows.append((f"u{user}", raw.setdefault(int(item), f"{len(raw):05d}"), 1000 * user + step, 1.0))
    events = pd.DataFrame(rows, columns=pd.Index(["user", "item", "timestamp", "rating"]))

    leaky = np.array([int(item) for item in events["item"]]).reshape(n_users, 8)
    assert (leaky[:, -1] == leaky[:, -2] + 1).mean() > 0.05  # the leak is there in the source's ids

    from data.sources.source import Raw, Source

    class Leaky(Source):
        def read(self, data_dir: Path) -> Raw:
            items = pd.DataFrame({"title": sorted(set(events["item"]))}, index=pd.Index(sorted(set(events["item"]))))
            return Raw(events, items, "made", "none", {})

    dataset = Leaky(name="leaky").load(tmp_path)
    split = LeaveOneOut().split(dataset)
    got = prepare(dataset, split, Candidates(mode="full", retriever=Popularity()), tmp_path, "x")
    evaluator = Evaluator(got.test, got.test_relevance, ["ndcg", "recall"], [5, 10], 0)

    def next_row(requests):  # type: ignore[no-untyped-def]
        last = requests.histories.last(1)
        return -np.abs(np.arange(requests.width) - last - 1).astype(np.float32)

    result = evaluator(next_row)
    for metric, mean in result.means.items():
        center, _, high = evaluator.chance(result.ranks).interval(metric)
        assert mean < center + 1.6 * (high - center), metric


def test_refused_settings(demo: Dataset, split: Split, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exceeds the catalogue"):
        prepare(demo, split, Candidates(size=500), tmp_path, "a")
    with pytest.raises(UserError, match="outside the history"):
        prepare(demo, split, Candidates(mode="sampled", size=55), tmp_path, "b")
    for settings in ({"mode": "all"}, {"size": 1}, {"presentation": "x"}, {"negatives": "x"}, {"mode": "file"}):
        with pytest.raises(UserError):
            Candidates(**settings)  # type: ignore[arg-type]
    assert not (tmp_path / "candidates" / "a.parquet").exists()


def test_max_requests_is_a_seeded_subset(demo: Dataset, split: Split, tmp_path: Path) -> None:
    few = prepare(demo, split, Candidates(size=20), tmp_path, "few", max_requests=15, max_validation_requests=7)
    assert (len(few.test), len(few.validation)) == (15, 7)
    assert set(few.test.ids) < set(split.test.ids)


def test_a_repeated_target_is_not_filtered(tmp_path: Path) -> None:
    none = np.array([""] * 6, dtype=object)
    catalog = Catalog(np.array(list("abcdef"), dtype=object), none, none, none, none, none, none)
    user, item = np.repeat([0, 1], 5).astype(np.int32), np.array([0, 1, 2, 3, 0, 1, 2, 3, 4, 5], dtype=np.int32)
    events = Interactions(user, item, np.arange(10), np.ones(10, dtype=np.float32))
    dataset = Dataset(
        "d", "recommendation", catalog, np.array(["u", "v"], dtype=object), events, Provenance("", "", {})
    )
    split = LeaveOneOut().split(dataset)
    got = prepare(dataset, split, Candidates(size=6, retriever=Popularity()), tmp_path, "x")
    assert isinstance(split.test, Phase) and got.test.candidates is not None
    assert set(got.test.candidates[0].tolist()) == {0, 4, 5, -1}  # 1, 2, 3 are history, 0 is history and target
