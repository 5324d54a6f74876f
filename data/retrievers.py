"""First-stage retrievers: fit on training sequences, then score the whole catalogue for any request.

Those that read words are in `data.text_retrievers`. Each of these here reads a history through a recency-weighted
window: its last `last_n` items, the newest with weight 1, the one before with `decay`, then `decay`^2 ...
(`last_n: null` and `decay: 1` = all items alike). On sequence data this window is what makes a plain item-item model
competitive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from data.dataset import Catalog, Ragged
from data.errors import UserError, in_range
from data.progress import bar
from data.splits import Phase


class Retriever:
    option: ClassVar[str] = ""  # the name of its YAML in conf/candidates/retriever
    reads_text: ClassVar[bool] = False  # candidates then depend on the items' words too
    ranks_queries: ClassVar[bool] = False  # whether it can rank passages; else it needs the interactions of users

    def fit(self, catalog: Catalog, training: Phase) -> None:
        """Learns from the training part alone (and, for text, from the catalogue)."""
        raise NotImplementedError

    def score(self, phase: Phase) -> np.ndarray:
        """[R, I] float32; -inf where nothing links the request to the item."""
        raise NotImplementedError

    def linked(self, phase: Phase) -> sp.csr_matrix | None:
        """The same scores [R, I] where they are not -inf, of a retriever that links few items to a request."""
        return None

    def check(self, queries: np.ndarray | None) -> None:
        """Refuses queries [R] that it cannot rank passages for."""
        if queries is not None and not self.ranks_queries:
            raise UserError(
                f"candidates.retriever={self.option} needs interactions, and a query has none; use "
                "candidates/retriever=bm25 or tfidf"
            )


@dataclass
class HistoryRetriever(Retriever):
    last_n: int | None = None
    decay: float = 1.0

    def __post_init__(self) -> None:
        in_range("candidates.retriever.last_n", self.last_n, 1)
        if not 0 < self.decay <= 1:
            raise UserError(f"candidates.retriever.decay={self.decay} is out of range; it must be in (0, 1]")

    def weighted(self, histories: Ragged, n_items: int) -> sp.csr_matrix:
        """Histories as a [R, I] matrix of recency weights."""
        row = histories.row_of_value
        age = np.repeat(histories.offsets[1:], histories.lengths) - 1 - np.arange(len(row))  # 0 = newest
        keep = age < (self.last_n or np.inf)
        weight = (self.decay ** age[keep]).astype(np.float32)
        return sp.csr_matrix((weight, (row[keep], histories.values[keep])), shape=(len(histories), n_items))


@dataclass
class Popularity(HistoryRetriever):
    """Number of training interactions of each item; the history is not read."""

    option: ClassVar[str] = "popularity"
    ranks_queries: ClassVar[bool] = True  # the prior of the labels

    def fit(self, catalog: Catalog, training: Phase) -> None:
        self.counts = np.bincount(training.histories.values, minlength=len(catalog)).astype(np.float32)

    def score(self, phase: Phase) -> np.ndarray:
        return np.broadcast_to(self.counts, (len(phase.ids), len(self.counts)))


@dataclass
class ItemKNN(HistoryRetriever):
    """Cosine similarity of items by their users, the `neighbours` nearest kept (Sarwar et al., WWW 2001)."""

    option: ClassVar[str] = "item_knn"

    last_n: int | None = 5
    decay: float = 0.6
    neighbours: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("candidates.retriever.neighbours", self.neighbours, 1)

    def fit(self, catalog: Catalog, training: Phase) -> None:
        sequences, n_items = training.histories, len(catalog)
        x = _binary(sequences, n_items)
        self.similarity = _nearest(_cosine(x.T @ x), self.neighbours)

    def linked(self, phase: Phase) -> sp.csr_matrix:
        return self.weighted(phase.histories, self.similarity.shape[0]) @ self.similarity

    def score(self, phase: Phase) -> np.ndarray:
        return _dense(self.linked(phase))


@dataclass
class Markov(HistoryRetriever):
    """Distance-weighted transitions: an item counts 1/d for the item d steps before it, d <= window; rows sum to 1."""

    option: ClassVar[str] = "markov"

    last_n: int | None = 5
    decay: float = 0.6
    window: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("candidates.retriever.window", self.window, 1)

    def fit(self, catalog: Catalog, training: Phase) -> None:
        sequences, n_items = training.histories, len(catalog)
        row, values = sequences.row_of_value, sequences.values
        counts = sp.csr_matrix((n_items, n_items), dtype=np.float32)
        for distance in bar(range(1, min(self.window, len(values) - 1) + 1), "counting transitions"):
            same = row[distance:] == row[:-distance]
            pair = (values[:-distance][same], values[distance:][same])
            weight = np.full(len(pair[0]), 1 / distance, dtype=np.float32)
            counts += sp.csr_matrix((weight, pair), shape=counts.shape)
        outgoing = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1e-9)
        self.transitions = (sp.diags((1 / outgoing).astype(np.float32)) @ counts).tocsr()

    def linked(self, phase: Phase) -> sp.csr_matrix:
        return self.weighted(phase.histories, self.transitions.shape[0]) @ self.transitions

    def score(self, phase: Phase) -> np.ndarray:
        return _dense(self.linked(phase))


@dataclass
class EASE(HistoryRetriever):
    """Closed-form item-item regression with a zero diagonal (Steck, WWW 2019)."""

    option: ClassVar[str] = "ease"

    last_n: int | None = 10
    decay: float = 0.8
    regularization: float = 300.0
    max_items: int = 20_000  # the inverse is a dense [I, I] matrix

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("candidates.retriever.regularization", self.regularization, 1e-3)

    def fit(self, catalog: Catalog, training: Phase) -> None:
        sequences, n_items = training.histories, len(catalog)
        if n_items > self.max_items:
            raise UserError(
                f"candidates.retriever ease inverts a dense matrix of {n_items:,} x {n_items:,} items and stops at "
                f"max_items={self.max_items:,}; use candidates/retriever=markov"
            )
        x = _binary(sequences, n_items)
        gram = (x.T @ x).toarray(order="F").astype(np.float32, copy=False)
        gram[np.diag_indices(n_items)] += self.regularization
        self.weights = _inverse(gram).T  # symmetric: the same, in the row order that products want
        self.weights /= -np.diag(self.weights).copy()
        np.fill_diagonal(self.weights, 0)

    def score(self, phase: Phase) -> np.ndarray:
        return (self.weighted(phase.histories, len(self.weights)) @ self.weights).astype(np.float32)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric positive definite matrix in column order, in its own memory (Cholesky, half the work of LU)."""
    factor, failed = scipy.linalg.lapack.spotrf(matrix, lower=1, clean=0, overwrite_a=1)
    inverse, _ = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise UserError("candidates.retriever.regularization is too small for this data; raise it")
    for start in range(0, len(inverse), 1024):  # the upper triangle, a strip at a time
        stop = start + 1024
        inverse[start:stop, stop:] = inverse[stop:, start:stop].T
        corner = inverse[start:stop, start:stop]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T
    return inverse


def _binary(sequences: Ragged, n_items: int) -> sp.csr_matrix:
    ones = np.ones(len(sequences.values), dtype=np.float32)
    x = sp.csr_matrix((ones, (sequences.row_of_value, sequences.values)), shape=(len(sequences), n_items))
    x.sum_duplicates()
    x.data[:] = 1
    return x


def _cosine(gram: sp.csr_matrix) -> sp.csr_matrix:
    norm = np.sqrt(np.maximum(gram.diagonal(), 1)).astype(np.float32)
    scale = sp.diags(1 / norm)
    similarity = (scale @ gram @ scale).tolil()
    similarity.setdiag(0)
    return similarity.tocsr()


def _nearest(similarity: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """Keeps the k largest entries of each row; equal ones by column."""
    similarity.eliminate_zeros()
    coo = similarity.tocoo()
    order = np.lexsort((coo.col, -coo.data, coo.row))
    row = coo.row[order]
    start = np.searchsorted(row, np.arange(similarity.shape[0]))
    keep = order[np.arange(len(row)) - start[row] < k]
    return sp.csr_matrix((coo.data[keep], (coo.row[keep], coo.col[keep])), shape=similarity.shape)


def _dense(linked: sp.csr_matrix) -> np.ndarray:
    dense = linked.toarray()
    dense[dense == 0] = -np.inf
    return dense
