"""The one file of candidates that a comparison reads: parquet, one row a request, in the source's own ids.

phase               validation | test
request             user id
candidates          list of item ids, in the order in which a reranker meets them
first_stage_scores  list of float32

It is read back by `data.run_file`, which also reads lists made elsewhere (`candidates=file`) in other forms.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from data.dataset import Dataset, Ragged, Relevance, Requests, sha256
from data.errors import UserError
from data.files import file_sha256
from data.parquet_parts import PAIRS, write_parts
from data.progress import bar
from data.ranking import rows_together
from data.run_file import ONLY, RunFile, lists_of, read_run_file

log = logging.getLogger(__name__)
Lists = tuple[np.ndarray, np.ndarray]  # items int32 [R, N], -1 padded, and their first-stage scores float32 [R, N]


def write_lists(path: Path, dataset: Dataset, phases: dict[str, tuple[np.ndarray, Lists]]) -> None:
    """`phases`: name -> (user rows [R], lists). Written whole or not at all."""
    ids = pa.array(dataset.catalog.id, type=pa.string())
    step = max(1, PAIRS // max(items.shape[1] for _, (items, _) in phases.values()))  # lists of a row group

    def part(name: str, rows: slice) -> pa.Table:
        users, (items, scores) = phases[name][0][rows], (array[rows] for array in phases[name][1])
        found = items >= 0
        offsets = pa.array(np.concatenate([[0], np.cumsum(found.sum(axis=1))]), type=pa.int32())
        columns = {
            "phase": pa.array([name] * len(users), type=pa.string()),
            "request": pa.array(dataset.user_id[users], type=pa.string()),
            "candidates": pa.ListArray.from_arrays(offsets, ids.take(pa.array(items[found]))),
            "first_stage_scores": pa.ListArray.from_arrays(offsets, pa.array(scores[found], type=pa.float32())),
        }
        return pa.table(columns)

    sizes = {name: len(users) for name, (users, _) in phases.items()}
    if sum(sizes.values()) <= step:
        write_parts(path, [pa.concat_tables([part(name, slice(None)) for name in phases])])
        return
    cuts = [(name, slice(start, start + step)) for name, size in sizes.items() for start in range(0, size, step)]
    write_parts(path, (part(*cut) for cut in bar(cuts, "writing the candidates")))


def to_lists(
    file: RunFile | None, dataset: Dataset, users: np.ndarray, name: str, missing_requests: str, own: bool
) -> Lists:
    """The lists of user rows [R]: known, distinct items; else a UserError. With missing_requests="empty" a user
    without a list has an empty one, whose relevant items all count as missed. `own`: written here, where the first
    stage may have found nothing for some, or for anybody (`file` None)."""
    if file is None or not len(users):
        return np.full((len(users), 1), -1, dtype=np.int32), np.full((len(users), 1), -np.inf, dtype=np.float32)
    place = pd.Index(file.requests).get_indexer(pd.Index(dataset.user_id[users]))
    if not own and (place < 0).all():
        raise UserError(
            f"{file.path} has none of the {len(users):,} {name} users (it has {file.requests[0]!r}, the dataset "
            f"{dataset.user_id[users[0]]!r}); give the dataset's own user ids"
        )
    if not own and missing_requests == "error" and (place < 0).any():
        raise UserError(
            f"{file.path} has no {name} candidates for user {dataset.user_id[users[np.argmin(place)]]} "
            f"({(place < 0).sum():,} of {len(users):,}); every request needs a list, or pass "
            "candidates.missing_requests=empty"
        )
    known = pd.Index(dataset.catalog.id).get_indexer(pd.Index(file.items)).astype(np.int32)
    found = np.flatnonzero(place >= 0)
    offsets = file.offsets
    start, stop = offsets[place[found]], offsets[place[found] + 1]
    pairs = Ragged(np.arange(len(file.row)), offsets).part(place[found], np.zeros_like(start), stop - start)
    row = found[pairs.row_of_value]
    item = known[file.item[pairs.values]]
    if (item < 0).any():
        at = int(np.argmin(item))
        raise UserError(
            f"{file.path}: the candidate {file.items[file.item[pairs.values[at]]]!r} of user "
            f"{dataset.user_id[users[row[at]]]} ({name}) is not in dataset {dataset.name}, which has "
            f"ids like {dataset.catalog.id[0]!r}"
        )
    column = np.arange(len(row)) - np.repeat(pairs.offsets[:-1], pairs.lengths)
    shape = (len(users), int(pairs.lengths.max(initial=1)))
    items, scores = np.full(shape, -1, dtype=np.int32), np.full(shape, -np.inf, dtype=np.float32)
    items[row, column], scores[row, column] = item, file.scores[pairs.values]
    return items, scores


def made_elsewhere(path: Path, validation_path: str | None) -> tuple[dict[str, RunFile], str]:
    """Phase -> its lists, and a hash of the files. There may be none for validation."""
    found = read_run_file(path, "candidates.path")
    files = {"test": found[ONLY]} if ONLY in found else found
    if "test" not in files:
        raise UserError(f"{path} has no row with phase=test; its phases are {', '.join(found)}")
    if validation_path is None:
        return files, file_sha256(path)
    if "validation" in files:
        raise UserError(f"{path} has validation lists already; leave out candidates.validation_path={validation_path}")
    other = Path(validation_path)
    validation = lists_of(other, "candidates.validation_path", "validation")
    if validation is None:
        raise UserError(f"candidates.validation_path={validation_path} has no row with phase=validation")
    return files | {"validation": validation}, sha256(file_sha256(path), file_sha256(other))


def check_lists(file: RunFile, name: str, requests: Requests, relevance: Relevance) -> None:
    """Lists that fit the dataset but not the split: no target in any is an error, what may be meant is told."""
    assert requests.candidates is not None
    wanted, row = relevance.items.values, relevance.items.row_of_value
    if len(wanted) and not (requests.candidates[row] == wanted[:, None]).any():
        raise UserError(
            f"none of the {len(requests):,} {name} lists of {file.path} holds a relevant item; were they made for "
            "another phase or protocol?"
        )
    if len(requests) and (unused := len(file.requests) - len(requests)) > 0:
        log.warning("  %s: %s lists are of users whom the %s does not ask about", file.path.name, f"{unused:,}", name)
    seen = 0
    step = rows_together(len(requests.catalog))
    for start in range(0, len(requests), step):
        part = requests.take(slice(start, start + step))
        history = np.zeros((len(part), len(part.catalog) + 1), dtype=bool)  # the last column is the padding's
        history[part.histories.row_of_value, part.histories.values] = True
        seen += int(np.take_along_axis(history, part.candidates, axis=1).sum())  # type: ignore[arg-type]
    if seen:
        share = seen / (requests.candidates >= 0).sum()
        log.warning("  %s: %.1f%% of the listed items are in the user's history and stay", file.path.name, 100 * share)
