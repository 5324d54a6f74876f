"""The forms of a run file, each read into one table of pairs (request, item, score, phase); see `data.run_file`."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data.errors import UserError, in_one_line
from data.files import read_text, words_by_line
from data.parquet_parts import open_parquet, read_parts

REQUEST = ("request", "user_id", "user", "query_id", "qid")
ITEM = ("candidate", "item_id", "item", "docid", "doc_id")
LIST = ("candidates", "item_ids", "items")
SCORE = ("score", "first_stage_scores", "scores")
HEADER = "a CSV of pairs needs the header user_id,item_id,score"


@dataclass
class Pairs:
    request: np.ndarray  # [P] integers into requests
    requests: np.ndarray  # [Q] str, distinct
    item: np.ndarray  # [P] integers into items
    items: np.ndarray  # [K] str, distinct
    scores: np.ndarray | None  # [P] float32; None: the order is the ranking
    phase: np.ndarray | None = None  # [P] integers into phases
    phases: tuple[str, ...] = ()


def from_parquet(path: Path) -> Pairs:
    """Part by part: what stays in memory is numbers, and each id once."""
    file = open_parquet(path)
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise UserError(f"{path} names a column twice; it has {', '.join(names)}")
    request, item = _column(path, names, REQUEST), _column(path, names, ITEM, needed=False)
    listed, score = item or _column(path, names, LIST), _column(path, names, SCORE, needed=False)
    ranked = "rank" if item and score is None and "rank" in names else score
    phased = "phase" if "phase" in names else None
    requests, items, phases = Codes(path, "request"), Codes(path, "item"), Codes(path, "phase")
    parts, pairs_before = [], 0
    lists: list[np.ndarray] = []  # one number for each (phase, request)
    for table in read_parts(path, file, [name for name in (request, listed, ranked, phased) if name]):
        who = requests(table[request])
        phase = phases(table[phased]) if phased else np.zeros(len(who), dtype=np.int32)
        listing, values = table[listed], table[ranked] if ranked else None
        if item is None:
            lists.append(phase.astype(np.int64) << 32 | who)
            listing, length = _lists(path, table, str(listed))
            who, phase = np.repeat(who, length), np.repeat(phase, length)
            if score is not None:
                values, its_length = _lists(path, table, score)
                if not np.array_equal(its_length, length):
                    raise UserError(f"{path}: {score} and candidates differ in length; give one score a candidate")
        number = None if values is None else _numbers(path, values, None, pairs_before)
        if ranked is not None and ranked != score and number is not None:
            number = -number
        parts.append((who, items(listing), phase, number))
        pairs_before += len(who)
    if lists and len(np.unique(np.concatenate(lists))) < sum(map(len, lists)):
        raise UserError(f"{path} has two lists for one user; give one (two phases need the column phase)")
    who, what, phase = (np.concatenate([part[i] for part in parts]) for i in range(3))
    scores = None if ranked is None else np.concatenate([part[3] for part in parts])
    pairs = Pairs(who, requests.names, what, items.names, scores)
    if phased:
        pairs.phase, pairs.phases = phase, tuple(phases.names)
    return pairs


def from_csv(path: Path) -> Pairs:
    """Pairs where the header names an item, else lists."""
    text = read_text(path)
    first = text.lstrip("\r\n").partition("\n")[0]
    blank = text[: text.find(first)].count("\n")
    header = [name.strip().lower() for name in next(csv.reader([first]), [])]
    other = next((c for c in ";\t" if c in first and "," not in first.split(c)[0]), None)
    if other and (other == ";" or {word.strip(' "').lower() for word in first.split(other)} & {*ITEM, *SCORE}):
        raise UserError(f"{path}: the fields are separated by {other!r}; separate them by commas")
    if not set(header) & set(ITEM):
        return _from_lines(path, header)
    if len(set(header)) < len(header):
        raise UserError(f"{path} names a column twice; it has {', '.join(header)}")
    if unknown := [name for name in header if name not in (*REQUEST, *ITEM, *SCORE, "phase", "rank")]:
        raise UserError(f"{path} has the column {unknown[0]}, which has no meaning here; {HEADER}")
    if text.count('"') % 2 and re.search('(^|,)"', text, re.MULTILINE):  # 19" opens none
        raise UserError(f"{path}: a quotation mark is not closed; {HEADER}")
    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(column_names=header, skip_rows=blank + 1),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string())),
        )
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: {in_one_line(error)}; {HEADER} and as many fields in each row") from None
    for name in header:
        if (empty := pc.equal(pc.utf8_trim_whitespace(table[name]), "")).to_numpy().any():
            line = int(np.argmax(empty.to_numpy())) + blank + 2
            raise UserError(f"{path}, line {line}: {name} is empty; give {', '.join(header)} in each row")
    columns = {"request": table[_column(path, header, REQUEST)], "item": table[_column(path, header, ITEM)]}
    columns |= {"phase": table["phase"]} if "phase" in header else {}
    return _from_columns(
        path, columns, _ranked(path, table, _column(path, header, SCORE, needed=False)), first=blank + 2
    )


def from_trec(path: Path) -> Pairs:
    words, line = words_by_line(path)
    length = np.bincount(line)
    bad = (length != 6) & (length != 0)
    if bad.any():
        at = int(np.argmax(bad))
        raise UserError(
            f"{path}, line {at + 1}: {length[at]} words where a TREC run has 6 (qid Q0 docid rank score tag)"
        )
    user, _, docid, place, value, _ = words.reshape(-1, 6).T
    scores = _numbers(path, pa.array(value, type=pa.string()), line[::6] + 1)
    (request, requests), (item, items) = pd.factorize(user), pd.factorize(docid)
    rank = np.array(pd.to_numeric(place, errors="coerce"), dtype=np.float64)
    rank[~np.isfinite(rank)] = np.nan
    order = np.lexsort((rank, request))
    inside = np.diff(request[order]) == 0
    down, up = np.diff(rank[order])[inside] > 0, np.diff(scores[order])[inside] > 0
    if len(up) and (down & up).all():
        raise UserError(
            f"{path}: every score rises with its rank, but the best must have the highest score; negate them"
        )
    return Pairs(request, requests, item, items, scores)


def _from_lines(path: Path, header: list[str]) -> Pairs:
    """[phase,] user and item ids, separated by commas or blanks, with or without a header."""
    words, line = words_by_line(path, b' \t\n\r\x0b\x0c,"')
    named, user = "phase" in header, next((i for i, name in enumerate(header) if name in REQUEST), None)
    if named or user is not None:
        if user != int(named) or (named and header[0] != "phase"):
            raise UserError(f"{path}: the columns of lists are [phase,] user_id, item ids, in this order; {HEADER}")
        words, line = words[line > line[0]], line[line > line[0]]
    first = np.flatnonzero(np.diff(line, prepend=-1))
    length = np.diff(np.append(first, len(line)))  # words of each line that is not empty
    if (length < 2 + named).any():
        at = int(np.argmax(length < 2 + named))
        raise UserError(f"{path}, line {line[first[at]] + 1}: a user without an item id; leave the line out")
    (request, requests), (phase, phases) = pd.factorize(words[first + named]), pd.factorize(words[first])
    twice = pd.DataFrame({"request": request, "phase": phase if named else 0}).duplicated()
    if twice.any():
        at = int(twice.argmax())
        raise UserError(
            f"{path}, line {line[first[at]] + 1}: a second list of user {requests[request[at]]}; give one; {HEADER}"
        )
    keep = np.arange(len(line)) - np.repeat(first, length) > named
    item, items = pd.factorize(words[keep])
    pairs = Pairs(np.repeat(request, length)[keep], requests, item, items, None)
    if named:
        pairs.phase, pairs.phases = np.repeat(phase, length)[keep], tuple(phases)
    return pairs


def _from_columns(path: Path, columns: dict[str, pa.Array], scores: pa.Array | None, first: int) -> Pairs:
    """`first`: the line of the first row, for messages."""
    requests, items, phases = Codes(path, "request"), Codes(path, "item"), Codes(path, "phase")
    request, item = requests(columns["request"]), items(columns["item"])
    line = np.arange(len(request)) + first
    numbers = None if scores is None else _numbers(path, scores, line)
    pairs = Pairs(request, requests.names, item, items.names, numbers)
    if "phase" in columns:
        pairs.phase, pairs.phases = phases(columns["phase"]), tuple(phases.names)
    return pairs


def _ranked(path: Path, table: pa.Table, score: str | None) -> pa.Array | None:
    """The scores of pairs; without any, the negative rank; without that either, the order counts."""
    if score is not None:
        return table[score]
    if "rank" in table.column_names:
        return pa.array(-_numbers(path, table["rank"], None))
    return None


def _column(path: Path, have: list[str], names: tuple[str, ...], needed: bool = True) -> str | None:
    found = next((name for name in names if name in have), None)
    if found is None and needed:
        raise UserError(f"{path} has no column {names[0]} (or {', '.join(names[1:])}); it has {', '.join(have)}")
    return found


def _lists(path: Path, table: pa.Table, name: str) -> tuple[pa.Array, np.ndarray]:
    """The values of a column of lists, and the length of each list."""
    kind = table.schema.field(name).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise UserError(f"{path}: column {name} is {kind}; it must hold a list in each row")
    lists = table[name].combine_chunks()
    if lists.null_count:
        raise UserError(f"{path}: a list of column {name} is null; give an empty list instead")
    return lists.flatten(), pc.list_value_length(lists).to_numpy()


class Codes:
    """Numbers texts in the order in which they come, over any number of columns."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.number: dict[str, int] = {}

    def __call__(self, column: pa.Array) -> np.ndarray:
        """Each value's number, [P] int32."""
        if column.null_count:
            raise UserError(f"{self.path}: a {self.name} is null; give each row its {self.name}")
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        try:
            coded = column.cast(pa.string()).dictionary_encode()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise UserError(
                f"{self.path}: the {self.name} is of type {column.type}; it must be a text or a number"
            ) from None
        try:
            coded.dictionary.validate(full=True)
        except pa.ArrowInvalid:
            raise UserError(f"{self.path}: a {self.name} is not UTF-8 text; write the file again") from None
        number = self.number
        here = [number.setdefault(text, len(number)) for text in coded.dictionary.to_pylist()]
        return np.array(here, dtype=np.int32)[coded.indices.to_numpy()]

    @property
    def names(self) -> np.ndarray:
        return np.array(list(self.number), dtype=object)


def _numbers(path: Path, column: pa.Array, line: np.ndarray | None, before: int = 0) -> np.ndarray:
    """Finite float32; the first that is not one is named, by its line, or by its place after `before` others."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        values = pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    else:
        try:
            values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise UserError(f"{path}: the score is of type {column.type}; it must be a number") from None
    bad = ~(np.abs(values) <= np.finfo(np.float32).max)
    if bad.any():
        at = int(np.argmax(bad))
        place = f"{path}, line {line[at]}" if line is not None else f"{path}, row {before + at + 1}"
        raise UserError(f"{place}: the score {column[at].as_py()!r} is not a finite number")
    return values.astype(np.float32)
