"""Training rows of VIP5: each epoch, so many rows of each family a user.

What a row asks (template, point of the history, separator) is drawn for a whole epoch by (seed, epoch); its negatives
and the order of its candidates by (seed, epoch, rows of the batch). So a continued training and any number of loading
workers see the same data, and rows of like length can share a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from data.dataset import Dataset, Ragged
from data.errors import UserError
from data.splits import Split
from rerankers.vip5.explanations import Reviews
from rerankers.vip5.prompts import Prompt, pieces, to_batch
from rerankers.vip5.templates import FAMILIES, MENTIONS, Template

if TYPE_CHECKING:
    from rerankers.vip5.vip5 import Vip5

log = logging.getLogger(__name__)
NAMES = list(FAMILIES.values())
NONE = np.zeros(0, dtype=np.int32)
POOL = 50  # batches that are sorted by length together
TEXT = 3  # tokens of a slot that is no item, about
JITTER = (
    0.3  # standard deviation of a rating that is to be predicted; the reference jitters too, by how much is not known
)


@dataclass(frozen=True)
class Plan:
    """What an epoch asks, a row each."""

    template: np.ndarray  # [n] index into `Vip5Rows.templates`
    user: np.ndarray  # [n] row of the training part, or of the reviews
    point: np.ndarray  # [n] place of the target in the user's sequence
    history: np.ndarray  # [n] items of it that are told
    separator: np.ndarray  # [n]
    length: np.ndarray  # [n] tokens of the prompt, about


class Vip5Rows(torch.utils.data.Dataset):
    """Called with a batch of row numbers, it draws their prompts and answers."""

    def __init__(self, dataset: Dataset, split: Split, reviews: Reviews, reranker: Vip5) -> None:
        self.sequences, self.reviews, self.reranker = split.train.histories, reviews, reranker
        self.negatives = split.negatives(dataset.catalog, 0.0, with_new=False)
        self.user_id, self.users, self.epoch = dataset.user_id, split.train.ids, 0
        asked = [t for t in reranker.trained_templates if getattr(reranker.tasks, t.family)]
        self.templates = [t for t in asked if self.usable(t)]
        left_out = ", ".join(t.name for t in asked if t not in self.templates)
        if not self.templates:
            raise UserError(f"{dataset.name} lacks what the prompts {left_out} ask; choose other reranker.templates")
        if left_out:
            log.info("left out, as %s lacks what they ask for: the prompts %s", dataset.name, left_out)
        prompts = reranker.prompts  # whose tables are made here, once for all loading workers
        one = {slot: table.lengths.mean() for slot, table in [*prompts.mentions.items(), ("title", prompts.title)]}
        self.mention = one["list0"]  # mean tokens of a listed item
        self.words = np.array([self._words(t, one) for t in self.templates])  # [T] of all else in the prompt, about
        self.counts: dict[str, int] = {}
        self.asked: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # family -> its templates, its users or reviews
        for family, rows in vars(reranker.tasks).items():
            own = np.flatnonzero([t.family == family for t in self.templates])
            who = np.flatnonzero(self.sequences.lengths >= (1 if family == "direct" else 2))
            n = len(np.unique(reviews.user)) if family == "explanation" else len(who)
            if rows and len(own) and n:
                self.counts[family], self.asked[family] = rows * n, (own, who)
        if not self.counts:
            raise UserError(f"no user has two training interactions; {reranker.name} has nothing to learn from")

    def usable(self, template: Template) -> bool:
        """Whether the dataset has what its slots need."""
        if template.family == "explanation" and not self.reviews.allows(template):
            return False
        return "title" not in template.slots or any(self.reranker.prompts.titles)

    def _words(self, template: Template, one: dict[str, float]) -> float:
        slots = [one.get(slot, 0 if slot in MENTIONS else TEXT) for slot in template.slots]
        return sum(slots) + sum(len(self.reranker.prompts.words(text)) for text, _ in pieces(template.text) if text)

    def __len__(self) -> int:
        return sum(self.counts.values())

    def plan(self, epoch: int) -> Plan:
        if getattr(self, "_planned", None) != epoch:
            self._plan, self._planned = self._draw_plan(epoch), epoch
        return self._plan

    def _draw_plan(self, epoch: int) -> Plan:
        rng = np.random.default_rng([self.reranker.seed, epoch])
        columns: list[list[np.ndarray]] = []
        for family, n in self.counts.items():
            own, who = self.asked[family]
            template, user = rng.choice(own, n), np.resize(who, n)
            if family == "explanation":
                user = rng.integers(0, len(self.reviews), n)
            sequence = np.ones(n, dtype=np.int64) if family == "explanation" else self.sequences.lengths[user]
            first = 0 if family in ("direct", "explanation") else 1
            point = rng.integers(first, np.maximum(sequence, first + 1))
            told = rng.integers(1, np.clip(point, 1, self.reranker.max_history) + 1)
            columns.append([template, user, point, told, rng.integers(0, 2, n)])
        template, user, point, told, separator = (np.concatenate(column) for column in zip(*columns, strict=True))
        listed = told * self._has("history")[template]
        listed = listed + self.reranker.training_candidates * self._has("candidates")[template]
        return Plan(template, user, point, told, separator, self.words[template] + self.mention * listed)

    def _has(self, slot: str) -> np.ndarray:
        return np.array([slot in t.slots for t in self.templates])

    def __getitem__(self, row: int) -> int:
        return row

    def collate(self, rows: list[int]) -> dict[str, torch.Tensor]:
        plan, order = self.plan(self.epoch), np.sort(rows)
        rng = np.random.default_rng([self.reranker.seed, self.epoch, *order])
        asked = [self.templates[plan.template[row]] for row in order]
        n_negatives = np.array([self._negatives_of(t) for t in asked])
        drawn: dict[int, np.ndarray] = {}
        for size in np.unique(n_negatives[n_negatives > 0]):
            some = np.flatnonzero(n_negatives == size)
            users = plan.user[order[some]]
            found = self.negatives.draw(users, Ragged.empty(len(users)), int(size), rng)
            drawn |= dict(zip(some.tolist(), found, strict=True))
        pairs = [
            self._row(template, plan, row, drawn.get(n, NONE), rng)
            for n, (template, row) in enumerate(zip(asked, order, strict=True))
        ]
        labels = pad_sequence([answer for _, answer in pairs], batch_first=True, padding_value=-100)
        family = torch.tensor([NAMES.index(t.family) for t in asked])
        batch = to_batch([prompt for prompt, _ in pairs], self.reranker.tokenizer.pad_token_id)
        return batch | {"labels": labels.long(), "family": family}

    def _negatives_of(self, template: Template) -> int:
        return {"yes_no": 1}.get(
            template.answer, self.reranker.training_candidates - 1 if "candidates" in template.slots else 0
        )

    def _row(
        self, template: Template, plan: Plan, row: int, negatives: np.ndarray, rng: np.random.Generator
    ) -> tuple[Prompt, torch.Tensor]:
        prompts, user = self.reranker.prompts, int(plan.user[row])
        if template.family == "explanation":
            words, items, text = self.reviews.question(user, template, JITTER, rng)
            words |= self.reranker.words_of(self.user_id[self.reviews.user[user]])
            answer = prompts.tokens([text]).values[: self.reranker.max_answer_length - 1]
            return prompts.render(template, items, words), self._ended(answer)
        sequence, point = self.sequences.row(user), int(plan.point[row])
        target = sequence[point : point + 1]
        items = {"history": sequence[max(0, point - int(plan.history[row])) : point]}
        if template.answer == "yes_no":
            yes = bool(rng.integers(2))
            asked = target if yes else negatives
            items |= {"one": asked, "item": asked, "title": asked}
            answer = prompts.words("yes" if yes else "no")
        else:
            answer = prompts.answers.row(int(target[0]))
            items["candidates"] = rng.permutation(np.append(target, negatives))
        words = self.reranker.words_of(self.user_id[self.users[user]])
        return prompts.render(template, items, words, int(plan.separator[row])), self._ended(answer)

    def _ended(self, answer: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.append(answer, self.reranker.prompts.end))


class ByLength(torch.utils.data.Sampler):
    """Row numbers of an epoch in an order in which the rows of a batch are of like length."""

    def __init__(self, rows: Vip5Rows, batch_size: int) -> None:
        self.rows, self.batch_size = rows, batch_size

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        rows = self.rows
        rng = np.random.default_rng([rows.reranker.seed, rows.epoch, 1])
        order = rng.permutation(len(rows))
        length = rows.plan(rows.epoch).length
        pool = POOL * self.batch_size
        batches: list[np.ndarray] = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(length[part], kind="stable")]
            batches += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        last = batches.pop() if len(batches[-1]) < self.batch_size else batches[-1][:0]
        for n in rng.permutation(len(batches)):
            yield from batches[n].tolist()
        yield from last.tolist()
