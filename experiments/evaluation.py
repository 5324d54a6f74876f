"""From a scoring function to per-request metrics, slice by slice, so that memory does not grow with R x items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.candidates import KEPT
from data.dataset import Relevance, Requests
from data.errors import UserError
from data.progress import bar
from data.ranking import best, mask_seen
from experiments.chance import Chance, chance
from experiments.metrics import Ranks, measure, rank

ScoreFn = Callable[[Requests], np.ndarray]
CELLS = 8_000_000  # scores of one slice


@dataclass(frozen=True)
class Evaluated:
    values: dict[str, np.ndarray]  # metric -> [R]
    ranks: Ranks
    items: np.ndarray | None  # [R, K] int32, best first, -1 padded: the predictions
    scores: np.ndarray | None  # [R, K] float32
    n_ranked: int | None = None  # items of the predictions

    @property
    def means(self) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in self.values.items()}

    @property
    def tied(self) -> np.ndarray:
        """[R] bool: a relevant item has the same score as another candidate."""
        return np.bincount(self.ranks.row, self.ranks.tied, minlength=len(self.ranks)).astype(bool)

    @property
    def tie_rate(self) -> float:
        return float(self.tied.mean())


@dataclass(frozen=True)
class Evaluator:
    """The protocol of one phase. It holds what is relevant; a reranker sees only the requests."""

    requests: Requests
    relevance: Relevance
    metrics: list[str]
    ks: list[int]
    seed: int  # of ties
    filter_seen: bool = True

    def __post_init__(self) -> None:
        if self.requests.candidates is None and max(self.ks) > KEPT:
            raise UserError(
                f"protocol.ks={self.ks}: candidates=full keeps the best {KEPT} of each request; choose k <= {KEPT}"
            )

    def __call__(self, score: ScoreFn, keep: bool = False, description: str = "scoring") -> Evaluated:
        """`keep` also returns the ranked lists (the best 100 of the whole catalogue)."""
        step = max(1, CELLS // self.requests.width)
        ranks, items, scores = [], [], []
        for start in bar(range(0, len(self.requests), step), description):
            rows = slice(start, start + step)
            part, relevant = self.requests.take(rows), self.relevance.take(rows).items
            got = score(part)
            if got.shape != (len(part), part.width):
                raise ValueError(f"scores have shape {got.shape}, not {(len(part), part.width)}")
            n_seen: np.ndarray | int = 0
            if part.candidates is None and self.filter_seen:
                got = np.array(got, dtype=np.float32)
                n_seen = mask_seen(got, part.histories, relevant)
            ranks.append(rank(got, part, relevant, self.seed, n_seen))
            if keep:
                top, value = self._best(got, part)
                items.append(top)
                scores.append(value)
        whole = Ranks.concatenate(ranks)
        values = measure(whole, self.metrics, self.ks)
        if not keep:
            return Evaluated(values, whole, None, None)
        ranked = np.concatenate(items)
        return Evaluated(values, whole, ranked, np.concatenate(scores), int((ranked >= 0).sum()))

    def _best(self, scores: np.ndarray, part: Requests) -> tuple[np.ndarray, np.ndarray]:
        if part.candidates is None:
            return best(scores, part.ids, KEPT, self.seed)
        masked = np.where(part.candidates < 0, -np.inf, scores).astype(np.float32)
        column, value = best(masked, part.ids, part.width, self.seed, part.candidates)
        return np.where(column < 0, -1, np.take_along_axis(part.candidates, np.maximum(column, 0), 1)), value

    def chance(self, ranks: Ranks) -> Chance:
        return chance(ranks, self.metrics, self.ks)

    def oracle(self, ranks: Ranks) -> dict[str, np.ndarray]:
        """Metrics of a perfect order of the same candidates: the ceiling that the first stage sets."""
        return measure(ranks.oracle(), self.metrics, self.ks)
