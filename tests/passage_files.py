"""A corpus of four passages and three queries, written to files by the tests of passages."""

import json
from pathlib import Path
from typing import Any

from data.dataset import Dataset

TEXTS = {"1": "Hoà Bình có hồ", "2": "trận đấu", "3": "a lake", "4": "nobody asks for this"}
ASKED = {"q1": ("hồ ở đâu", ["1", "3"]), "q2": ("ai thắng trận", ["2"]), "q3": ("where is the lake", ["3"])}


def write_lines(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


def write_sheet(path: Path, *rows: tuple[Any, ...], trailing: int = 3) -> Path:
    """An XLSX file of one sheet, with blank rows after its end."""
    from openpyxl import Workbook

    book = Workbook()
    assert book.active is not None
    for row in [*rows, *[(None,)] * trailing]:
        book.active.append(row)
    book.active.cell(len(rows) + trailing + 5, 9, " ")
    book.save(path)
    return path


def write_corpus(folder: Path) -> Path:
    return write_lines(folder / "corpus.jsonl", *({"_id": i, "text": text} for i, text in TEXTS.items()))


def write_queries(folder: Path, relevant: bool = True) -> Path:
    rows = [{"_id": i, "text": t} | ({"relevant": r} if relevant else {}) for i, (t, r) in ASKED.items()]
    return write_lines(folder / "queries.jsonl", *rows)


def pairs_of(dataset: Dataset) -> dict[str, tuple[str, list[str]]]:
    """Query id -> its text and the ids of what is relevant to it."""
    assert dataset.queries is not None
    ids = dataset.catalog.id
    rows = [(dataset.queries[u], [ids[i] for i in dataset.sequences.row(u)]) for u in range(len(dataset.user_id))]
    return dict(zip(dataset.user_id, rows, strict=True))
