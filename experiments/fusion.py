"""Reranker and first stage added: a row of its own, with one weight that is chosen on validation or given.

    python train.py protocol.fusion=validation    # the best of 0, .1 .. 1 by protocol.primary
    python train.py protocol.fusion=0.3           # w * reranker + (1 - w) * first stage

Both are z-scores over the candidates of a request, so that their scales do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from data.dataset import Requests

if TYPE_CHECKING:  # torch comes with them, and tables need the names alone
    from experiments.evaluation import Evaluated, Evaluator
    from rerankers.base import Reranker, ScoreFn

GRID = [step / 10 for step in range(11)]
LOWEST = np.finfo(np.float32).min  # of an item that the first stage did not link


@dataclass
class Kept:
    """A scoring function that keeps what it gave, so that fusion costs no second scoring."""

    score: ScoreFn
    parts: list[np.ndarray] = field(default_factory=list)

    def __call__(self, requests: Requests) -> np.ndarray:
        self.parts.append(np.array(self.score(requests), dtype=np.float32))
        return self.parts[-1]

    @property
    def scores(self) -> np.ndarray:
        """[R, N] of all requests so far."""
        return np.concatenate(self.parts)


def applies(reranker: Reranker, requests: Requests) -> bool:
    """Whether there is another order to add. Of the whole catalogue the first stage keeps its best alone."""
    listed = requests.candidates is not None and requests.first_stage_values is not None
    return reranker.name != "first_stage" and listed and len(requests) > 0


def standardized(scores: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """[R, N] float64, z-scores over each request's candidates; 0 where they are all alike, and for padding.

    A candidate without a score (-inf, or the smallest float32) takes the smallest that the request has.
    """
    listed = candidates >= 0
    linked = listed & (scores > LOWEST)
    least = np.where(linked, scores, np.inf).min(axis=1, keepdims=True)
    least[~np.isfinite(least)] = 0
    filled = np.where(linked, scores, least).astype(np.float64)
    n = np.maximum(listed.sum(axis=1, keepdims=True), 1)
    centred = np.where(listed, filled - (filled * listed).sum(axis=1, keepdims=True) / n, 0)
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / n)
    alike = filled.max(axis=1, keepdims=True, where=listed, initial=-np.inf) <= least
    return np.where(alike, 0, centred / np.where(alike, 1, deviation))


def mixed(requests: Requests, scores: np.ndarray, weight: float) -> np.ndarray:
    """[R, N] float32: weight * reranker + (1 - weight) * first stage."""
    first = requests.first_stage_scores
    assert requests.candidates is not None and first is not None
    own, first = standardized(scores, requests.candidates), standardized(first, requests.candidates)
    return (weight * own + (1 - weight) * first).astype(np.float32)


def fused(evaluator: Evaluator, scores: np.ndarray, weight: float) -> Evaluated:
    """The row, of a reranker's `scores` [R, N] of the evaluator's requests."""
    done = 0

    def score(part: Requests) -> np.ndarray:
        nonlocal done
        done += len(part)
        return mixed(part, scores[done - len(part) : done], weight)

    return evaluator(score, description="fusing")


def choose(validation: Evaluator, scores: np.ndarray, primary: str) -> float:
    """The best weight of the grid; of equally good ones the smallest, which trusts the first stage."""
    found = {weight: round(fused(validation, scores, weight).means[primary], 12) for weight in GRID}
    return max(GRID, key=lambda weight: (found[weight], -weight))


def name_of(weight: float | list[float]) -> str:
    """`w=.30`; of folds whose weights differ `w=.20-.50`."""
    weights = weight if isinstance(weight, list) else [weight]
    ends = [f"{w:.2f}".removeprefix("0") for w in (min(weights), max(weights))]
    return "w=" + "-".join(dict.fromkeys(ends))
