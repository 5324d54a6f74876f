"""Ranked lists made anywhere: a parquet, CSV or TREC run file, checked and grouped by phase and request.

parquet  one row a list: request, candidates (list), optional first_stage_scores (list), optional phase;
         or one row a pair: request, candidate, score, as in a run's own predictions.parquet
CSV      with a header that names an item_id, one row a pair: user_id, item_id, score, optional phase; else one row a
         list: user_id and then item ids, separated by commas or blanks, best first
TREC     one row a pair: qid Q0 docid rank score tag; the order is the scores', as trec_eval has it

A column `phase` (validation | test) tells two lists of one user apart; without it a file is of one phase. Without
scores the order of the list is the ranking.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.files import existing_file
from data.run_formats import Pairs, from_csv, from_parquet, from_trec

ONLY = "the only phase"  # of a file that names none
FORMS = {".parquet": from_parquet, ".csv": from_csv} | dict.fromkeys((".trec", ".run", ".txt", ".res"), from_trec)


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
    if path.suffix not in FORMS:
        raise UserError(f"{key}={path}: unknown ending {path.suffix!r}; use .parquet, .csv or .trec (a TREC run)")
    pairs = FORMS[path.suffix](path)
    if not len(pairs.request):
        raise UserError(f"{path} holds no list; give at least one candidate a request")
    if pairs.phase is None:
        return {ONLY: _group(path, pairs, np.arange(len(pairs.request)))}
    if unknown := set(pairs.phases) - {"validation", "test"}:
        raise UserError(f"{path} has the phase {min(unknown)!r}; it must be validation or test")
    rows = {name: np.flatnonzero(pairs.phase == i) for i, name in enumerate(pairs.phases)}
    return {name: _group(path, pairs, keep) for name, keep in rows.items() if len(keep)}


def lists_of(path: Path, key: str, phase: str) -> RunFile | None:
    """The lists of one phase, which a file without phases is taken to be of; None where it has only the other."""
    found = read_run_file(path, key)
    return found.get(phase, found.get(ONLY))


def _group(path: Path, pairs: Pairs, keep: np.ndarray) -> RunFile:
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
