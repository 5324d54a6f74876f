"""Generated ratings of any size as MovieLens' raw files, with a succession of items that a first stage can find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from data.sources.movielens import GENRES

USER, ITEM = 20, 100  # interactions of each on average
SUCCESSORS = 3  # items that may follow an item
FOLLOWS = 0.4  # share of interactions that follow the one before; the others are drawn by popularity
POWER = 0.6  # of the popularity: the item of rank r is drawn in proportion to r^-POWER
SHORTEST, ROWS = 6, 500_000  # interactions of a user; lines written together


def generate(folder: Path, interactions: int, seed: int) -> None:
    """u.data and u.item: a twentieth as many users, a hundredth as many items. Every item is taken."""
    rng = np.random.default_rng([seed, interactions])
    users, items = interactions // USER, interactions // ITEM
    length = SHORTEST + rng.multinomial(interactions - SHORTEST * users, rng.dirichlet(np.full(users, 3.0)))
    order = np.argsort(-length, kind="stable")  # the users who still act at a step are the first ones
    length = length[order]
    drawn = np.cumsum(np.arange(1, items + 1) ** -POWER)
    named = rng.permutation(items)  # rank -> item
    successors = rng.integers(0, items, (items, SUCCESSORS), dtype=np.int32)
    item = np.empty(interactions, dtype=np.int32)
    start = np.cumsum(length) - length
    now = np.zeros(users, dtype=np.int32)
    for turn in range(int(length[0])):
        acting = int((length > turn).sum())
        by_popularity = named[np.searchsorted(drawn, rng.random(acting) * drawn[-1])]
        follows = (rng.random(acting) < FOLLOWS) & (turn > 0)
        now[:acting] = np.where(follows, successors[now[:acting], rng.integers(0, SUCCESSORS, acting)], by_popularity)
        item[start[:acting] + turn] = now[:acting]
    user = np.repeat(rng.permutation(users).astype(np.int32), length)
    day = np.repeat(rng.integers(0, 3_000, users), length)
    step = np.arange(interactions) - np.repeat(start, length)
    timestamp = 900_000_000 + day * 86_400 + step * 60
    rating = rng.choice(np.array([1, 2, 3, 4, 5], dtype=np.int8), interactions, p=[0.02, 0.08, 0.25, 0.4, 0.25])
    write(folder / "u.data", [user + 1, item + 1, rating, timestamp], rng.permutation(interactions))
    ids = np.arange(1, items + 1)
    texts = [np.char.add("film ", ids.astype(str)), *([np.full(items, "")] * 3)]
    write(folder / "u.item", [ids, *texts, *([(ids % 2).astype(np.int8)] * len(GENRES))], np.arange(items), "|")


def write(path: Path, columns: list[np.ndarray], order: np.ndarray, sep: str = "\t") -> None:
    options = pyarrow.csv.WriteOptions(include_header=False, delimiter=sep, quoting_style="none")
    names = [str(number) for number in range(len(columns))]
    with path.open("wb") as file:
        for start in range(0, len(order), ROWS):
            rows = order[start : start + ROWS]
            pyarrow.csv.write_csv(pa.table([pa.array(c[rows]) for c in columns], names), file, options)
