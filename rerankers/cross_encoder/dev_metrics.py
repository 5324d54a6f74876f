"""How well relevant and other pairs are told apart on validation: numbers that go with their negatives, never alone.

accuracy       share of (relevant, negative) pairs of a group in which the relevant one scores higher, ties one half
avg_pos_score  mean sigmoid of the relevant pairs' logits
avg_neg_score  of the negatives'
margin         their difference

Negatives are made as in training (of recommendation: random ones alone), so runs that mine otherwise cannot be
compared by these numbers; their ranking metrics can. Only bce trains logits whose sigmoid means something:
with the other losses accuracy alone does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from data.dataset import Dataset, Ragged
from data.splits import Phase, Split
from rerankers.cross_encoder.pairs import Pair

if TYPE_CHECKING:
    from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker

MOST = 2000  # groups


def dev_groups(reranker: CrossEncoderReranker, dataset: Dataset, split: Split) -> tuple[list[Pair], int]:
    """The pairs of at most `MOST` groups, the relevant text of each first, and their number in a group. Made before
    training, so that what is wrong with them is said then."""
    valid = split.validation
    known = valid.relevant
    if valid.queries is None:  # a history and what follows it
        rows = [np.append(valid.histories.row(r), known.row(r)[:1]) for r in range(len(valid))]
        known = Ragged.from_rows(rows)
    asked = Phase(valid.ids, known, Ragged.empty(len(valid)), valid.queries)
    rows_of = reranker.rows_of(dataset.catalog, split, asked, hard=valid.queries is not None, last=True)
    chosen = np.random.default_rng(reranker.seed).permutation(len(rows_of.owner))[:MOST]
    queries, items = rows_of.groups(np.sort(chosen))
    pairs = [(query, rows_of.texts[item]) for query, row in zip(queries, items, strict=True) for item in row]
    return pairs, items.shape[1]


def dev_metrics(reranker: CrossEncoderReranker, pairs: list[Pair], size: int) -> dict[str, float]:
    return told_apart(reranker.score_pairs(pairs).reshape(-1, size))


def told_apart(logits: np.ndarray) -> dict[str, float]:
    """Of groups [G, size], the relevant text in the first column."""
    relevant, negative = logits[:, :1], logits[:, 1:]
    higher = (relevant > negative) + 0.5 * (relevant == negative)
    scores = expit(logits.astype(np.float64))
    positive, other = float(scores[:, 0].mean()), float(scores[:, 1:].mean())
    return {
        "accuracy": float(higher.mean()),
        "avg_pos_score": positive,
        "avg_neg_score": other,
        "margin": positive - other,
    }
