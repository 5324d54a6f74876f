"""The numbers that stand for items and users in prompts: `user_251` has taken 1234, 877, ...

    random            seeded permutations: a number says nothing
    train_sequential  items in order of first appearance, user after user, in the training part alone
    p5_sequential     the same along the WHOLE sequences, as P5 and, after it, VIP5 number (P5's notebook, `id_map`)

In the last, what a user takes next often has the next number, the test item included: `experiments.id_leak` measures
what "last id + 1" alone gets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.dataset import Dataset, Ragged
from data.splits import Split

SCHEMES = ("random", "train_sequential", "p5_sequential")
LEAKS = {
    "train_sequential": "ids numbered in order of first appearance in training: they tell what was taken after what "
    "there (reranker.id_scheme=train_sequential)",
    "p5_sequential": "ids numbered in order of first appearance, test items included: they leak "
    "(reranker.id_scheme=p5_sequential)",
}
STREAM = 0x1D5  # beside the seed: rows are a permutation drawn from a seed as well, often the same


@dataclass(frozen=True)
class Numbers:
    item: np.ndarray  # [I] int64, 1..I, all distinct
    user: np.ndarray  # [U] int64, 1..U, all distinct


def number(scheme: str, dataset: Dataset, split: Split, seed: int) -> Numbers:
    """Numbers under one of `SCHEMES`."""
    rng = np.random.default_rng((STREAM, seed))
    walk = rng.permutation(len(dataset.user_id))  # users in the order of their numbers
    if scheme == "random":
        order = rng.permutation(len(dataset.catalog))
    else:
        sequences = dataset.sequences.take(walk)
        if scheme == "train_sequential":
            sequences = split.train.histories.take(np.argsort(numbered(walk)[split.train.ids]))
        order = first_appearances(sequences, len(dataset.catalog), rng)
    return Numbers(item=numbered(order), user=numbered(walk))


def first_appearances(sequences: Ragged, n_items: int, rng: np.random.Generator) -> np.ndarray:
    """[I] item rows as they first appear, row after row; those that never do come last, in random order."""
    items, first = np.unique(sequences.values, return_index=True)
    never = np.setdiff1d(np.arange(n_items), items)
    return np.concatenate([items[np.argsort(first)], rng.permutation(never)])


def numbered(order: np.ndarray) -> np.ndarray:
    """[n] the place of each row in `order`, from 1."""
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.arange(1, len(order) + 1)
    return numbers
