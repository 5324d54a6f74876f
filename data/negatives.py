"""Negatives: lists for `candidates=sampled`, and those that rerankers train against."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from data.dataset import Catalog, Dataset, Ragged
from data.errors import UserError
from data.keys import keys
from data.progress import bar
from data.ranking import rows_together
from data.retrievers import Retriever
from data.splits import Phase
from data.texts import folded, item_texts

DRAWN = 2**24  # random numbers held at a time
HARD = 100  # best items of the first stage that hard negatives are drawn from


def sample(
    dataset: Dataset, phase: Phase, training: Ragged, size: int, negatives: str, seed: int, stream: int
) -> np.ndarray:
    """[R, size] int32: the relevant items (at most size - 1, the rest count as missed), then seeded negatives.

    Negatives are drawn without replacement, uniformly or by training popularity (an item never seen weighs as one
    interaction), by the largest Gumbel-perturbed log-weights; no item of the user's full sequence is one. The noise
    is of (seed, phase, user, item): validation and test share no draw, and a subset of requests keeps its lists.
    `alike`: uniformly over the items that are new (never in training) where the first relevant item is, over the
    others where it is not, so that being new tells nothing.
    """
    n_items = len(dataset.catalog)
    everything = dataset.sequences.take(phase.ids)
    shortest = n_items - int(everything.lengths.max(initial=0))
    if shortest < size - 1:
        raise UserError(
            f"candidates.size={size} needs {size - 1} negatives, but a user has only {shortest} items outside the "
            "history; choose a smaller size"
        )
    taken = np.bincount(training.values, minlength=n_items)
    popularity = np.maximum(taken, 1)
    weight = np.log(popularity) if negatives == "popularity" else np.zeros(n_items)
    out = np.full((len(phase.ids), size), -1, dtype=np.int32)
    step = rows_together(n_items, cells=DRAWN)
    for start in bar(range(0, len(out), step), "sampling"):
        rows = np.arange(start, min(start + step, len(out)))
        uniform = (keys(seed, stream, phase.ids[rows], np.arange(n_items)) >> np.uint64(11)) * 2.0**-53
        score = (weight - np.log(-np.log(uniform + 2.0**-54))).astype(np.float32)
        own = everything.take(rows)
        score[own.row_of_value, own.values] = -np.inf
        relevant = phase.relevant.take(rows)
        if negatives == "alike":
            score[(taken > 0) != (taken > 0)[relevant.values[relevant.offsets[:-1]]][:, None]] = -np.inf
            _check_alike(score, size)
        place = np.arange(len(relevant.values)) - np.repeat(relevant.offsets[:-1], relevant.lengths)
        first = place < size - 1
        score[relevant.row_of_value[first], relevant.values[first]] = np.inf
        top = np.argpartition(-score, size - 1, axis=1)[:, :size]
        out[rows] = np.sort(top, axis=1)  # by row number, which is random: no place is the target's
    return out


def _check_alike(score: np.ndarray, size: int) -> None:
    if (fewest := int(np.isfinite(score).sum(axis=1).min())) < size - 1:
        raise UserError(
            f"candidates.size={size} needs {size - 1} negatives that are new as the relevant item is, and a user has "
            f"only {fewest}; choose a smaller size"
        )


@dataclass(frozen=True)
class TrainingNegatives:
    """Draws negatives for training rows: uniform over the catalogue, hard ones from a first stage, or both.

    A negative is never an item of the user's own training sequence, nor a passage known to be relevant to the query.
    Items that the user takes later, in validation or test, may be drawn: leaving them out would tell the model which
    they are.
    """

    sequences: Ragged  # [U] training sequences of all users; of queries their relevant passages
    n_items: int
    retriever: Retriever | None  # fit on the same training part; None: no hard negatives
    hard_share: float  # of the negatives, rounded down
    top_k: int | None = None  # best items of the first stage that hard ones are drawn from; None: HARD
    mined: np.ndarray | None = None  # [U, top_k] int32, of queries: what they are drawn from, -1 padded
    new: np.ndarray | None = None  # items of users that are never drawn, since nobody took them in training

    def draw(self, users: np.ndarray, histories: Ragged, size: int, rng: np.random.Generator) -> np.ndarray:
        """[B, size] int32 distinct items in random order; `users` [B] are rows of the training part.

        Hard ones are among the `top_k` best for the history, or the query's mined ones, whose histories are not read;
        what is lacking of them is drawn uniformly.
        """
        own = self.sequences.take(users)
        free = self.n_items - int(np.diff(own.offsets).max(initial=0)) - (0 if self.new is None else len(self.new))
        if free < size:
            raise UserError(
                f"{size} negatives a training row are more than the {free} items outside a user's history or a "
                "query's relevant passages; choose a smaller reranker.training_candidates or candidates.size"
            )
        n_hard = math.floor(self.hard_share * size + 1e-9)  # 1 / 49 * 49 is below 1
        if self.mined is not None:
            return self._of_queries(own, self.mined[users], size, n_hard, rng)
        score = rng.random((len(users), self.n_items), dtype=np.float32)
        score[own.row_of_value, own.values] = -np.inf
        if self.new is not None:
            score[:, self.new] = -np.inf
        if self.retriever is not None and n_hard:
            found = np.array(self.retriever.score(Phase(users, histories, Ragged.empty(len(users)))), dtype=np.float32)
            found[np.isneginf(score)] = -np.inf
            best = min(self.top_k or HARD, free)
            pool = np.argpartition(-found, best - 1, axis=1)[:, :best]
            order = np.argsort(rng.random(pool.shape), axis=1)[:, :n_hard]
            rows = np.arange(len(users))[:, None]
            hard = np.take_along_axis(pool, order, axis=1)
            score[rows, hard] += np.where(np.isneginf(found[rows, hard]), 0, 2)  # before all that are drawn uniformly
        drawn = np.argpartition(-score, size - 1, axis=1)[:, :size]
        return rng.permuted(drawn, axis=1).astype(np.int32)

    def _of_queries(
        self, own: Ragged, pool: np.ndarray, size: int, n_hard: int, rng: np.random.Generator
    ) -> np.ndarray:
        """[B, size] int32: at most `n_hard` of each row of `pool` [B, top_k], the rest uniform over what is left."""
        order = np.argsort(rng.random(pool.shape) + (pool < 0), axis=1)[:, :n_hard]
        hard = np.take_along_axis(pool, order, axis=1)  # -1 where the pool is short
        none = self.n_items
        taken = np.concatenate([own.last(int(own.lengths.max(initial=0))), hard], axis=1)
        taken = np.sort(np.where(taken < 0, none, taken), axis=1)
        taken[:, 1:][taken[:, 1:] == taken[:, :-1]] = none  # a passage that is named twice
        taken = np.sort(taken, axis=1)
        drawn = uniform(taken, self.n_items, size - int((hard >= 0).sum(axis=1).min(initial=n_hard)), rng)
        both = np.concatenate([hard, drawn], axis=1)
        first = np.argsort(both < 0, axis=1, kind="stable")[:, :size]
        return rng.permuted(np.take_along_axis(both, first, axis=1), axis=1)


def relevant_by_text(asked: Phase, catalog: Catalog) -> Ragged:
    """[Q] of each query all that no negative may be: what is relevant to it or to a query of the same words, and every
    passage with the words of one of these."""
    assert asked.queries is not None
    query, query_text = distinct([folded(str(text)) for text in asked.queries])
    item, item_text = distinct([folded(text) for text in item_texts(catalog)])
    known = asked.histories
    said = query_text @ sp.csr_matrix(
        (np.ones(len(known.values)), (query[known.row_of_value], item[known.values])),
        shape=(query_text.shape[1], item_text.shape[1]),
    )
    wide = (said @ item_text.T).tocsr()
    wide.sort_indices()
    return Ragged(wide.indices.astype(np.int32), wide.indptr.astype(np.int64))


def distinct(texts: list[str]) -> tuple[np.ndarray, sp.csr_matrix]:
    """[n] number of each text, and the same as a matrix [n, texts] of ones."""
    number = pd.factorize(np.array(texts, dtype=object))[0]
    rows = np.arange(len(texts))
    return number, sp.csr_matrix(
        (np.ones(len(texts)), (rows, number)), shape=(len(texts), int(number.max(initial=-1)) + 1)
    )


def uniform(taken: np.ndarray, n_items: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """[B, k] int32 distinct items below `n_items` that are not in `taken` [B, M], whose rows are sorted and hold, once
    each, items and, last, padding: any numbers from `n_items` on.

    The x-th free item is x plus the taken ones before it. A row with fewer than k free items is to be read as far as
    it has some.
    """
    drawn = np.empty((len(taken), k), dtype=np.int32)
    for place in range(k):
        free = n_items - (taken < n_items).sum(axis=1)
        x = rng.integers(0, np.maximum(free, 1))[:, None]
        skipped = np.where(taken < n_items, taken - np.arange(taken.shape[1]), n_items)  # padding is before nothing
        before = (skipped <= x).sum(axis=1, keepdims=True)
        drawn[:, place : place + 1] = x + before
        taken = np.sort(np.concatenate([taken, x + before], axis=1), axis=1)
    return drawn
