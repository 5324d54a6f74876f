"""The base of datasets of passages: a corpus, queries, and which passages are relevant to each query.

A query is a user and its relevant passages are its interactions, so that splits, candidates and evaluation are those
of recommendation. Passages that no query needs stay: they are what is searched. A new format is a subclass with
`read`; everything that can be wrong with a corpus or its queries, whatever the format, is found here.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.dataset import PARTS, Catalog, Dataset, Interactions, Provenance
from data.errors import UserError, check_seed, one_of
from data.files import existing_folder, file_sha256
from data.sources.item_text import whole
from data.tables import BadRows, Place
from data.texts import folded


class Passage(NamedTuple):
    id: str
    text: str
    place: Place
    title: str = ""


class Query(NamedTuple):
    id: str
    text: str
    relevant: list[str]  # ids of passages; none: the files know nothing relevant to it
    place: Place
    part: str | None = None  # of PARTS, where the files say so


@dataclass
class RawPassages:
    """What `read` returns, in the files' own ids, order and spelling."""

    passages: list[Passage]
    queries: list[Query]
    source: str
    licence: str
    files: dict[str, str]  # file name -> sha256
    synthetic: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass
class PassageSource:
    """Fields that every source of passages shares; the YAML of a dataset sets them."""

    name: str
    path: str | None = None  # a folder; file names are relative to it
    seed: int = 0  # numbers queries and passages, so that no id carries a meaning
    on_bad_row: str = "error"

    def __post_init__(self) -> None:
        one_of("dataset.on_bad_row", self.on_bad_row, ("error", "skip"))
        check_seed("dataset.seed", self.seed)

    def read(self, data_dir: Path, bad: BadRows) -> RawPassages:
        raise NotImplementedError

    def load(self, data_dir: Path) -> Dataset:
        bad = BadRows(self.on_bad_row)
        raw = self.read(data_dir, bad)
        passages = checked_passages(raw.passages, bad)
        if not passages:
            raise UserError(f"dataset {self.name} has no passage: {named(raw.files)} {'; '.join(bad.notes)}".strip())
        if repeated := len(passages) - len({row.text for row in passages.values()}):
            raw.notes.append(f"{repeated:,} passages have the text of another passage")
        queries = checked_queries(raw.queries, passages, bad, raw.notes)
        if not queries:
            raise UserError(
                f"dataset {self.name} has no query with a relevant passage: "
                f"{'; '.join([*raw.notes, *bad.notes]) or 'the files are empty'}"
            )
        raw.notes[:0] = bad.notes
        return self._number(raw, passages, queries)

    def _number(self, raw: RawPassages, passages: dict[str, Passage], queries: dict[str, Query]) -> Dataset:
        """Queries and passages become rows in a seeded random order; relevant passages keep the file's order."""
        rng = np.random.default_rng(self.seed)
        query_id = rng.permutation(np.array(sorted(queries), dtype=object))
        passage_id = rng.permutation(np.array(sorted(passages), dtype=object))
        row_of = {name: row for row, name in enumerate(passage_id)}
        relevant = [[row_of[name] for name in queries[query].relevant] for query in query_id]
        lengths = np.array([len(row) for row in relevant])
        n = int(lengths.sum())
        nothing = np.full(len(passage_id), "", dtype=object)
        no_categories = np.frompyfunc(lambda _: (), 1, 1)(nothing)
        parts = np.array([queries[query].part for query in query_id], dtype=object)
        return Dataset(
            name=self.name,
            kind="passages",
            catalog=Catalog(
                id=passage_id,
                title=nothing,  # what is read of a passage is its words
                description=np.array([passages[name].text for name in passage_id], dtype=object),
                categories=no_categories,
                image=np.full(len(passage_id), None, dtype=object),
                caption=nothing,
                semantic_summary=nothing,
            ),
            user_id=query_id,
            interactions=Interactions(
                user=np.repeat(np.arange(len(query_id), dtype=np.int32), lengths),
                item=np.array([item for row in relevant for item in row], dtype=np.int32),
                timestamp=np.arange(n) - np.repeat(np.cumsum(lengths) - lengths, lengths),
                rating=np.full(n, np.nan, dtype=np.float32),
            ),
            provenance=Provenance(raw.source, raw.licence, raw.files, raw.synthetic, tuple(raw.notes)),
            timed=False,
            queries=np.array([queries[query].text for query in query_id], dtype=object),
            parts=parts if None not in set(parts) and len(set(parts)) > 1 else None,
        )


def checked_passages(rows: list[Passage], bad: BadRows) -> dict[str, Passage]:
    """By id, with title and text as one text."""
    passages: dict[str, Passage] = {}
    for row in rows:
        name, text = cleaned(row.id), titled(cleaned(row.title), cleaned(row.text))
        if not text:
            bad(row.place, f"passage {name[:40]} has no text")
        elif not name:
            bad(row.place, "a passage without an id")
        elif name in passages:
            bad(row.place, f"the passage id {name[:40]} stands there a second time")
        else:
            passages[name] = Passage(name, text, row.place)
    return passages


def checked_queries(
    rows: list[Query], passages: dict[str, Passage], bad: BadRows, notes: list[str]
) -> dict[str, Query]:
    """By id, those with something relevant; what is left out or repeated is noted."""
    rows = without_leaks([row._replace(id=cleaned(row.id), text=cleaned(row.text)) for row in rows], notes)
    queries: dict[str, Query] = {}
    unanswered = 0
    for row in rows:
        relevant = list(dict.fromkeys(known(cleaned(name), passages) for name in row.relevant))
        unknown = next((name for name in relevant if name not in passages), None)
        if not row.text:
            bad(row.place, "a query without words")
        elif not row.id:
            bad(row.place, "a query without an id")
        elif row.id in queries:
            bad(row.place, f"the query id {row.id[:40]} stands there a second time")
        elif unknown is not None:
            bad(row.place, f"the corpus has no passage {unknown[:40]!r}, which is to be relevant")
        elif not relevant:
            unanswered += 1
        else:
            queries[row.id] = row._replace(relevant=relevant)
    if unanswered:
        notes.append(f"{unanswered:,} queries without a relevant passage were left out")
    if repeated := len(queries) - len({folded(row.text) for row in queries.values()}):
        notes.append(f"{repeated:,} queries have the text of another query")
    return queries


def without_leaks(rows: list[Query], notes: list[str]) -> list[Query]:
    """A query that stands in two parts stays in the later one alone: test, then validation. Rows without anything
    relevant are of no part."""

    def asked(row: Query) -> bool:
        return bool(row.text and row.relevant)

    rank = {None: 0} | {part: number for number, part in enumerate(PARTS)}
    latest: dict[str, str | None] = {}
    for row in filter(asked, rows):
        text = folded(row.text)
        if text not in latest or rank[row.part] > rank[latest[text]]:
            latest[text] = row.part
    stays = [not asked(row) or row.part == latest[folded(row.text)] for row in rows]
    removed = Counter((row.part, latest[folded(row.text)]) for row, stay in zip(rows, stays, strict=True) if not stay)
    notes += [
        f"{n:,} {part} queries have the text of a {later} query and were left out"
        for (part, later), n in removed.items()
    ]
    return [row for row, stay in zip(rows, stays, strict=True) if stay]


def cleaned(text: str) -> str:
    """Composed (NFC), so that the same letters are the same text, and without blanks at its ends."""
    return unicodedata.normalize("NFC", whole(text)).strip()


def titled(title: str, text: str) -> str:
    """The title stands before a text that does not begin with it."""
    if not title or text.startswith(title):
        return text
    if not text:
        return title
    return f"{title} {text}" if title[-1] in ".!?:" else f"{title}. {text}"


def known(name: str, passages: dict[str, Passage]) -> str:
    """ "5.0", as spreadsheets and pandas write a number in a column with gaps, is the passage 5."""
    return name[:-2] if name not in passages and name.endswith(".0") and name[:-2] in passages else name


def named(files: dict[str, str]) -> str:
    return f"{', '.join(files)} {'has' if len(files) == 1 else 'have'} none;" if files else "none was read;"


def folder_of(source: PassageSource, needs: str) -> Path:
    """The folder `dataset.path`; `needs` names the files it must hold."""
    if source.path is None:
        raise UserError(f"dataset={source.name} needs dataset.path, a folder with {needs}")
    return existing_folder(Path(source.path), "dataset.path")


def hashes(folder: Path | None, files: list[Path]) -> dict[str, str]:
    """sha256 of each file, named from the dataset's folder or, outside of it, with the folder it lies in."""

    def name(path: Path) -> str:
        if folder is not None and path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
        return "/".join(path.parts[-2:])

    return {name(path): file_sha256(path) for path in files}
