"""Lists of the relevant items among seeded negatives, for `candidates=sampled`."""

from __future__ import annotations

import numpy as np

from data.dataset import Dataset, Ragged
from data.errors import UserError
from data.keys import keys
from data.progress import bar
from data.splits import Phase

ROWS = 1024  # requests drawn at a time


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
