"""Ranking metrics per request, from the ranks of its relevant items.

A rank is 1 + the number of candidates ordered before the item (`data.ranking`); an item that is not among the
candidates, or whose score is -inf, has rank infinity. Definitions are trec_eval's, so `ir_measures` agrees:
recall and average precision divide by all relevant items of the request, those the first stage missed included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from data.dataset import Ragged, Requests
from data.errors import UserError
from data.keys import TIES, keys

CELLS = 2**20  # scores compared at a time
ALIASES = {"context_precision": "precision", "context_recall": "recall"}  # the names of RAG evaluation
NAMES = ("recall", "ndcg", "mrr", "hit", "map", "precision", *ALIASES)
DISPLAY = {
    "context_precision": "Context precision",
    "context_recall": "Context recall",
    "recall": "Recall",
    "ndcg": "NDCG",
    "mrr": "MRR",
    "hit": "Hit",
    "map": "MAP",
    "precision": "Precision",
}


class NaNScores(UserError):
    """The reranker has diverged, or never was a number."""


@dataclass(frozen=True)
class Ranks:
    """Ranks of the relevant items of R requests, flat: pair p is relevant item p of request `row[p]`."""

    row: np.ndarray  # [P] int64, non-decreasing
    rank: np.ndarray  # [P] float64, inf for a miss
    present: np.ndarray  # [P] bool, among the candidates; a reranker may still leave it unranked
    tied: np.ndarray  # [P] bool, another candidate has the same score
    n_candidates: np.ndarray  # [R] what there was to rank, whether or not the reranker did
    n_relevant: np.ndarray  # [R] relevant items, missed ones included

    def __len__(self) -> int:
        return len(self.n_relevant)

    @property
    def found(self) -> np.ndarray:
        """[R] relevant items among the candidates."""
        return np.bincount(self.row[self.present], minlength=len(self))

    @property
    def best(self) -> np.ndarray:
        """[R] rank of the best relevant item, infinite for a miss."""
        best = np.full(len(self), np.inf)
        np.minimum.at(best, self.row, self.rank)
        return best

    def oracle(self) -> Ranks:
        """The same requests with the relevant items that were found put first."""
        order = np.lexsort((~self.present, self.row))
        start = np.searchsorted(self.row, np.arange(len(self)))
        place = np.arange(len(self.row)) - start[self.row] + 1.0
        present = self.present[order]
        return replace(self, rank=np.where(present, place, np.inf), present=present, tied=np.zeros_like(present))

    @staticmethod
    def concatenate(parts: list[Ranks]) -> Ranks:
        sizes = [len(part) for part in parts]
        shift = np.cumsum([0, *sizes[:-1]])
        return Ranks(
            np.concatenate([part.row + s for part, s in zip(parts, shift, strict=True)]),
            np.concatenate([part.rank for part in parts]),
            np.concatenate([part.present for part in parts]),
            np.concatenate([part.tied for part in parts]),
            np.concatenate([part.n_candidates for part in parts]),
            np.concatenate([part.n_relevant for part in parts]),
        )


def rank(
    scores: np.ndarray, requests: Requests, relevant: Ragged, seed: int, n_excluded: np.ndarray | int = 0
) -> Ranks:
    """Ranks the relevant items by `scores` float32 [R, N] (columns as the candidates, or the whole catalogue).

    Ties are broken by the seeded key of (request, item). Padding and scores of -inf are not ranked. `n_excluded` [R]
    says how many items the protocol has set to -inf (the history), which are no candidates at all.
    """
    if np.isnan(scores).any():
        raise NaNScores(f"{int(np.isnan(scores).any(axis=1).sum()):,} requests got NaN scores; the reranker diverged")
    items = np.arange(requests.width) if requests.candidates is None else requests.candidates
    scores = scores.astype(np.float32, copy=False)
    if requests.candidates is not None:
        scores = np.where(items < 0, np.float32(-np.inf), scores)
    row = relevant.row_of_value
    if requests.candidates is None:
        column, present = relevant.values, np.ones(len(row), dtype=bool)
    else:
        match = requests.candidates[row] == relevant.values[:, None]  # [P, N]
        column, present = match.argmax(axis=1), match.any(axis=1)
    own = np.where(present, scores[row, column], np.float32(-np.inf))  # [P]
    better, equal = np.zeros(len(row), dtype=np.int64), np.zeros(len(row), dtype=np.int64)
    step = max(1, CELLS // requests.width)
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        listed = items if requests.candidates is None else items[row[part]]
        better[part], equal[part] = _place(
            scores[row[part]], own[part], listed, relevant.values[part], requests.ids[row[part]], seed
        )
    ranked = own > -np.inf
    return Ranks(
        row=row,
        rank=np.where(ranked, 1.0 + better, np.inf),
        present=present,
        tied=ranked & (equal > 1),
        n_candidates=np.broadcast_to((items >= 0).sum(axis=-1) - n_excluded, len(scores)),
        n_relevant=relevant.lengths,
    )


def _place(
    scores: np.ndarray, own: np.ndarray, items: np.ndarray, item: np.ndarray, ids: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of scores [P, N]: how many are ordered before `own` [P], the score of `item` [P], and how many equal it."""
    better = (scores > own[:, None]).sum(axis=1)
    same = (scores == own[:, None]) & (own > -np.inf)[:, None]
    equal = same.sum(axis=1)
    pair, other = np.nonzero(same & (equal > 1)[:, None])  # keys are made for ties alone
    if len(pair):
        rival = items[other] if items.ndim == 1 else items[pair, other]
        key, own_key = (keys(seed, TIES, ids[pair], i[:, None])[:, 0] for i in (rival, item[pair]))
        half = np.uint64(32)  # of the key counts, as in `data.ranking.composite`
        better += np.bincount(pair[key >> half > own_key >> half], minlength=len(own))
    return better, equal


def measure(ranks: Ranks, names: list[str], ks: list[int]) -> dict[str, np.ndarray]:
    """{"recall_at_10": [R] float64, ...} for each name and k."""
    n, row, r = len(ranks), ranks.row, ranks.rank
    relevant = np.maximum(ranks.n_relevant, 1)
    single = len(row) == n and bool((ranks.n_relevant == 1).all())

    def per_request(values: np.ndarray) -> np.ndarray:
        return values if single else np.bincount(row, weights=values, minlength=n)

    gain, reciprocal = 1 / np.log2(r + 1), 1 / r  # 0 for a miss
    discounts = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, max(ks) + 2)))])
    if single:
        first, precision_at_hit = reciprocal, reciprocal
    else:
        order = np.lexsort((r, row))
        start = np.searchsorted(row, np.arange(n))
        place = np.empty(len(row))
        place[order] = np.arange(len(row)) - start[row] + 1
        precision_at_hit = place * reciprocal
        first = np.zeros(n)
        np.maximum.at(first, row, reciprocal)
    out = {}
    for k in ks:
        within = r <= k
        hits = per_request(within.astype(np.float64))
        for given in names:
            name = ALIASES.get(given, given)
            if name == "recall":
                value = hits / relevant
            elif name == "hit":
                value = (hits > 0).astype(np.float64)
            elif name == "precision":
                value = hits / k
            elif name == "ndcg":
                value = per_request(np.where(within, gain, 0)) / discounts[np.minimum(relevant, k)]
            elif name == "mrr":
                value = np.where(first >= 1 / k, first, 0)
            else:
                value = per_request(np.where(within, precision_at_hit, 0)) / relevant
            out[key(given, k)] = value
    return out


def key(name: str, k: int) -> str:
    """The one place where a metric's name is built; "@" is illegal in MLflow."""
    return f"{name}_at_{k}"


def display(metric: str) -> str:
    name, _, k = metric.partition("_at_")
    return f"{DISPLAY.get(name, name)}@{k}"
