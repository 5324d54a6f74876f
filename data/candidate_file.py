"""The one file of candidates that a comparison reads: parquet, one row a request, in the source's own ids.

phase               validation | test
request             user id
candidates          list of item ids, in the order in which a reranker meets them
first_stage_scores  list of float32

It is read back by `data.run_file`, which also reads lists made elsewhere in other forms.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.dataset import Dataset, Ragged
from data.errors import UserError
from data.run_file import RunFile

Lists = tuple[np.ndarray, np.ndarray]  # items int32 [R, N], -1 padded, and their first-stage scores float32 [R, N]


def write_lists(path: Path, dataset: Dataset, phases: dict[str, tuple[np.ndarray, Lists]]) -> None:
    """`phases`: name -> (user rows [R], lists). Written whole or not at all."""
    parts = []
    for name, (users, (items, scores)) in phases.items():
        found = items >= 0
        offsets = pa.array(np.concatenate([[0], np.cumsum(found.sum(axis=1))]), type=pa.int32())
        ids = pa.array(dataset.catalog.id[items[found]], type=pa.string())
        columns = {
            "phase": pa.array([name] * len(users), type=pa.string()),
            "request": pa.array(dataset.user_id[users], type=pa.string()),
            "candidates": pa.ListArray.from_arrays(offsets, ids),
            "first_stage_scores": pa.ListArray.from_arrays(offsets, pa.array(scores[found], type=pa.float32())),
        }
        parts.append(pa.table(columns))
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.concat_tables(parts), partial)
    partial.replace(path)


def to_lists(file: RunFile, dataset: Dataset, users: np.ndarray, name: str, missing_requests: str) -> Lists:
    """The lists of user rows [R]: known, distinct items; else a UserError. With missing_requests="empty" a user
    without a list has an empty one, whose relevant items all count as missed."""
    place = pd.Index(file.requests).get_indexer(pd.Index(dataset.user_id[users]))
    if len(users) and (place < 0).all():
        raise UserError(
            f"{file.path} has none of the {len(users):,} {name} users (it has {file.requests[0]!r}, the dataset "
            f"{dataset.user_id[users[0]]!r}); give the dataset's own user ids"
        )
    if (place < 0).any() and missing_requests == "error":
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
