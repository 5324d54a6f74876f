"""Training rows of the cross-encoder: a query, a text that is relevant to it, and negatives drawn anew each epoch.

Of passages a group is a training query with one of its relevant passages; of recommendation, a user's history up to a
point and the item that follows. With `loss=bce` a row is one pair of a group, else a row is a group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data.dataset import Catalog
from data.errors import UserError
from data.negatives import TrainingNegatives
from data.splits import Phase
from data.texts import history_texts, item_texts

if TYPE_CHECKING:
    from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker

BLOCK = 256  # groups drawn at a time
CELLS = 2**22  # items times groups drawn at a time


class PairRows:
    """Called with a batch of {"row": r}, it gives texts and labels: the collator of the training.

    Groups are drawn in blocks by (seed, epoch, block), so that a continued training, smaller batches and any number
    of loading workers see the same data.
    """

    valid_label_columns = ("label",)  # asked for by sentence-transformers

    def __init__(
        self,
        catalog: Catalog,
        train: Phase,
        negatives: TrainingNegatives,
        reranker: CrossEncoderReranker,
        last: bool = False,  # of a history, the last item is asked for, not one drawn
    ) -> None:
        self.train, self.negatives, self.reranker, self.last = train, negatives, reranker, last
        self.epoch, self.drawn_in = 0, -1
        self.drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # of this epoch
        self.block = int(np.clip(CELLS // len(catalog), 1, BLOCK))
        self.texts = item_texts(catalog, reranker.item_text)
        sequences = train.histories
        if train.queries is not None:
            self.owner, self.target = sequences.row_of_value, sequences.values
        else:  # one group a user and epoch
            self.owner = np.flatnonzero(sequences.lengths >= 2)
        if not len(self.owner):
            raise UserError(f"there is no training pair; {reranker.name} has nothing to learn from")
        free = len(catalog) - int(negatives.sequences.lengths[self.owner].max())
        if self.size - 1 > free:
            raise UserError(
                f"reranker.hard_negatives={reranker.hard_negatives} and reranker.random_negatives="
                f"{reranker.random_negatives} are more than the {free} texts that a query or a history leaves; "
                "choose fewer"
            )

    @property
    def size(self) -> int:
        """Texts of a group."""
        return 1 + self.reranker.hard_negatives + self.reranker.random_negatives

    def __len__(self) -> int:
        return len(self.owner) * (self.size if self.reranker.loss == "bce" else 1)

    def __call__(self, examples: list[dict[str, int]]) -> dict[str, Any]:
        rows = np.array([example["row"] for example in examples])
        if self.reranker.loss != "bce":
            queries, items = self.groups(rows)
            labels = [torch.eye(self.size)[0] for _ in rows]
            return {"query": queries, "text": [[self.texts[i] for i in row] for row in items], "label": labels}
        groups, member = np.divmod(rows, self.size)
        distinct, place = np.unique(groups, return_inverse=True)
        queries, items = self.groups(distinct)
        return {
            "query": [queries[p] for p in place],
            "text": [self.texts[item] for item in items[place, member]],
            "label": torch.from_numpy((member == 0).astype(np.float32)),
        }

    def groups(self, groups: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Query texts [G] and item rows [G, size], the relevant one first."""
        blocks, place = np.divmod(groups, self.block)
        points, items = np.zeros(len(groups), dtype=np.int64), np.zeros((len(groups), self.size), dtype=np.int32)
        for block in np.unique(blocks):
            rows = blocks == block
            all_points, all_items = self._drawn(int(block))
            points[rows], items[rows] = all_points[place[rows]], all_items[place[rows]]
        owner = self.owner[groups]
        if self.train.queries is not None:
            return [str(query) for query in self.train.queries[owner]], items
        histories = self.train.histories.part(owner, np.zeros_like(points), points)
        return history_texts(self.texts, histories, self.reranker.max_history), items

    def _drawn(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the histories of a block of groups end (0 for queries), and its items [B, size]; once an epoch."""
        if self.drawn_in != self.epoch:
            self.drawn_in, self.drawn = self.epoch, {}
        if block not in self.drawn:
            rng = np.random.default_rng([self.reranker.seed, self.epoch, block])
            owner = self.owner[block * self.block : (block + 1) * self.block]
            sequences = self.train.histories
            if self.train.queries is not None:
                points = np.zeros(len(owner), dtype=np.int64)
                target = self.target[block * self.block : (block + 1) * self.block]
            else:
                end = sequences.lengths[owner]
                points = end - 1 if self.last else rng.integers(1, end)
                target = sequences.values[sequences.offsets[owner] + points]
            histories = sequences.part(owner, np.zeros_like(points), points)
            negatives = self.negatives.draw(owner, histories, self.size - 1, rng)
            self.drawn[block] = points, np.column_stack([target, negatives]).astype(np.int32)
        return self.drawn[block]


def as_dataset(rows: PairRows) -> Any:
    """Row numbers as sentence-transformers wants them; the rows themselves are drawn by the collator."""
    from datasets import Dataset

    return Dataset.from_dict({"row": list(range(len(rows)))})
