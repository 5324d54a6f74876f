"""Judgements of which passage is relevant to which query, in a file of their own.

qid 0 docid rel                   TREC, without a header, separated by blanks
query-id  corpus-id  score        BEIR, with a header, separated by tabs; other names and commas too
qid docid  or  qid docid rel      without a header

What is judged above 0 is relevant, whatever the grade.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError
from data.files import existing_file, read_text
from data.sources.passage_tables import NotAnId, id_of
from data.sources.passages import Passage, cleaned, known
from data.tables import BadRows, Place, composed, read_table

QUERY = ("query-id", "query_id", "queryid", "qid", "query")
PASSAGE = ("corpus-id", "corpus_id", "doc-id", "doc_id", "docid", "passage-id", "passage_id", "pid", "docno")
SCORE = ("score", "rel", "relevance", "label", "grade")
WIDTHS = {4: (0, 2, 3), 3: (0, 1, 2), 2: (0, 1, None)}  # fields of a file without header: query, passage, score
Judgement = tuple[str, str, str, Place]  # query, passage, score as it is written


def read_qrels(
    path: Path, passages: list[Passage], query_ids: set[str], bad: BadRows, notes: list[str]
) -> dict[str, list[str]]:
    """Query id -> ids of the relevant passages, in the file's order. A judgement of a query or passage that is not
    there is a bad row."""
    corpus = {cleaned(row.id): row for row in passages}
    relevant: dict[str, list[str]] = {}
    rejected, grades = 0, set()
    for query, passage, score, place in judgements(path, bad):
        try:
            grade = float(score)
        except ValueError:
            bad(place, f"the score {score[:40]!r} is no number")
            continue
        if not grade > 0:
            rejected += 1
        elif not (query := cleaned(query)) or query not in query_ids:
            bad(place, f"the queries have no id {query[:40]!r}")
        elif (passage := known(cleaned(passage), corpus)) not in corpus:
            bad(place, f"the corpus has no passage {passage[:40]!r}, which is to be relevant")
        else:
            relevant.setdefault(query, []).append(passage)
            grades.add(grade)
    if rejected:
        notes.append(f"{rejected:,} rows of {path.name} judge a passage as not relevant")
    if len(grades) > 1:
        notes.append(f"{path.name} has {len(grades)} grades of relevance above 0, which count alike")
    return relevant


def judgements(path: Path, bad: BadRows) -> Iterator[Judgement]:
    existing_file(path, "dataset.qrels")
    if path.suffix.lower() in (".jsonl", ".parquet", ".xlsx"):
        yield from _of_table(path, bad)
        return
    rows = [(n, line) for n, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]
    if not rows:
        raise UserError(f"{path} is empty; it must judge a passage a line")
    first = rows[0][1].strip()
    separator = next((mark for mark in "\t," if mark in first), None)
    names = [composed(name).casefold() for name in fields(first, separator)]
    if set(names) & set(QUERY):
        at, width = _columns(path, names), len(names)
        rows = rows[1:]
    elif len(names) in WIDTHS:
        at, width = WIDTHS[len(names)], len(names)
    else:
        raise UserError(
            f"{path}, line {rows[0][0]}: {len(names)} fields, which are no qrels; give `qid 0 docid rel`, or a header "
            "with query-id, corpus-id and score"
        )
    for number, line in rows:
        place, cells = Place(path, f"line {number}"), fields(line.strip(), separator)
        if len(cells) != width:
            bad(place, f"{len(cells)} fields where the first line has {width}")
            continue
        query, passage, score = (None if column is None else cells[column] for column in at)
        yield str(query), str(passage), "1" if score is None else score, place


def _columns(path: Path, names: list[str]) -> tuple[int, int, int | None]:
    found = [next((names.index(name) for name in known if name in names), None) for known in (QUERY, PASSAGE, SCORE)]
    if found[0] is None or found[1] is None:
        raise UserError(
            f"{path} has the columns {', '.join(names)}; it needs query-id and corpus-id, and may have score"
        )
    return found[0], found[1], found[2]


def _of_table(path: Path, bad: BadRows) -> Iterator[Judgement]:
    table = read_table(path, "dataset.qrels", bad)
    query = table.column("dataset.qrels", None, QUERY, "query ids")
    passage = table.column("dataset.qrels", None, PASSAGE, "passage ids")
    score = table.column_or_none("dataset.qrels", None, SCORE)
    for row, place in zip(table.rows, table.places, strict=True):
        try:
            yield id_of(row.get(query)), id_of(row.get(passage)), str(row.get(score)) if score else "1", place
        except NotAnId as problem:
            bad(place, str(problem))


def fields(line: str, separator: str | None) -> list[str]:
    if separator == ",":
        return [cell.strip().strip('"') for cell in line.split(",")]
    return [cell.strip() for cell in line.split(separator)]
