"""SASRec (Kang & McAuley, ICDM 2018) with the full softmax: a causal transformer that predicts each next item.

    python train.py reranker=sasrec dataset=ml_100k candidates=full

The paper's loss (one negative, binary) undersells it; with cross-entropy over all items it beats BERT4Rec on most data
sets (Klenitskiy & Vasilev, RecSys 2023), so it is the sequence baseline to beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from data.dataset import Ragged
from rerankers.item_transformer import MASK, PAD, SPECIAL
from rerankers.sequence_reranker import SequenceReranker


@dataclass(kw_only=True)
class SASRec(SequenceReranker):
    """`max_length`: items read, in training and scoring."""

    causal: ClassVar[bool] = True

    @property
    def row_items(self) -> int:
        return self.max_length + 1  # the first is no target, the last no input

    def shortest_crop(self, lengths: np.ndarray) -> np.ndarray:
        return np.minimum(lengths, self.row_items)  # every position is a target already; a crop only moves the window

    def task(self, items: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.where(items < 0, PAD, items + SPECIAL)[:, :-1]
        return tokens, np.where(tokens == PAD, -100, items[:, 1:])

    def query(self, histories: Ragged) -> np.ndarray:
        items = histories.last(int(np.clip(histories.lengths.max(initial=0), 1, self.max_length)))
        tokens = np.where(items < 0, PAD, items + SPECIAL)
        tokens[histories.lengths == 0, -1] = MASK  # no history: mostly the bias, which is popularity
        return tokens
