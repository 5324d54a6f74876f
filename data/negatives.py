"""Negatives: lists for `candidates=sampled`, and those that rerankers train against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.dataset import Dataset, Ragged
from data.errors import UserError
from data.keys import keys
from data.progress import bar
from data.retrievers import Retriever
from data.splits import Phase

ROWS = 1024  # requests drawn at a time
HARD = 100  # best items of the first stage that hard negatives are drawn from


def sample(
    dataset: Dataset, phase: Phase, training: Ragged, size: int, negatives: str, seed: int, stream: int
) -> np.ndarray:
    """[R, size] int32: the relevant items (at most size - 1, the rest count as missed), then seeded negatives.

    Negatives are drawn without replacement, uniformly or by training popularity (an item never seen weighs as one
    interaction), by the largest Gumbel-perturbed log-weights; no item of the user's full sequence is one. The noise
    is of (seed, phase, user, item): validation and test share no draw, and a subset of requests keeps its lists.
    """
    n_items = len(dataset.catalog)
    everything = dataset.sequences.take(phase.ids)
    shortest = n_items - int(everything.lengths.max(initial=0))
    if shortest < size - 1:
        raise UserError(
            f"candidates.size={size} needs {size - 1} negatives, but a user has only {shortest} items outside the "
            "history; choose a smaller size"
        )
    popularity = np.maximum(np.bincount(training.values, minlength=n_items), 1)
    weight = np.log(popularity) if negatives == "popularity" else np.zeros(n_items)
    out = np.full((len(phase.ids), size), -1, dtype=np.int32)
    for start in bar(range(0, len(out), ROWS), "sampling"):
        rows = np.arange(start, min(start + ROWS, len(out)))
        uniform = (keys(seed, stream, phase.ids[rows], np.arange(n_items)) >> np.uint64(11)) * 2.0**-53
        score = (weight - np.log(-np.log(uniform + 2.0**-54))).astype(np.float32)
        own = everything.take(rows)
        score[own.row_of_value, own.values] = -np.inf
        relevant = phase.relevant.take(rows)
        place = np.arange(len(relevant.values)) - np.repeat(relevant.offsets[:-1], relevant.lengths)
        first = place < size - 1
        score[relevant.row_of_value[first], relevant.values[first]] = np.inf
        top = np.argpartition(-score, size - 1, axis=1)[:, :size]
        out[rows] = np.sort(top, axis=1)  # by row number, which is random: no place is the target's
    return out


@dataclass(frozen=True)
class TrainingNegatives:
    """Draws negatives for training rows: uniform over the catalogue, hard ones from a first stage, or both.

    A negative is never an item of the user's own training sequence. Items that the user takes later, in validation
    or test, may be drawn: leaving them out would tell the model which they are.
    """

    sequences: Ragged  # [U] training sequences of all users
    n_items: int
    retriever: Retriever | None  # fit on the same training part; None: no hard negatives
    hard_share: float  # of the negatives, rounded down

    def draw(self, users: np.ndarray, histories: Ragged, size: int, rng: np.random.Generator) -> np.ndarray:
        """[B, size] int32 distinct items in random order; hard ones are among the `HARD` best for the history."""
        own = self.sequences.take(users)
        free = self.n_items - int(np.diff(own.offsets).max(initial=0))
        if free < size:
            raise UserError(
                f"{size} negatives a training row are more than the {free} items outside a user's history; choose a "
                "smaller reranker.training_candidates or candidates.size"
            )
        score = rng.random((len(users), self.n_items), dtype=np.float32)
        score[own.row_of_value, own.values] = -np.inf
        n_hard = int(self.hard_share * size)
        if self.retriever is not None and n_hard:
            found = np.array(self.retriever.score(Phase(users, histories, Ragged.empty(len(users)))), dtype=np.float32)
            found[np.isneginf(score)] = -np.inf
            pool = np.argpartition(-found, min(HARD, free) - 1, axis=1)[:, : min(HARD, free)]
            order = np.argsort(rng.random(pool.shape), axis=1)[:, :n_hard]
            rows = np.arange(len(users))[:, None]
            hard = np.take_along_axis(pool, order, axis=1)
            score[rows, hard] += np.where(np.isneginf(found[rows, hard]), 0, 2)  # before all that are drawn uniformly
        drawn = np.argpartition(-score, size - 1, axis=1)[:, :size]
        return rng.permuted(drawn, axis=1).astype(np.int32)
