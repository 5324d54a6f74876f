"""Texts to be ranked, in a file: a .txt with one a line, or a table with a column of texts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from data.errors import UserError
from data.files import existing_file, read_text
from data.sources.passage_tables import PASSAGE_ID, PASSAGE_TEXT, TITLE, NotAnId, id_of, words_of
from data.sources.passages import cleaned, titled
from data.tables import ENDINGS, BadRows, Place, read_table


class Text(NamedTuple):
    id: str  # the line or row, where the file gives no ids
    text: str


class Strict(BadRows):
    def __call__(self, place: Place, problem: str) -> None:
        raise UserError(f"{place}: {problem}; mend it")


def read_texts(path: Path, key: str, column: str | None = None) -> list[Text]:
    """Lines without words are no texts; a row of a table without one is a UserError. A title stands before its text.
    `column` names the one of texts; by default the first that has a known name."""
    existing_file(path, key)
    if path.suffix.lower() == ".txt":
        lines = enumerate(map(cleaned, read_text(path).split("\n")), start=1)
        return some([Text(str(number), line) for number, line in lines if line], path)
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"{path}: unknown ending {path.suffix!r} of {key}; use {', '.join(('.txt', *ENDINGS))}")
    bad = Strict("error")
    table = read_table(path, key, bad)
    texts = table.column("column", column, PASSAGE_TEXT, "texts")
    titles = None if column else table.column_or_none("column", None, TITLE)
    ids = table.column_or_none("column", None, tuple(name for name in PASSAGE_ID if name != texts))
    out = []
    for number, (row, place) in enumerate(zip(table.rows, table.places, strict=True), start=1):
        try:
            title = cleaned(words_of(row.get(titles))) if titles else ""
            text = titled(title, cleaned(words_of(row.get(texts))))
            name = id_of(row.get(ids)) if ids else ""
        except NotAnId as problem:
            bad(place, str(problem))
        if not text:
            bad(place, "a row without a text")
        out.append(Text(name or str(number), text))
    return some(out, path)


def some(texts: list[Text], path: Path) -> list[Text]:
    if not texts:
        raise UserError(f"{path} has no text; give a file with at least one")
    return texts
