"""Training rows of the cross-encoder: a query, a text that is relevant to it, and negatives drawn anew each epoch.

Of passages a group is a training query with one of its relevant passages; of recommendation, a user's history up to a
point and the item that follows. With `loss=bce` a row is one pair of a group, else a row is a group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data.dataset import Catalog, Ragged
from data.errors import UserError
from data.negatives import TrainingNegatives
from data.splits import Phase
from data.texts import item_texts, request_texts

if TYPE_CHECKING:
    from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker


class PairRows:
    """Called with a batch of {"row": r}, it gives texts and labels: the collator of the training.

    Everything is drawn by (seed, epoch, group), so that a continued training, smaller batches and any number of
    loading workers see the same data.
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
        self.catalog, self.train, self.negatives, self.reranker, self.last = catalog, train, negatives, reranker, last
        self.epoch = 0
        self.texts = item_texts(catalog, reranker.item_text)
        sequences = train.histories
        if train.queries is not None:
            self.owner, self.target = sequences.row_of_value, sequences.values
        else:  # one group a user and epoch
            self.owner = np.flatnonzero(sequences.lengths >= 2)
        if not len(self.owner):
            raise UserError(f"there is no training pair; {reranker.name} has nothing to learn from")
        free = len(catalog) - int(sequences.lengths[self.owner].max())
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
        drawn = [self._drawn(int(group)) for group in groups]
        queries = None if self.train.queries is None else self.train.queries[self.owner[groups]]
        histories = Ragged.from_rows([history for history, _ in drawn])
        reranker = self.reranker
        texts = request_texts(self.catalog, histories, queries, reranker.max_history, reranker.item_text)
        return texts, np.stack([items for _, items in drawn])

    def _drawn(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """The history, empty of a query, and the items of a group."""
        rng = np.random.default_rng([self.reranker.seed, self.epoch, group])
        owner = self.owner[group : group + 1]
        if self.train.queries is not None:
            history, target = np.zeros(0, dtype=np.int32), self.target[group]
        else:
            sequence = self.train.histories.row(owner[0])
            point = len(sequence) - 1 if self.last else int(rng.integers(1, len(sequence)))
            history, target = sequence[:point], sequence[point]
        negatives = self.negatives.draw(owner, Ragged.from_rows([history]), self.size - 1, rng)[0]
        return history, np.append(target, negatives)


def as_dataset(rows: PairRows) -> Any:
    """Row numbers as sentence-transformers wants them; the rows themselves are drawn by the collator."""
    from datasets import Dataset

    return Dataset.from_dict({"row": list(range(len(rows)))})
