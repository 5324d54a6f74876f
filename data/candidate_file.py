"""The one file of candidates that a comparison reads: parquet, one row a request, in the source's own ids.

phase               validation | test
request             user id
candidates          list of item ids, in the order in which a reranker meets them
first_stage_scores  list of float32, optional in a file made elsewhere: without it the order is the ranking
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.dataset import Dataset
from data.errors import UserError

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


def read_lists(path: Path, dataset: Dataset, phases: dict[str, np.ndarray]) -> dict[str, Lists]:
    """`phases`: name -> user rows [R]. Every request needs a list of known, distinct items; else a UserError."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is not a parquet file ({reason}); delete it or give another candidates.path"
        ) from None
    for column in ("phase", "request", "candidates"):
        if column not in table.column_names:
            raise UserError(f"{path} has no column {column}; it needs phase, request and candidates")
    for column in ("candidates", "first_stage_scores"):
        if column in table.column_names:
            kind = table.schema.field(column).type
            if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
                raise UserError(f"{path}: column {column} is {kind}; it must hold a list in each row")
    return {name: _read_phase(path, table, name, dataset, users) for name, users in phases.items()}


def _read_phase(path: Path, table: pa.Table, name: str, dataset: Dataset, users: np.ndarray) -> Lists:
    part = table.filter(pc.equal(table["phase"].cast(pa.string()), name))
    if not len(part):
        phases = ", ".join(map(str, table["phase"].unique().to_pylist()))
        raise UserError(f"{path} has no row with phase={name}; its phases are {phases or 'none'}")
    requests = pd.Index(part["request"].cast(pa.string()).to_numpy())
    if not requests.is_unique:
        raise UserError(f"{path} has two {name} lists for user {requests[requests.duplicated()][0]}; give one")
    row = requests.get_indexer(pd.Index(dataset.user_id[users]))
    if (row < 0).any():
        missing = dataset.user_id[users[np.argmin(row)]]
        raise UserError(f"{path} has no {name} candidates for user {missing}; every request needs a list")
    lists = part["candidates"].combine_chunks().take(pa.array(row))
    if lists.null_count or len(lists.flatten()) == 0:
        raise UserError(f"{path}: a {name} list is null, or all are empty; give at least one candidate")
    lengths = pc.list_value_length(lists).to_numpy()
    owner = np.repeat(np.arange(len(users)), lengths)
    ids = pd.Index(lists.flatten().cast(pa.string()).to_numpy(zero_copy_only=False))
    flat = pd.Index(dataset.catalog.id).get_indexer(ids).astype(np.int32)
    if (flat < 0).any():
        at = int(np.argmin(flat))
        user = dataset.user_id[users[owner[at]]]
        raise UserError(f"{path}: the candidate {ids[at]!r} of user {user} ({name}) is not in dataset {dataset.name}")
    order = np.lexsort((flat, owner))
    again = (np.diff(flat[order]) == 0) & (np.diff(owner[order]) == 0)
    if again.any():
        at = int(order[np.argmax(again)])
        raise UserError(f"{path} lists the candidate {ids[at]} of user {dataset.user_id[users[owner[at]]]} twice")
    inside = np.arange(lengths.max()) < lengths[:, None]
    items = np.full(inside.shape, -1, dtype=np.int32)
    scores = np.full(inside.shape, -np.inf, dtype=np.float32)
    items[inside] = flat
    scores[inside] = (
        _scores(path, part, row, lengths) if "first_stage_scores" in part.column_names else -_place(lengths)
    )
    return items, scores


def _place(lengths: np.ndarray) -> np.ndarray:
    """0, 1, 2 .. within each list, flat."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _scores(path: Path, part: pa.Table, row: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    lists = part["first_stage_scores"].combine_chunks().take(pa.array(row))
    if lists.null_count or not np.array_equal(pc.list_value_length(lists).to_numpy(), lengths):
        raise UserError(f"{path}: first_stage_scores and candidates differ in length; give one score a candidate")
    values = lists.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
    if np.isnan(values).any():
        raise UserError(f"{path}: first_stage_scores holds NaN or null; give a number for each candidate")
    return values
