"""BERT4Rec (Sun et al., CIKM 2019): a bidirectional transformer that fills in masked items of a sequence.

    python train.py reranker=bert4rec dataset=ml_100k candidates=full

Scoring appends [MASK] to the history and reads off the candidates asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.dataset import Ragged
from data.errors import in_range
from rerankers.item_transformer import MASK, PAD, SPECIAL
from rerankers.sequence_reranker import SequenceReranker


@dataclass(kw_only=True)
class BERT4Rec(SequenceReranker):
    """`max_length`: items of a training row; scoring reads the last max_length - 1 and a mask."""

    mask_probability: float = 0.2
    last_only: float = 0.3  # share of rows that mask the last item alone, which is what scoring asks

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("reranker.mask_probability", self.mask_probability, 0.01, 0.9)
        in_range("reranker.last_only", self.last_only, 0, 1)

    def task(self, items: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        masked = rng.random(items.shape) < self.mask_probability
        only_last = rng.random(len(items)) < self.last_only
        masked[only_last] = False
        masked[:, -1] |= only_last | ~(masked & (items >= 0)).any(axis=1)  # no row without a target
        masked &= items >= 0
        tokens = np.where(masked, MASK, items + SPECIAL)
        tokens[items < 0] = PAD
        return tokens, np.where(masked, items, -100)

    def query(self, histories: Ragged) -> np.ndarray:
        items = histories.last(int(min(histories.lengths.max(initial=0), self.max_length - 1)))
        return np.append(np.where(items < 0, PAD, items + SPECIAL), np.full((len(items), 1), MASK), axis=1)
