"""What is read, written and ranked in parts is what it is as a whole."""

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from data import candidate_file, parquet_parts, progress, rows
from data.candidates import retrieve
from data.dataset import Dataset
from data.errors import UserError
from data.filters import drop_duplicates, k_core
from data.parquet_parts import read_parts, write_parts
from data.ranking import best, best_linked, rows_together
from data.retrievers import Markov
from data.rows import read_rows
from data.run_file import RunFile, read_run_file
from data.sources.movielens import MovieLens100K
from data.splits import LeaveOneOut, Phase
from experiments import clock, results
from experiments.clock import Clock
from experiments.endurance.big_check import histories, markov
from experiments.endurance.big_data import generate


def same(a: RunFile, b: RunFile) -> bool:
    fields = ("requests", "items", "row", "item", "scores")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in fields)


def pairs_table() -> pd.DataFrame:
    """Seven requests of three pairs each, those of `u6` in two places."""
    request = [f"u{n}" for n in (6, *np.repeat(range(6), 3), 6, 6)]
    candidate = [f"i{(5 * n) % 11}" for n in range(len(request))]
    return pd.DataFrame({"request": request, "candidate": candidate, "score": np.arange(len(request)) / 8})


@pytest.mark.parametrize("group", [100, 4])
def test_pairs_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int) -> None:
    path = tmp_path / "predictions.parquet"
    pairs_table().to_parquet(path, row_group_size=group)
    whole = read_run_file(path, "path")
    monkeypatch.setattr(parquet_parts, "READ", 2)  # a request's three pairs are never in one part
    parts = read_run_file(path, "path")
    assert whole.keys() == parts.keys() and all(same(whole[name], parts[name]) for name in whole)
    (only,) = parts.values()
    rows = np.flatnonzero(only.row == only.requests.tolist().index("u6"))
    assert only.scores[rows].tolist() == [0, 19 / 8, 20 / 8]


def test_a_bad_score_is_named_by_its_row_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_parts, "READ", 2)
    table = pairs_table()
    table.loc[12, "score"] = np.nan
    table.to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(UserError, match="row 13: the score None is not a finite number"):
        read_run_file(tmp_path / "predictions.parquet", "path")


def lists(dataset: Dataset) -> dict[str, tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    rng = np.random.default_rng(0)
    out = {}
    for name, size in (("validation", 9), ("test", 14)):
        items = rng.permuted(np.tile(np.arange(len(dataset.catalog), dtype=np.int32), (size, 1)), axis=1)[:, :5]
        items[::4, 2:] = -1  # the first stage found two
        users = rng.permutation(len(dataset.user_id))[:size]
        out[name] = (users, (items, rng.random(items.shape, dtype=np.float32)))
    return out


def test_lists_written_and_read_in_parts(demo: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = lists(demo)
    candidate_file.write_lists(tmp_path / "whole.parquet", demo, given)
    monkeypatch.setattr(candidate_file, "PAIRS", 20)
    candidate_file.write_lists(tmp_path / "parts.parquet", demo, given)
    groups = [pq.ParquetFile(tmp_path / name).num_row_groups for name in ("whole.parquet", "parts.parquet")]
    assert groups == [1, 3 + 4]  # four lists of five each
    whole = read_run_file(tmp_path / "whole.parquet", "path")
    monkeypatch.setattr(parquet_parts, "READ", 3)
    parts = read_run_file(tmp_path / "parts.parquet", "path")
    assert list(whole) == list(parts) == ["validation", "test"]
    for name, (users, (items, scores)) in given.items():
        assert same(whole[name], parts[name])
        again = candidate_file.to_lists(parts[name], demo, users, name, "error", own=True)
        assert (again[0] == items).all() and (again[1][items >= 0] == scores[items >= 0]).all()


def test_predictions_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users, ids = (np.array([f"{name}{n}" for n in range(9)], dtype=object) for name in "ui")
    items = np.random.default_rng(0).integers(-1, 9, (9, 4)).astype(np.int32)
    scores = np.arange(36, dtype=np.float32).reshape(9, 4)
    results.write_predictions(tmp_path / "whole.parquet", users, ids, items, scores)
    row, place = np.nonzero(items >= 0)
    columns = {"request": users[row], "candidate": ids[items[row, place]], "score": scores[row, place]}
    expected = pd.DataFrame(columns | {"rank": (place + 1).astype(np.int32)})
    expected.to_parquet(tmp_path / "pandas.parquet", index=False)
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "pandas.parquet").read_bytes()
    monkeypatch.setattr(results, "ROWS", 7)
    results.write_predictions(tmp_path / "parts.parquet", users, ids, items, scores)
    expected.to_parquet(tmp_path / "pandas.parquet", index=False, row_group_size=7)
    assert pq.ParquetFile(tmp_path / "parts.parquet").num_row_groups > 3
    assert (tmp_path / "parts.parquet").read_bytes() == (tmp_path / "pandas.parquet").read_bytes()


def test_a_file_is_replaced_when_its_last_part_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parts(path, [pa.table({"n": [1]})])

    def breaks() -> Iterator[pa.Table]:
        yield pa.table({"n": [2]})
        raise UserError("the disk is full")

    with pytest.raises(UserError):
        write_parts(path, breaks())
    assert pq.read_table(path)["n"].to_pylist() == [1]


@pytest.mark.parametrize(("error", "expected"), [(MemoryError, MemoryError), (pa.ArrowMemoryError, UserError)])
def test_a_machine_without_memory_is_no_damaged_file(error: type, expected: type, tmp_path: Path) -> None:
    """pyarrow's own error names the size that it was asked for, which a damaged file may hold."""
    write_parts(path := tmp_path / "a.parquet", [pa.table({"n": [1]})])
    file = SimpleNamespace(metadata=SimpleNamespace(num_rows=1), iter_batches=lambda *a, **k: failing())

    def failing() -> Iterator[Any]:
        raise error("malloc of size 9 failed")
        yield

    with pytest.raises(expected):
        next(read_parts(path, file, ["n"]))  # type: ignore[arg-type]


def test_fewer_requests_at_a_time_for_a_larger_catalogue() -> None:
    assert rows_together(1_682) == rows_together(50_000) == 1024  # what it always was for the usual catalogues
    for n_items in (200_000, 10_000_000):
        assert rows_together(n_items) * n_items <= 2**26
    assert rows_together(10**9) == 1


def test_equal_keys_come_in_the_order_of_items_however_a_row_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.ranking.keys", lambda seed, use, ids, items: np.zeros(items.shape, dtype=np.uint64))
    stored = np.array([4, 1, 3, 0, 2])
    linked = sp.csr_matrix((np.ones(5, dtype=np.float32), stored, [0, 5]), shape=(1, 5))
    dense = best(np.ones((1, 5), dtype=np.float32), np.array([0]), 3, 0)[0]
    assert best_linked(linked, np.array([0]), 3, 0)[0].tolist() == dense.tolist() == [[0, 1, 2]]


def test_the_best_of_what_is_linked_are_the_best(demo: Dataset) -> None:
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((40, 300)) < 0.3, rng.integers(1, 6, (40, 300)), 0).astype(np.float32)  # many ties
    dense[3] = 0
    dense[4, 5:] = 0  # fewer than are asked for
    ids = rng.permutation(40)
    expected = best(np.where(dense == 0, -np.inf, dense), ids, 20, 7)
    got = best_linked(sp.csr_matrix(dense), ids, 20, 7)
    assert all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True))
    split, n_items = LeaveOneOut().split(demo), len(demo.catalog)
    for filter_seen in (True, False):
        lists = []
        for kind in (Markov, Unlinked):
            retriever = kind()
            retriever.fit(demo.catalog, split.train)
            lists.append(retrieve(retriever, split.test, n_items, 20, filter_seen, 0))
        assert all(np.array_equal(a, b) for a, b in zip(*lists, strict=True))


class Unlinked(Markov):
    """The same scores as a dense array alone."""

    def linked(self, phase: Phase) -> Any:
        return None

    def score(self, phase: Phase) -> np.ndarray:
        dense = super().linked(phase).toarray()
        return np.where(dense == 0, -np.inf, dense).astype(np.float32)


COLUMNS = {"user": "str", "item": "str", "rating": "float64", "timestamp": "int64"}


def test_rows_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lines = tmp_path / "u.data", [f"{n % 7}\ti{n}\t{n / 4}\t{10**9 + n}" for n in range(50)]
    path.write_text("\n".join([*lines[:20], "", *lines[20:]]) + "\n")
    whole = read_rows(path, "\t", COLUMNS, "error", [])
    monkeypatch.setattr(rows, "PART", 40)
    pd.testing.assert_frame_equal(read_rows(path, "\t", COLUMNS, "error", []), whole)
    assert len(whole) == 50
    lines[33], lines[41] = "1\ti33\tgood\t1", "1\ti41"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match="line 34: rating is 'good'"):
        read_rows(path, "\t", COLUMNS, "error", [])
    notes: list[str] = []
    kept = read_rows(path, "\t", COLUMNS, "skip", notes)
    pd.testing.assert_frame_equal(kept, whole.drop(index=[33, 41]).reset_index(drop=True))
    assert notes == ["2 bad rows of u.data were left out"]


@pytest.mark.parametrize("kind", ["str", "category"])
def test_filters_agree_with_tables_of_groups(kind: str) -> None:
    rng = np.random.default_rng(0)
    columns = {name: (30 * rng.random(700) ** 1.3).astype(int).astype(str) for name in ("user", "item")}
    events = pd.DataFrame(columns | {"timestamp": rng.integers(0, 30, 700), "rating": 1.0})
    events = events.astype({"user": kind, "item": kind})[rng.random(700) < 0.95]  # an index with gaps
    order = events.sort_values("timestamp", kind="stable")
    expected = events[~order.duplicated(["user", "item"]).reindex(events.index)]
    unique = drop_duplicates(events, [])
    pd.testing.assert_frame_equal(unique, expected)
    while True:
        sizes = [expected.groupby(name, observed=True)["rating"].transform("size") for name in ("user", "item")]
        if (enough := (sizes[0] >= 11) & (sizes[1] >= 11)).all():
            break
        expected = expected[enough]
    assert 0 < len(expected) < len(unique)
    pd.testing.assert_frame_equal(k_core(unique, 11, []), expected)


def test_generated_ratings_are_read_as_they_are_known(tmp_path: Path) -> None:
    generate(tmp_path, 10_000, 0)
    dataset = MovieLens100K(name="big", path=str(tmp_path), min_rating=2, k_core=5).load(tmp_path)
    known = histories(tmp_path, 2, 5)
    sequences, split = dataset.sequences, LeaveOneOut().split(dataset)
    assert len(known.user) == len(dataset.interactions)
    for user in range(0, len(sequences), 25):
        own = known.item[known.user == int(dataset.user_id[user])]
        assert dataset.catalog.id[sequences.row(user)].astype(int).tolist() == own.tolist()
    retriever = Markov()
    retriever.fit(dataset.catalog, split.train)
    items, scores = retrieve(retriever, split.test.take(slice(0, 3)), len(dataset.catalog), 10, True, 0)
    for row in range(3):
        by_hand = markov(known, int(dataset.user_id[split.test.ids[row]]))
        np.testing.assert_allclose(by_hand[dataset.catalog.id[items[row]].astype(int)], scores[row], rtol=1e-5)
        np.testing.assert_allclose(np.sort(by_hand)[::-1][:10], scores[row], rtol=1e-5)


def test_progress_without_a_terminal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert list(progress.bar(range(3), "counting")) == [0, 1, 2]
    assert not caplog.messages  # nothing of what is short
    monkeypatch.setattr(progress, "SAID", 0.0)
    monkeypatch.setattr(progress, "REDRAWN", 0.0)
    list(progress.bar(range(3), "counting"))
    list(itertools.islice(progress.bar(itertools.count(), "counting without an end"), 2))
    assert "  counting: 2 of 3 after 0 s" in caplog.messages
    assert "  counting without an end: 1 after 0 s" in caplog.messages
    monkeypatch.setattr(clock, "SLOW", 0.0)
    with Clock()("load"):
        pass
    assert caplog.messages[-1].startswith("  load: 0 s, at most ")
