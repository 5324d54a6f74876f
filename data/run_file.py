"""Ranked lists made anywhere: a parquet, CSV or TREC run file, read into arrays and checked with line numbers.

parquet  one row a list: request, candidates (list), optional first_stage_scores (list), optional phase;
         or one row a pair: request, candidate, score, as in a run's own predictions.parquet
CSV      with a header that names an item_id, one row a pair: user_id, item_id, score; else one row a list: user_id and
         then item ids, separated by commas or blanks, best first
TREC     one row a pair: qid Q0 docid rank score tag; the order is the scores', as trec_eval has it

A column `phase` (validation | test) tells two lists of one user apart; without it a file is of one phase. Without
scores the order of the list is the ranking.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import UserError
from data.files import existing_file, read_text, words_by_line

REQUEST = ("request", "user_id", "user", "query_id", "qid")
ITEM = ("candidate", "item_id", "item", "docid", "doc_id")
LIST = ("candidates", "item_ids", "items")
SCORE = ("first_stage_scores", "scores", "score")
ONLY = ""  # phase of a file that names none


@dataclass(frozen=True)
class RunFile:
    """The lists of one phase as pairs, grouped by request, in the file's order."""

    path: Path
    requests: np.ndarray  # [Q] str, distinct
    items: np.ndarray  # [K] str, distinct
    row: np.ndarray  # [P] int64 into requests, non-decreasing
    item: np.ndarray  # [P] int64 into items
    scores: np.ndarray  # [P] float32

    @property
    def offsets(self) -> np.ndarray:
        return np.searchsorted(self.row, np.arange(len(self.requests) + 1))


def read_run_file(path: Path, key: str) -> dict[str, RunFile]:
    """phase -> its lists; a file without the column `phase` has the one phase `ONLY`. `key` is the config's."""
    existing_file(path, key)
    if path.suffix == ".parquet":
        pairs = _parquet(path)
    elif path.suffix == ".csv":
        pairs = _csv(path)
    elif path.suffix in (".trec", ".run", ".txt", ".res"):
        pairs = _trec(path)
    else:
        raise UserError(f"{key}={path}: unknown ending {path.suffix!r}; use .parquet, .csv or .trec (a TREC run)")
    if not len(pairs.request):
        raise UserError(f"{path} holds no list; give at least one candidate a request")
    if pairs.scores is not None and np.isnan(pairs.scores).any():
        raise UserError(f"{path}: the score {pairs.where(int(np.argmax(np.isnan(pairs.scores))))} is not a number")
    return {name: _phase(path, pairs, code) for code, name in enumerate(pairs.phases)}


@dataclass
class _Pairs:
    request: np.ndarray  # [P] int64 into requests
    requests: np.ndarray
    item: np.ndarray  # [P] int64 into items
    items: np.ndarray
    scores: np.ndarray | None  # [P] float32
    phase: np.ndarray  # [P] int64 into phases
    phases: list[str]

    def where(self, pair: int) -> str:
        return f"of item {self.items[self.item[pair]]} for user {self.requests[self.request[pair]]}"


def _phase(path: Path, pairs: _Pairs, code: int) -> RunFile:
    keep = np.flatnonzero(pairs.phase == code)
    keep = keep[np.argsort(pairs.request[keep], kind="stable")]
    used, row = np.unique(pairs.request[keep], return_inverse=True)
    item = pairs.item[keep]
    order = np.lexsort((item, row))
    again = (np.diff(item[order]) == 0) & (np.diff(row[order]) == 0)
    if again.any():
        at = keep[order[int(np.argmax(again))]]
        raise UserError(
            f"{path} lists the candidate {pairs.items[pairs.item[at]]} of user "
            f"{pairs.requests[pairs.request[at]]} twice; give each once (two phases need the column phase)"
        )
    if pairs.scores is None:
        start = np.searchsorted(row, np.arange(len(used)))
        scores = (start[row] - np.arange(len(row))).astype(np.float32)  # 0, -1, -2 ... down the list
    else:
        scores = pairs.scores[keep]
    return RunFile(path, pairs.requests[used], pairs.items, row, item, scores)


def _column(path: Path, have: list[str], names: tuple[str, ...], needed: bool = True) -> str | None:
    found = next((name for name in names if name in have), None)
    if found is None and needed:
        raise UserError(f"{path} has no column {names[0]} (or {', '.join(names[1:])}); it has {', '.join(have)}")
    return found


def _parquet(path: Path) -> _Pairs:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a parquet file ({reason}); delete it or give another path") from None
    have = table.column_names
    request, item, score = (_column(path, have, names, needed=False) for names in (REQUEST, ITEM, SCORE))
    request = request or _column(path, have, REQUEST)
    phase = table["phase"].combine_chunks() if "phase" in have else pa.array([ONLY] * len(table), type=pa.string())
    columns = {"request": table[request].combine_chunks(), "phase": phase}
    scores = None
    if item is not None:
        columns["item"] = table[item].combine_chunks()
        scores = None if score is None else table[score].combine_chunks()
    else:
        lists = _lists(path, table, str(_column(path, have, LIST)))
        lengths = pc.list_value_length(lists).to_numpy()
        if pa.table(columns).group_by(list(columns)).aggregate([]).num_rows < len(table):
            raise UserError(f"{path} has two lists for one user; give one (two phases need the column phase)")
        owner = pa.array(np.repeat(np.arange(len(lists)), lengths))
        columns = {name: column.take(owner) for name, column in columns.items()} | {"item": lists.flatten()}
        if score is not None:
            values = _lists(path, table, score)
            if not np.array_equal(pc.list_value_length(values).to_numpy(), lengths):
                raise UserError(f"{path}: {score} and candidates differ in length; give one score a candidate")
            scores = values.flatten()
    for name, column in columns.items():
        if column.null_count:
            raise UserError(f"{path}: a {name} is null; give each row its {name}")
    (r, requests), (i, items), (p, phases) = (_codes(columns[name]) for name in ("request", "item", "phase"))
    return _Pairs(r, requests, i, items, None if scores is None else _floats(path, scores), p, list(phases))


def _lists(path: Path, table: pa.Table, name: str) -> pa.ListArray:
    kind = table.schema.field(name).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise UserError(f"{path}: column {name} is {kind}; it must hold a list in each row")
    lists = table[name].combine_chunks()
    if lists.null_count:
        raise UserError(f"{path}: a list of column {name} is null; give an empty list instead")
    return lists


def _floats(path: Path, column: pa.Array) -> np.ndarray:
    try:
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float32)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: a score is not a number ({' '.join(str(error).split())})") from None


def _codes(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    return pd.factorize(column.cast(pa.string()).to_numpy(zero_copy_only=False))


def _csv(path: Path) -> _Pairs:
    text = read_text(path)
    header = [name.strip(' "\r').lower() for name in text.partition("\n")[0].split(",")]
    if not (set(header) & set(ITEM)):
        return _csv_of_lists(path, header)
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", on_bad_lines="error")
    table.columns = pd.Index(header)
    if (table == "").any(axis=None):
        line = int((table == "").any(axis=1).argmax()) + 2
        raise UserError(f"{path}, line {line}: a field is empty; give {', '.join(header)} in each row")
    score = _column(path, header, SCORE, needed=False)
    r, requests = pd.factorize(table[str(_column(path, header, REQUEST))])
    i, items = pd.factorize(table[str(_column(path, header, ITEM))])
    p, phases = pd.factorize(table["phase"]) if "phase" in header else (np.zeros(len(table), dtype=int), [ONLY])
    scores = None if score is None else _numbers(path, table[score].to_numpy(object), np.arange(2, len(table) + 2))
    return _Pairs(r, np.asarray(requests, object), i, np.asarray(items, object), scores, p, list(phases))


def _csv_of_lists(path: Path, header: list[str]) -> _Pairs:
    """[phase,] user and item ids, separated by commas or blanks, with or without a header."""
    words, line = words_by_line(path, b' \t\n\r\x0b\x0c,"')
    named = header[0] == "phase"  # then the user is the second word
    if named or header[0] in REQUEST:
        words, line = words[line > 0], line[line > 0]
    first = np.flatnonzero(np.diff(line, prepend=-1))
    length = np.diff(np.append(first, len(line)))  # words of each line that is not empty
    if (length < 2 + named).any():
        at = int(np.argmax(length < 2 + named))
        raise UserError(f"{path}, line {line[first[at]] + 1}: a user without an item id; leave the line out")
    (r, requests), (p, phases) = pd.factorize(words[first + named]), pd.factorize(words[first])
    if not named:
        p, phases = np.zeros_like(p), np.array([ONLY], dtype=object)
    keep = np.arange(len(line)) - np.repeat(first, length) > named
    i, items = pd.factorize(words[keep])
    return _Pairs(np.repeat(r, length)[keep], requests, i, items, None, np.repeat(p, length)[keep], list(phases))


def _trec(path: Path) -> _Pairs:
    words, line = words_by_line(path)
    number, counts = np.unique(line, return_counts=True)
    if (counts != 6).any():
        at = int(np.argmax(counts != 6))
        raise UserError(
            f"{path}, line {number[at] + 1}: {counts[at]} words where a TREC run has 6 (qid Q0 docid rank score tag)"
        )
    fields = words.reshape(-1, 6)
    r, requests = pd.factorize(fields[:, 0])
    i, items = pd.factorize(fields[:, 2])
    scores = _numbers(path, fields[:, 4], number + 1)
    return _Pairs(r, requests, i, items, scores, np.zeros(len(fields), dtype=int), [ONLY])


def _numbers(path: Path, words: np.ndarray, line: np.ndarray) -> np.ndarray:
    values = pd.to_numeric(pd.Series(words), errors="coerce").to_numpy(np.float64)
    if np.isnan(values).any():
        at = int(np.argmax(np.isnan(values)))
        raise UserError(f"{path}, line {line[at]}: the score {words[at]!r} is not a number")
    return values.astype(np.float32)
