"""From tables to passages and queries: which column is which, and what a cell of ids may look like.

A cell of relevant passages is a number, a list, or a text: `15, 37`, `15; 37`, one id a line, `["15", "37"]`.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.sources.passages import Passage, Query
from data.tables import BadRows, Table, read_table

PASSAGE_ID = ("id", "_id", "doc_id", "docid", "passage_id", "pid", "corpus-id", "corpus_id", "STT")
PASSAGE_TEXT = ("text", "passage", "content", "contents", "document", "body", "Văn bản")
TITLE = ("title",)
QUERY_ID = ("id", "_id", "query_id", "query-id", "qid", "question_id")
QUERY_TEXT = ("query", "question", "text")
RELEVANT = ("relevant", "relevant_ids", "positives", "positive_ids", "doc_ids", "Ground truth document")


class NotAnId(Exception):
    """Says what a cell of ids holds instead."""


@dataclass(frozen=True)
class QueryColumns:
    """Names given by config; None: the first known name that the file has."""

    id: str | None = None
    text: str | None = None
    relevant: str | None = None


def read_passages(
    path: Path, key: str, bad: BadRows, id: str | None = None, text: str | None = None, title: str | None = None
) -> list[Passage]:
    table = read_table(path, key, bad)
    ids = table.column("dataset.id_column", id, PASSAGE_ID, "passage ids")
    texts = table.column("dataset.text_column", text, PASSAGE_TEXT, "passages' texts")
    titles = table.column_or_none("dataset.title_column", title, TITLE)
    rows = []
    for row, place in zip(table.rows, table.places, strict=True):
        heading = row.get(titles) if titles else None
        try:
            rows.append(Passage(id_of(row.get(ids)), words_of(row.get(texts)), place, words_of(heading)))
        except NotAnId as problem:
            bad(place, str(problem))
    return rows


def read_queries(
    path: Path,
    key: str,
    bad: BadRows,
    columns: QueryColumns,
    part: str | None = None,
    numbered: str = "",
    judged: bool = False,
) -> list[Query]:
    """Without an id column queries are numbered from 1, after the prefix `numbered`. `judged`: what is relevant stands
    in qrels, not in a column, and the lists of relevant passages are empty."""
    table = read_table(path, key, bad)
    texts = table.column("dataset.query_column", columns.text, QUERY_TEXT, "queries")
    known = tuple(name for name in QUERY_ID if name != texts)
    ids = table.column_or_none("dataset.query_id_column", columns.id, known)
    if judged and ids is None:
        ids = table.column("dataset.query_id_column", None, known, "query ids, which qrels need")
    relevants = None if judged else relevant_column(table, columns.relevant)
    rows = []
    for number, (row, place) in enumerate(zip(table.rows, table.places, strict=True), start=1):
        try:
            name = id_of(row.get(ids)) if ids else f"{numbered}{number}"
            found = ids_of(row.get(relevants)) if relevants else []
            rows.append(Query(name, words_of(row.get(texts)), found, place, part))
        except NotAnId as problem:
            bad(place, str(problem))
    return rows


def relevant_column(table: Table, given: str | None) -> str:
    if (name := table.column_or_none("dataset.relevant_column", given, RELEVANT)) is None:
        return table.column("dataset.relevant_column", None, (), "relevant passages (or give dataset.qrels=)")
    return name


def id_of(value: Any) -> str:
    """A text or whole number; 5.0 is 5, for spreadsheets know no whole numbers."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if empty(value):
        return ""
    raise NotAnId(f"{shown(value)} is no id; ids are texts or whole numbers")


def ids_of(value: Any) -> list[str]:
    """The ids of a cell, in its order. An empty list is none; an empty cell is a mistake."""
    if isinstance(value, list | tuple):
        return [id_of(entry) for entry in value if not empty(entry)]
    if empty(value) or (isinstance(value, str) and not value.strip()):
        raise NotAnId("no relevant passage is given; the cell is empty")
    if not isinstance(value, str):
        return [id_of(value)]
    if value.strip().startswith("["):
        try:
            entries: Iterable[Any] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise NotAnId(f"{shown(value)} is no list of ids") from None
        return ids_of(list(entries))
    return [name.strip() for name in re.split(r"[,;|\n\r\t]", value) if name.strip()]


def words_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    if empty(value):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise NotAnId(f"{shown(value)} is no text")


def empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def shown(value: Any) -> str:
    try:
        return repr(value)[:40]
    except ValueError:  # Python prints no whole number of more than 4,300 digits
        return f"a very long {type(value).__name__}"


def one_file(folder: Path | None, name: str, key: str) -> Path:
    """A file of the folder `dataset.path`, or anywhere."""
    path = Path(name) if folder is None else folder / name
    if not path.is_file():
        where = f"{folder} has no file {name} ({key})" if folder is not None else f"{key}={name} does not exist"
        raise UserError(f"{where}; give {key}= an existing file")
    return path
