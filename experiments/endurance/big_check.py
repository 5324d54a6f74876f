"""A big run against what is found in the raw file by other means: the same targets, the same first stage by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.csv

from data.files import read_json

LAST, DECAY, WINDOW = 5, 0.6, 5  # of conf/candidates/retriever/markov.yaml
ASKED = 5  # requests whose list is made again


@dataclass(frozen=True)
class Histories:
    """All that is left of u.data, user by user and oldest first, in the file's own ids."""

    user: np.ndarray  # [M]
    item: np.ndarray  # [M]
    from_end: np.ndarray  # [M] 0: the user's last item


def histories(folder: Path, min_rating: int, k: int) -> Histories:
    options = pyarrow.csv.ReadOptions(column_names=["user", "item", "rating", "timestamp"])
    sep = pyarrow.csv.ParseOptions(delimiter="\t")
    table = pyarrow.csv.read_csv(folder / "u.data", read_options=options, parse_options=sep)
    user, item, rating, timestamp = (table[name].to_numpy() for name in table.column_names)
    order = np.lexsort((timestamp, user))
    order = order[rating[order] >= min_rating]
    user, item = user[order].astype(np.int32), item[order].astype(np.int32)
    by_pair = np.lexsort((item, user))  # stable: the earliest of a pair is first
    again = (np.diff(user[by_pair], prepend=-1) == 0) & (np.diff(item[by_pair], prepend=-1) == 0)
    kept = np.ones(len(user), dtype=bool)
    kept[by_pair[again]] = False
    while True:
        user, item = user[kept], item[kept]
        kept = (np.bincount(user)[user] >= k) & (np.bincount(item)[item] >= k)
        if kept.all():
            break
    ends = np.append(np.flatnonzero(np.diff(user)), len(user) - 1)
    return Histories(user, item, np.repeat(ends, np.diff(ends, prepend=-1)) - np.arange(len(user)))


def wrong(run: Path, known: Histories, size: int) -> list[str]:
    """What is not as it must be, in words; nothing if all is well."""
    said = []
    per_request = pd.read_parquet(run / "per_request.parquet", columns=["request"])
    requests = per_request["request"].astype(int).to_numpy()
    last = known.from_end == 0
    target = pd.Series(known.item[last], index=known.user[last])[requests].to_numpy()
    best = pd.read_parquet(run / "predictions.parquet", filters=[("rank", "<=", 10)], columns=["request", "candidate"])
    owner = pd.Index(requests).get_indexer(pd.Index(best["request"].astype(int)))
    recall = (target[owner] == best["candidate"].astype(int).to_numpy()).sum() / len(requests)
    reported = read_json(run / "metrics.json")["test/recall_at_10"]
    if abs(recall - reported) > 1e-9:
        said.append(
            f"recall@10 is {recall:.6f} by predictions.parquet and the raw file, {reported:.6f} in metrics.json"
        )
    for request in requests[:: max(1, len(requests) // ASKED)][:ASKED]:
        rows = pd.read_parquet(run / "predictions.parquet", filters=[("request", "==", str(request))])
        score = markov(known, request)
        listed = rows["candidate"].astype(int).to_numpy()
        expected = np.sort(score)[::-1][:size]
        expected = expected[expected > 0]
        got = rows["score"].to_numpy()
        if len(got) != len(expected) or not np.allclose(got, expected, rtol=1e-4):
            said.append(f"user {request}: the best scores are {expected[:3]}, the run has {got[:3]}")
        elif not np.allclose(score[listed], got, rtol=1e-4):
            said.append(f"user {request}: the items {listed[:3]} have not the scores {got[:3]}")
    return said


def markov(known: Histories, user: int) -> np.ndarray:
    """The first stage's score of every item id for one user's test request, 0 where there is none; an item of the
    history has 0 too, unless it is the target."""
    own = known.user == user
    history, target = known.item[own][:-1], known.item[own][-1]
    score = np.zeros(int(known.item.max()) + 1)
    learned = known.from_end >= 2  # the last is the test's, the one before it validation's
    for age, item in enumerate(history[::-1][:LAST]):
        at = np.flatnonzero((known.item == item) & learned)
        after = np.zeros(len(score))
        for distance in range(1, WINDOW + 1):
            inside = at[known.from_end[at] >= distance + 2]
            np.add.at(after, known.item[inside + distance], 1 / distance)
        if after.any():
            score += DECAY**age * after / after.sum()
    wanted = score[target]
    score[history] = 0
    score[target] = wanted
    return score
