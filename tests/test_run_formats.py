"""The forms of a run file and the mistakes in them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from data.run_file import ONLY, read_run_file
from data.run_formats import from_parquet, from_trec


def same_lists(tmp_path: Path, name: str, content: str) -> list[tuple[str, list[str], list[float]]]:
    path = tmp_path / name
    path.write_text(content)
    (run,) = read_run_file(path, "key").values()
    bounds = run.offsets
    return [
        (
            str(user),
            list(run.items[run.item[bounds[q] : bounds[q + 1]]]),
            run.scores[bounds[q] : bounds[q + 1]].tolist(),
        )
        for q, user in enumerate(run.requests)
    ]


def test_the_forms_of_a_list(tmp_path: Path) -> None:
    ordered = [("u1", ["a", "b"], [0.0, -1.0]), ("u2", ["c"], [0.0])]
    for number, content in enumerate(
        (
            "u1,a,b\nu2,c\n",
            "user_id,item_ids\nu1,a b\n\nu2,c\n",
            'user_id,item_ids\r\nu1,"a b"\r\nu2,"c"\r\n',
            "user_id,item_id\nu1,a\nu2,c\nu1,b\n",
            "\ufeffuser_id,first,second\nu1,a,b\nu2,c\n",
        )
    ):
        assert same_lists(tmp_path, f"{number}.csv", content) == ordered, content
    scored = [("u1", ["a", "b"], [0.25, 0.5]), ("u2", ["c"], [-3.0])]
    assert same_lists(tmp_path, "s.csv", "score,item_id,user_id\n.25,a,u1\n-3,c,u2\n.5,b,u1\n") == scored
    assert same_lists(tmp_path, "s.trec", "u1 Q0 a 2 .25 x\nu2\tQ0\tc\t1\t-3\tx\nu1 Q0 b 1 .5 x\n") == scored
    path = tmp_path / "two.csv"
    path.write_text("phase,user_id,item_ids\nvalidation,u1,a\ntest,u1,b c\n")
    two = read_run_file(path, "key")
    assert {phase: list(run.items[run.item]) for phase, run in two.items()} == {
        "validation": ["a"],
        "test": ["b", "c"],
    }
    assert ONLY not in two


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "user_id,item_id,score\nu,a,0.5\nu,b,high\n", "line 3: the score 'high' is not a finite number"),
        ("b.csv", "user_id,item_id,score\nu,,0.5\n", "line 2: item_id is empty"),
        ("c.csv", "user_id,item_id\nu,a\nu,a\n", "lists the candidate a of user u twice"),
        ("d.csv", "u,a\n\nv\n", "line 3: a user without an item id"),
        ("e.csv", "", "holds no list"),
        ("f.csv", "rank,item_id\n1,a\n", "no column request"),
        ("g.trec", "u Q0 a 1 0.5 x\nu Q0 b 0.5 x\n", "line 2: 5 words where a TREC run has 6"),
        ("h.trec", "u Q0 a 1 nan x\n", "line 1: the score 'nan' is not a finite number"),
        ("i.json", "{}", "unknown ending"),
        ("j.parquet", "text", "not a parquet file"),
        ("k.csv", "u,a\0b\n", "NUL"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_run_file(tmp_path / name, "key")
    with pytest.raises(UserError, match="does not exist"):
        read_run_file(tmp_path / "none.csv", "key")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"request": ["u"], "candidate": ["a"], "score": [{"x": 1.0}]}, "score is of type struct"),
        ({"request": [["u"]], "candidate": ["a"], "score": [1.0]}, "request is of type list"),
        ({"request": ["u"], "candidate": [None], "score": [1.0]}, "a item is null"),
        ({"request": ["u"], "candidates": [[["a"]]]}, "item is of type list"),
        ({"request": ["u"], "phase": [""], "candidate": ["a"]}, "the phase ''; it must be validation or test"),
    ],
)
def test_strange_parquet_columns(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pd.DataFrame(columns).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
        read_run_file(tmp_path / "a.parquet", "key")


def test_parquet_of_numbers_categories_and_ranks(tmp_path: Path) -> None:
    table = pd.DataFrame({"user_id": [7, 7, 8], "item_id": pd.Categorical(["a", "b", "a"]), "rank": [2, 1, 1]})
    table.to_parquet(tmp_path / "a.parquet")
    run = read_run_file(tmp_path / "a.parquet", "key")[ONLY]
    assert run.requests.tolist() == ["7", "8"] and run.items[run.item].tolist() == ["a", "b", "a"]
    assert run.scores.tolist() == [-2.0, -1.0, -1.0]


def test_ids_that_are_no_text_and_ranks_without_end(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.int32([0, 1]).tobytes()), pa.py_buffer(b"\xf6")]
    )
    table = pa.table({"request": bad, "candidate": pa.array(["a"]), "score": pa.array([1.0])})
    pq.write_table(table, tmp_path / "run.parquet")
    with pytest.raises(UserError, match=r"run\.parquet: a request is not UTF-8 text"):
        from_parquet(tmp_path / "run.parquet")
    (tmp_path / "run.trec").write_text("q Q0 a 1e400 2 x\nq Q0 b 1e400 1 x\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_trec(tmp_path / "run.trec").scores is not None
