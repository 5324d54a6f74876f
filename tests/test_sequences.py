"""Published sequences: the form, its mistakes, and what the shared Beauty file must give."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.candidates import Candidates, prepare
from data.dataset import Dataset, Requests
from data.errors import UserError
from data.retrievers import Popularity
from data.sources.sequences import Sequences
from data.splits import LeaveOneOut, Temporal
from experiments.config import configure
from experiments.evaluation import Evaluator


def load(folder: Path, text: str, items: list[dict[str, Any]] | None = None, **settings: Any) -> Dataset:
    (folder / "sequences.txt").write_text(text)
    if items is not None:
        (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    name = "items.jsonl" if items is not None else None
    source = Sequences(name="s", path=str(folder), items=name, missing_titles="keep", **settings)
    return source.load(folder)


def sequences_of(dataset: Dataset) -> dict[str, list[str]]:
    rows = {user: dataset.sequences.row(row) for row, user in enumerate(dataset.user_id)}
    return {user: [dataset.catalog.id[i] for i in row] for user, row in rows.items()}


def test_lines_become_sequences_in_their_order(tmp_path: Path) -> None:
    dataset = load(tmp_path, "u1 9 3 7\r\n\nu2\t3  4\n10 7 9 3 4")
    assert sequences_of(dataset) == {"u1": ["9", "3", "7"], "u2": ["3", "4"], "10": ["7", "9", "3", "4"]}
    split = LeaveOneOut().split(dataset)
    assert {str(dataset.catalog.id[i]) for i in split.test.relevant.values} == {"7", "4"}
    assert "the data has no timestamps; the file's order decides" in split.notes
    with pytest.raises(UserError, match="has no timestamps to cut at; use protocol=leave_one_out"):
        Temporal().split(dataset)


def test_texts_are_one_line_and_paths_one_tuple(tmp_path: Path) -> None:
    items = [
        {"item_id": 3, "title": "Soap &amp;\n Water\t", "categories": [["Beauty", "Bath"], ["Beauty", "Gifts"]]},
        {"item_id": 9, "title": None, "categories": ["Hair"], "description": ["one", "two"]},
        {"item_id": 1, "title": "never touched"},
    ]
    catalog = load(tmp_path, "u 9 3 7\n", items).catalog
    row = catalog.row_of_id
    assert set(row) == {"3", "9", "7"}
    assert catalog.title[row["3"]] == "Soap & Water" and catalog.title[row["9"]] == ""
    assert catalog.categories[row["3"]] == ("Beauty", "Bath", "Gifts") and catalog.categories[row["9"]] == ("Hair",)
    assert catalog.description[row["9"]] == "one two" and catalog.title[row["7"]] == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u 1 2\nv\nw 1 2\n", "line 2: user v has no item"),
        ("u 1 2\n\nu 3\n", "line 3: user u stands there a second time"),
        ("u 1\0 2\n", "line 1: a NUL byte"),
    ],
)
def test_bad_lines_are_named_or_left_out(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, text)
    if "\0" not in text:
        dataset = load(tmp_path, text, on_bad_row="skip")
        assert sequences_of(dataset)["u"] == ["1", "2"] and "1 bad rows" in dataset.provenance.notes[0]


def test_what_looks_like_a_text_is_read_where_rows_may_be_bad(tmp_path: Path) -> None:
    text = "u1 a: b: c:\nu2 d: e: f:\nu3 a: g: h:\n"
    says = r"looks like a table or a text: .* 7 of 8 items stand there once; .* pass dataset\.on_bad_row=skip"
    with pytest.raises(UserError, match=says):
        load(tmp_path, text)
    dataset = load(tmp_path, text, on_bad_row="skip")
    assert sequences_of(dataset)["u3"] == ["a:", "g:", "h:"]
    assert "7 of 8 items stand there once" in dataset.provenance.notes[0]


def test_what_is_missing_is_said(tmp_path: Path, config: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"needs dataset\.path, the folder that holds sequences\.txt"):
        configure(config("dataset=beauty_sequences", small=False)).source.load(tmp_path)
    with pytest.raises(UserError, match=r"has no file sequences\.txt"):
        Sequences(name="s", path=str(tmp_path)).load(tmp_path)
    with pytest.raises(UserError, match="no interactions left"):
        load(tmp_path, "\n\n")
    with pytest.raises(UserError, match="record 2: no item_id"):
        load(tmp_path, "u 1 2 3\n", [{"item_id": 1}, {"title": "x"}])
    with pytest.raises(UserError, match="record 2: the item_id 1 stands there a second time"):
        load(tmp_path, "u 1 2 3\n", [{"item_id": 1}, {"item_id": 1}])
    with pytest.raises(UserError, match=r"has none of the items .* \(it has 'i1', the other '1'\)"):
        load(tmp_path, "u 1 2 3\n", [{"item_id": "i1"}])
    for ratings in ("u,1,2\nv,1,2\n", "u 1 5 100\nu 2 5 101\nu 3 5 102\n"):
        with pytest.raises(UserError, match="is not a file of sequences"):
            load(tmp_path, ratings, on_bad_row="skip")


def test_shared_beauty_has_the_published_counts(shared_data: Path, config: Callable[..., Any]) -> None:
    path = f"dataset.path={shared_data / 'amazon-beauty'}"
    dataset = configure(config("dataset=beauty_sequences", path, small=False)).source.load(shared_data)
    assert (len(dataset.user_id), len(dataset.catalog), len(dataset.interactions)) == (22_363, 12_101, 198_502)
    assert not any(set(title) & set("\n\t\r") for title in dataset.catalog.title)
    split = LeaveOneOut().split(dataset)
    assert len(split.test) == 22_363 and (split.train.histories.lengths >= 3).all()
    numbers = dataset.catalog.id.astype(np.int64)
    assert abs(np.corrcoef(numbers, np.arange(len(numbers)))[0, 1]) < 0.03, "row numbers carry no order of appearance"


@pytest.mark.parametrize("numbering", ["the file's", "ours"])
def test_last_id_plus_one_works_on_the_files_numbers_alone(
    numbering: str, shared_data: Path, config: Callable[..., Any], tmp_path: Path
) -> None:
    path = f"dataset.path={shared_data / 'amazon-beauty'}"
    dataset = configure(config("dataset=beauty_sequences", path, small=False)).source.load(shared_data)
    number = dataset.catalog.id.astype(np.int64) if numbering == "the file's" else np.arange(len(dataset.catalog))
    full = Candidates(mode="full", retriever=Popularity())
    got = prepare(
        dataset, LeaveOneOut().split(dataset), full, tmp_path, "x", max_requests=4000, max_validation_requests=10
    )
    evaluator = Evaluator(got.test, got.test_relevance, ["ndcg"], [10], 0)

    def next_number(requests: Requests) -> np.ndarray:
        ahead = number - number[requests.histories.last(1)]
        return -np.where(ahead > 0, ahead, 10**6).astype(np.float32)

    result = evaluator(next_number)
    chance, _, high = evaluator.chance(result.ranks).interval("ndcg_at_10")
    ndcg = result.means["ndcg_at_10"]
    assert ndcg > 20 * high if numbering == "the file's" else ndcg < chance + 2 * (high - chance)
