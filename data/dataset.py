"""What travels through the house: frozen records of arrays.

    source -> Dataset -> Split -> Requests -> scores [R, N] -> per-request metrics

A user or item is its row index; the original ids stand in `Dataset.user_id` and `Catalog.id`. Rows are a seeded
permutation, so a row number says nothing about when or by whom an item was first touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row r is `values[offsets[r]:offsets[r + 1]]`."""

    values: np.ndarray  # [total] int32
    offsets: np.ndarray  # [R + 1] int64

    def __post_init__(self) -> None:
        self.values.flags.writeable = self.offsets.flags.writeable = False  # several readers share these arrays

    @staticmethod
    def from_lengths(values: np.ndarray, lengths: np.ndarray) -> Ragged:
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return Ragged(np.asarray(values, dtype=np.int32), offsets)

    @staticmethod
    def from_rows(rows: Iterable[Iterable[int]]) -> Ragged:
        lists = [np.asarray(list(row), dtype=np.int32) for row in rows]
        values = np.concatenate(lists) if lists else np.zeros(0, dtype=np.int32)
        return Ragged.from_lengths(values, np.array([len(row) for row in lists], dtype=np.int64))

    @staticmethod
    def empty(n_rows: int) -> Ragged:
        return Ragged.from_lengths(np.zeros(0), np.zeros(n_rows, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def row_of_value(self) -> np.ndarray:
        """Row index of each entry of `values`, [total]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def row(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def take(self, rows: slice | np.ndarray) -> Ragged:
        """The given rows in the given order."""
        index = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.arange(len(self))[rows]
        return self.part(index, np.zeros(len(index), dtype=np.int64), self.offsets[index + 1] - self.offsets[index])

    def part(self, rows: np.ndarray, start: np.ndarray, stop: np.ndarray) -> Ragged:
        """Row r becomes positions start[r]:stop[r] of old row rows[r]; positions count from the row's start."""
        lengths = np.maximum(stop - start, 0)
        first = self.offsets[rows] + start
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return Ragged.from_lengths(self.values[np.repeat(first, lengths) + within], lengths)

    def last(self, width: int, fill: int = -1) -> np.ndarray:
        """The last `width` values of each row, oldest first, left-padded with `fill`: [R, width] int32."""
        out = np.full((len(self), width), fill, dtype=np.int32)
        if width and len(self.values):
            position = self.offsets[1:, None] - width + np.arange(width)
            inside = position >= self.offsets[:-1, None]
            out[inside] = self.values[position[inside]]
        return out


@dataclass(frozen=True)
class Catalog:
    """Items by row index. Text that a source does not have is the empty string."""

    id: np.ndarray  # [I] str, the source's own ids
    title: np.ndarray  # [I] str
    description: np.ndarray  # [I] str
    categories: np.ndarray  # [I] tuple[str, ...]
    image: np.ndarray  # [I] path as str | uint8 picture [H, W, 3] | None
    caption: np.ndarray  # [I] str
    semantic_summary: np.ndarray  # [I] str
    image_features: np.ndarray | None = None  # [I, F] float32, a row of NaN of an item that has none
    image_encoder: str = ""  # that made them, where their file says so

    def __len__(self) -> int:
        return len(self.id)

    @cached_property
    def row_of_id(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.id)}

    def has(self, name: str) -> bool:
        """Whether any item has this field."""
        values = getattr(self, name)
        return any(value is not None and len(value) > 0 for value in values)


@dataclass(frozen=True)
class Interactions:
    """Sorted by user row, then timestamp; equal timestamps keep the order of the source's file (the one tie key)."""

    user: np.ndarray  # [M] int32
    item: np.ndarray  # [M] int32
    timestamp: np.ndarray  # [M] int64, seconds
    rating: np.ndarray  # [M] float32, NaN where the source has none
    review: np.ndarray | None = None  # [M] str
    headline: np.ndarray | None = None  # [M] str, the title with which `review` begins, before ": "

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Provenance:
    source: str  # where it comes from, a URL or a sentence
    licence: str
    files: dict[str, str]  # file name -> sha256 of every file read
    synthetic: bool = False
    notes: tuple[str, ...] = ()  # what was removed, joined or counted, a sentence each


class Planted(Protocol):
    """The model that generated a synthetic dataset: the ceiling no reranker can pass but by luck."""

    def score(self, requests: Requests) -> np.ndarray: ...


@dataclass(frozen=True)
class Dataset:
    name: str
    kind: str  # "recommendation" or "passages"
    catalog: Catalog
    user_id: np.ndarray  # [U] str
    interactions: Interactions
    provenance: Provenance
    planted: Planted | None = None
    timed: bool = True  # False: timestamps only order the interactions of one user
    queries: np.ndarray | None = None  # [U] str, of passages: a query is a user, its interactions what is relevant
    parts: np.ndarray | None = None  # [U] of PARTS, where the files say so

    @cached_property
    def sequences(self) -> Ragged:
        """Each user's items, oldest first; each query's relevant passages."""
        counts = np.bincount(self.interactions.user, minlength=len(self.user_id))
        return Ragged.from_lengths(self.interactions.item, counts)

    @cached_property
    def interactions_sha256(self) -> str:
        """Of ids, interactions and queries: what a split and a first stage can depend on, but for items' texts."""
        events = self.interactions
        texts = ["\n".join(self.catalog.id), "\n".join(self.user_id)]
        texts += [str(list(column)) for column in (self.queries, self.parts) if column is not None]
        return sha256(*texts, events.user, events.item, events.timestamp, events.rating)

    @cached_property
    def sha256(self) -> str:
        """Of everything a reranker can read; a picture by its content, wherever it lies."""

        def identity(picture: object) -> str:
            if isinstance(picture, np.ndarray):
                return sha256(picture)
            return sha256(Path(picture).read_bytes()) if isinstance(picture, str) else ""

        c, events = self.catalog, self.interactions
        columns = (c.title, c.description, c.categories, c.caption, c.semantic_summary, map(identity, c.image))
        texts = ["" if events.review is None else "\n".join(events.review)]
        texts += [] if events.headline is None else ["\n".join(events.headline)]
        features = [] if c.image_features is None else [c.image_features]
        return sha256(self.interactions_sha256, *(str(list(column)) for column in columns), *texts, *features)


@dataclass(frozen=True)
class Requests:
    """What a reranker sees; never what is relevant.

    `candidates` is None when the whole catalogue is ranked. The first stage is kept as a list of (item, score) a
    request, best first or in candidate order; items it did not find are -1.
    """

    catalog: Catalog
    ids: np.ndarray  # [R] int64, user or query row
    histories: Ragged  # oldest first; empty rows for passages
    names: np.ndarray | None = None  # [R] str, the source's own user or query ids
    queries: np.ndarray | None = None  # [R] str; None for recommendation
    candidates: np.ndarray | None = None  # [R, N] int32, -1 padded
    first_stage_items: np.ndarray | None = None  # [R, K] int32
    first_stage_values: np.ndarray | None = None  # [R, K] float32

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        """N: candidates a request, or the size of the catalogue."""
        return len(self.catalog) if self.candidates is None else self.candidates.shape[1]

    def take(self, rows: slice | np.ndarray) -> Requests:
        def part(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[rows]

        return replace(
            self,
            ids=self.ids[rows],
            histories=self.histories.take(rows),
            names=part(self.names),
            queries=part(self.queries),
            candidates=part(self.candidates),
            first_stage_items=part(self.first_stage_items),
            first_stage_values=part(self.first_stage_values),
        )

    @property
    def first_stage_scores(self) -> np.ndarray | None:
        """[R, N] float32 in the columns a reranker scores; -inf where the first stage found nothing."""
        if self.first_stage_items is None or self.first_stage_values is None:
            return None
        if self.candidates is not None:
            return np.where(self.candidates < 0, -np.inf, self.first_stage_values).astype(np.float32)
        dense = np.full((len(self), self.width), -np.inf, dtype=np.float32)
        row, column = np.nonzero(self.first_stage_items >= 0)
        dense[row, self.first_stage_items[row, column]] = self.first_stage_values[row, column]
        return dense


@dataclass(frozen=True)
class Relevance:
    """Which items of each request are relevant, those missing from its candidates included. Evaluation only."""

    items: Ragged  # [R]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: slice | np.ndarray) -> Relevance:
        return Relevance(self.items.take(rows))


def sha256(*parts: str | bytes | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = (
            part.encode()
            if isinstance(part, str)
            else (part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
        )
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
