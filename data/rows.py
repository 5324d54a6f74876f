"""Headerless tables of text, a row a line: parsed in C, and bad rows by their line number."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.errors import UserError
from data.files import read_text
from data.progress import bar

PART = 2**24  # letters parsed together
READABLE = {"int64": "a whole number", "float64": "a finite number", "str": "a text that is not empty"}


def read_rows(
    path: Path,
    sep: str,
    columns: dict[str, str],
    on_bad_row: str,
    notes: list[str],
    encoding: str = "utf-8",
) -> pd.DataFrame:
    """A headerless table whose first fields are `columns`, one row a line: name -> int64 | float64 | str | any.

    Clean lines are parsed in C, part by part. In a part that is not clean every line is looked at, so that a bad row
    (too few fields, a wrong type, not finite) is named by its line number, or counted and left out with
    `on_bad_row="skip"`. `str` must not be empty, `any` may. Further fields are ignored; empty lines are no rows.
    """
    text = read_text(path, encoding)
    tables, skipped, line = [], 0, 1
    for start, stop in bar(_parts(text), f"reading {path.name}"):
        part = text[start:stop]
        table = _parsed(part, sep, columns)
        if table is None:
            table, bad = _line_by_line(path, part, line, sep, columns, on_bad_row)
            skipped += bad
        tables.append(table)
        line += part.count("\n")
    if skipped:
        notes.append(f"{skipped:,} bad rows of {path.name} were left out")
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def _parts(text: str) -> list[tuple[int, int]]:
    """Start and stop of whole lines of about `PART` letters; of an empty text one empty part."""
    cuts = [0]
    while cuts[-1] < len(text):
        cuts.append(text.find("\n", cuts[-1] + PART) + 1 or len(text))
    return list(itertools.pairwise(cuts)) or [(0, 0)]


def _parsed(text: str, sep: str, columns: dict[str, str]) -> pd.DataFrame | None:
    """None if a row is bad."""
    names = list(columns)
    try:
        with np.errstate(invalid="ignore"):  # pandas casts an infinite value before it refuses it
            table = pd.read_csv(
                io.StringIO(text),
                sep=sep,
                header=None,
                usecols=range(len(names)),
                dtype={i: "str" if kind == "any" else kind for i, kind in enumerate(columns.values())},
                quoting=csv.QUOTE_NONE,
                keep_default_na=False,
                na_values=[""],
                engine="c",
            )
    except (ValueError, OverflowError):
        return None
    table.columns = pd.Index(names)
    free = [name for name, kind in columns.items() if kind == "any"]
    table[free] = table[free].fillna("")
    numbers = table.select_dtypes("number").to_numpy(np.float64)
    return None if table.isna().any().any() or (np.abs(numbers) >= 2**63).any() else table


def _line_by_line(
    path: Path, text: str, first: int, sep: str, columns: dict[str, str], on_bad_row: str
) -> tuple[pd.DataFrame, int]:
    """The good rows of lines that begin with number `first`, and how many were bad."""
    parse: dict[str, Callable[[str], Any]] = {"int64": whole_number, "float64": decimal_number, "str": str, "any": str}
    rows: list[list[Any]] = []
    skipped = 0
    for number, line in enumerate(text.split("\n"), start=first):
        if not line.strip():
            continue
        fields = line.split(sep)
        problem = None
        row: list[Any] = []
        if len(fields) < len(columns):
            problem = f"{len(fields)} fields where {len(columns)} are needed ({', '.join(columns)})"
        else:
            for (name, kind), value in zip(columns.items(), fields, strict=False):
                try:
                    row.append(parse[kind](value))
                    bad = value == "" if kind == "str" else kind != "any" and not abs(row[-1]) < 2**63
                except (ValueError, OverflowError):
                    bad = True
                if bad:
                    problem = f"{name} is {value[:40]!r}, not {READABLE[kind]}"
                    break
        if problem is None:
            rows.append(row)
        elif on_bad_row == "skip":
            skipped += 1
        else:
            raise UserError(
                f"{path}, line {number}: {problem}; mend it or pass dataset.on_bad_row=skip to leave such rows out"
            )
    table = pd.DataFrame(rows, columns=pd.Index(list(columns)))
    return table.astype({name: kind for name, kind in columns.items() if kind not in ("str", "any")}), skipped


def decimal_number(text: str) -> float:
    """As pandas reads it: Python takes 1_000 and the digits of every script too."""
    if "_" in text or not text.isascii():
        raise ValueError
    return float(text)


def whole_number(text: str) -> int:
    """1e5 and 1.0 are whole, as in pandas."""
    value = decimal_number(text)
    return int(value) if value.is_integer() and not text.strip().lstrip("+-").isdecimal() else int(text)
