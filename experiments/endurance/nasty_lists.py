"""Ranked lists made to hurt (parquet, CSV, TREC), as cases of `experiments.endurance.nasty_cases`."""

# mypy: disable-error-code=misc
from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.run_file import read_run_file
from experiments.endurance.breaking import Files
from experiments.endurance.list_readers import check_run_file, parquet
from experiments.endurance.nasty_cases import case, refused, write

TABLES = "parquet, CSV and TREC of the wrong kind"


@case(TABLES, "columns of the wrong type")
def _(folder: Path) -> None:
    text, pairs = pa.array(["u", "v"]), pa.array(["a", "b"])
    tables = {
        "the request is of type": {"request": pa.array([["u"], ["v"]]), "candidate": pairs},
        "it must hold a list": {"request": text, "candidates": pairs},
        "a request is null": {"request": pa.array(["u", None]), "candidate": pairs},
        "is null": {"request": text, "candidates": pa.array([["a"], None])},
        "is not a finite number": {"request": text, "candidate": pairs, "score": pa.array([1.0, float("nan")])},
        "the score is of type": {"request": text, "candidate": pairs, "score": pa.array([[1.0], [2.0]])},
        "differ in length": {"request": text, "candidates": [["a"], ["b"]], "first_stage_scores": [[1.0], [2.0, 1.0]]},
        "must be validation or test": {"request": text, "candidate": pairs, "phase": ["train", "test"]},
        "has no column request": {"candidate": pairs},
        "holds no list": {"request": pa.array([], pa.string()), "candidate": pa.array([], pa.string())},
    }
    for number, (said, columns) in enumerate(tables.items()):
        path = write(folder, {f"{number}.parquet": parquet(pa.table(columns))}) / f"{number}.parquet"
        refused(lambda path=path: read_run_file(path, "candidates.path"), str(path), said)


@case(TABLES, "numbers, dictionaries and large texts as ids")
def _(folder: Path) -> None:
    for number, kind in enumerate((pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view())):
        table = pa.table({"request": pa.array(["u", "v"]).cast(kind), "candidate": pa.array(["a", "b"]).cast(kind)})
        path = write(folder, {f"{number}.parquet": parquet(table)}) / f"{number}.parquet"
        (run,) = check_run_file(path).values()
        assert list(run.requests) == ["u", "v"] and list(run.items) == ["a", "b"]


@case(TABLES, "30 million rows in some kilobytes")
def _(folder: Path) -> None:
    path = folder / "bomb.parquet"
    rows = pa.array(["u"]).dictionary_encode().take(pa.array(np.zeros(10_000_000, np.int8)))
    table = pa.table({"request": rows, "candidate": rows})
    with pq.ParquetWriter(path, table.schema) as out:
        for _ in range(3):
            out.write_table(table, row_group_size=10_000_000)
    assert path.stat().st_size < 1_000_000
    refused(lambda: read_run_file(path, "candidates.path"), "30,000,000 rows in so small a file")


@case(TABLES, "20 GB of nothing, a pipe, a folder as lists")
def _(folder: Path) -> None:
    for ending in (".parquet", ".csv", ".trec"):
        (folder / f"a{ending}").touch()
        os.truncate(folder / f"a{ending}", 20 << 30)
        refused(lambda e=ending: read_run_file(folder / f"a{e}", "candidates.path"), f"a{ending}")
        os.mkfifo(folder / f"b{ending}")
        refused(lambda e=ending: read_run_file(folder / f"b{e}", "candidates.path"), f"b{ending}")
        (folder / f"c{ending}").mkdir()
        refused(lambda e=ending: read_run_file(folder / f"c{e}", "candidates.path"), "is a folder")


@case(TABLES, "words without end in a line of a run")
def _(folder: Path) -> None:
    path = write(folder, {"a.trec": b"u Q0 a 1 0.5 x\n" + b"x " * 5_000_000 + b"\n"}) / "a.trec"
    refused(lambda: read_run_file(path, "candidates.path"), "line 2: 5000000 words where a TREC run has 6")


@case(TABLES, "CSV of 10 MB in a line, of quotes that never end, of utf-16")
def _(folder: Path) -> None:
    files: Files = {
        "a.csv": b"user_id,item_id\nu," + b"x" * 10_000_000 + b'\n"u',
        "b.csv": b'user_id,item_id\nu,"a\nv,b\n',
        "c.csv": "user_id,item_id\nu,a\n".encode("utf-16"),
        "d.csv": "user_id,item_id\nú,a\n".encode("latin-1"),
    }
    write(folder, files)
    for name in files:
        refused(lambda name=name: read_run_file(folder / name, "candidates.path"), name)
