"""Training rows of the letter reranker: a user, a point in the user's history, the next item among negatives; or a
query and one passage that is relevant to it.

Point, negatives and order of the candidates are drawn afresh every epoch, by (seed, epoch, rows of the batch) alone,
so that a continued training and any number of loading workers see the same data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from data.dataset import Ragged
from data.errors import UserError
from data.negatives import TrainingNegatives
from data.splits import Phase
from rerankers.letter.answer import separate_blocks
from rerankers.letter.prompt import Prompt

if TYPE_CHECKING:
    from rerankers.letter.letter import LetterReranker


@dataclass(frozen=True)
class Drawn:
    histories: Ragged  # [B], empty of queries
    candidates: np.ndarray  # [B, N] int32, in the order of their labels
    target: np.ndarray  # [B] its column
    copied: np.ndarray  # [B] bool, the target is an item of the history
    queries: np.ndarray | None = None  # [B] str


class LetterRows:
    """Called with a batch of {"row": r}, it draws their prompts and answers: the collator of the training."""

    def __init__(self, training: Phase, negatives: TrainingNegatives, reranker: LetterReranker) -> None:
        self.sequences, self.queries = training.histories, training.queries
        self.users = np.flatnonzero(self.sequences.lengths >= 2)
        if self.queries is not None:  # one of each relevant passage
            self.users = self.sequences.row_of_value
        if not len(self.users):
            lacking = "user has two training interactions" if self.queries is None else "training query has a passage"
            raise UserError(f"no {lacking}; {reranker.name} has nothing to learn from")
        self.negatives, self.reranker, self.epoch = negatives, reranker, 0

    def __len__(self) -> int:
        return len(self.users) * self.reranker.rows_per_user

    def __call__(self, examples: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        reranker, drawn = self.reranker, self.draw([example["row"] for example in examples])
        prompts = self.prompts(drawn)
        if reranker.loss == "letters":
            batch = to_batch(prompts, reranker.invariant) | {"shift_labels": torch.from_numpy(drawn.target)[:, None]}
        else:
            letters = reranker.answer_ids(drawn.candidates.shape[1])[drawn.target]
            batch = with_response(prompts, letters, reranker.prompts.closing())
        if reranker.line_loss:
            batch["lines"] = torch.from_numpy(np.stack([prompt.lines for prompt in prompts]))
        return batch | {"copied": torch.from_numpy(drawn.copied)}

    def draw(self, rows: list[int]) -> Drawn:
        order = np.argsort(rows)  # so that the order of a batch changes nothing but the order of what is drawn
        rng = np.random.default_rng([self.reranker.seed, self.epoch, *np.asarray(rows)[order]])
        number = np.asarray(rows)[order] % len(self.users)
        users = self.users[number]
        if self.queries is None:
            histories, answer, copied = self._next_items(users, rng)
        else:
            histories, answer = Ragged.empty(len(users)), self.sequences.values[number]
            copied = np.zeros(len(users), dtype=bool)
        drawn = self.negatives.draw(users, histories, self.reranker.training_candidates - 1, rng)
        column = rng.integers(0, drawn.shape[1] + 1, len(users))
        candidates = np.empty((len(users), drawn.shape[1] + 1), dtype=np.int32)
        at_target = np.arange(candidates.shape[1]) == column[:, None]
        candidates[at_target], candidates[~at_target] = answer, drawn.ravel()
        back = np.argsort(order)
        queries = None if self.queries is None else self.queries[users[back]]
        return Drawn(histories.take(back), candidates[back], column[back], copied[back], queries)

    def _next_items(self, users: np.ndarray, rng: np.random.Generator) -> tuple[Ragged, np.ndarray, np.ndarray]:
        """Histories up to a point, the item after it, and where (bool) an item of the history stands for that."""
        point = rng.integers(1, self.sequences.lengths[users])
        histories = self.sequences.part(users, np.maximum(point - self.reranker.max_history, 0), point)
        target = self.sequences.values[self.sequences.offsets[users] + point]
        again = histories.values[histories.offsets[:-1] + rng.integers(0, histories.lengths)]
        copied = rng.random(len(users)) < self.reranker.copying_share(self.epoch)
        return histories, np.where(copied, again, target), copied

    def prompts(self, drawn: Drawn) -> list[Prompt]:
        queries = [None] * len(drawn.candidates) if drawn.queries is None else drawn.queries
        return [
            self.reranker.prompts.render(drawn.histories.row(row), candidates, query)
            for row, (candidates, query) in enumerate(zip(drawn.candidates, queries, strict=True))
        ]


def to_batch(prompts: list[Prompt], invariant: bool) -> dict[str, torch.Tensor]:
    """Tokens [B, L], padded on the right, where no token of a causal model sees the padding; `positions` [B, P] of
    the answers. Invariant prompts bring the mask and positions of their blocks."""
    ids = pad_sequence([torch.from_numpy(prompt.ids) for prompt in prompts], batch_first=True)
    width = max(len(prompt.ends) for prompt in prompts)
    ends = np.stack([np.pad(prompt.ends, (0, width - len(prompt.ends)), mode="edge") for prompt in prompts])
    batch = {"input_ids": ids, "positions": torch.from_numpy(ends)}
    if not invariant:
        return batch
    begin = torch.tensor([prompt.begin for prompt in prompts])
    mask, position_ids = separate_blocks(begin, batch["positions"], ids.shape[1])
    return batch | {"attention_mask": mask, "position_ids": position_ids}


def with_response(prompts: list[Prompt], letters: np.ndarray, closing: np.ndarray) -> dict[str, torch.Tensor]:
    """The letter and what closes the turn are read too; `shift_labels` [B, P] are the tokens of the response."""
    responses = [np.append(letter, closing) for letter in letters]
    whole = [
        replace(prompt, ids=np.append(prompt.ids, response[:-1]), ends=prompt.ends[0] + np.arange(len(response)))
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return to_batch(whole, invariant=False) | {"shift_labels": torch.from_numpy(np.stack(responses))}


def as_dataset(rows: LetterRows) -> Any:
    """Row numbers as trl wants them: a `datasets.Dataset`; the rows themselves are drawn by the collator."""
    from datasets import Dataset

    return Dataset.from_dict({"row": list(range(len(rows)))})
