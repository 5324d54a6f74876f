"""Hard negatives of queries: what the first stage ranks high and nobody called relevant. Mined once, before training.

With few labels many of these are relevant all the same. `margin` leaves out what scores nearly as high as a passage
that is known to be (NV-Retriever's TopK-PercPos, arXiv 2407.15831, whose best margin is .05).
"""

from __future__ import annotations

import logging

import numpy as np

from data.errors import in_range
from data.progress import bar
from data.ranking import best
from data.retrievers import Retriever
from data.splits import Phase

CELLS = 2**22  # scores held at a time; more are slower
log = logging.getLogger(__name__)


def mine(retriever: Retriever, training: Phase, n_items: int, top_k: int, margin: float | None) -> np.ndarray:
    """[Q, top_k] int32 of a fitted retriever, best first, -1 padded; equal scores in an order of (query, passage).

    Known positives, and passages that nothing links to the query, are none. `margin` in [0, 1) is relative to the
    query's best-scored positive: a passage that scores above (1 - margin) times that is left out, so a query that
    shares no word with its positives keeps none. None: nothing is left out.
    """
    in_range("top_k", top_k, 1)
    in_range("margin", margin, 0, 1)
    width = min(top_k, n_items)
    mined = np.full((len(training), top_k), -1, dtype=np.int32)
    step, n_likely = max(1, CELLS // n_items), 0
    for start in bar(range(0, len(training), step), "mining hard negatives"):
        part = training.take(slice(start, start + step))
        scores = np.array(retriever.score(part), dtype=np.float32)
        query, positive = part.histories.row_of_value, part.histories.values
        limit = np.full(len(part), -np.inf, dtype=np.float32)
        np.maximum.at(limit, query, scores[query, positive])
        scores[query, positive] = -np.inf
        if margin is not None:
            linked = np.isfinite(limit)
            limit[linked] -= margin * np.abs(limit[linked])
            likely = scores > limit[:, None]
            scores[likely] = -np.inf
            n_likely += int(likely.sum())
        mined[start : start + step, :width] = best(scores, part.ids, width, seed=0)[0]
    kept = (mined >= 0).sum(axis=1)
    log.info(
        "hard negatives by %s: %.1f of %d a query on average; %.0f %% of %s queries have fewer, %.0f %% none%s",
        type(retriever).__name__, kept.mean(), top_k, 100 * (kept < top_k).mean(), f"{len(kept):,}",
        100 * (kept == 0).mean(),
        "" if margin is None else f"; margin {margin:g} left out the {n_likely / len(kept):.1f} best of a query",
    )  # fmt: skip
    return mined
