"""Prompts as token ids, put together from parts that are tokenized once: the words between slots, items, users.

Each item is followed by k placeholders `<extra_id_0>`, which the network replaces by the item's visual tokens. The
whole-word number of a piece counts the words so far: pieces that begin with T5's word mark and placeholders begin one;
the end and padding have 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from data.dataset import Ragged
from data.errors import UserError
from rerankers.plain_text import PlainText
from rerankers.vip5.templates import MENTIONS, Template

PLACEHOLDER = "<extra_id_0>"
WHOLE_WORDS = 1024  # rows of the reference's table, and so the longest prompt
SEPARATORS = (",", "->")  # of a history; candidates have the first
WORD_MARK = "▁"


@dataclass(frozen=True)
class Prompt:
    ids: np.ndarray  # [L] int32, the last is the end
    whole_words: np.ndarray  # [L] int32
    pictures: np.ndarray  # [M] int32, the item of each group of placeholders
    shortened: bool = False


class Prompts:
    """Of one catalogue. `item_numbers` [I] stand for its items in prompts and answers."""

    def __init__(
        self,
        tokenizer: Any,
        item_numbers: np.ndarray,
        titles: Sequence[str],
        visual_tokens: int,
        max_length: int,
        max_title_length: int = 32,
    ) -> None:
        self.tokenizer, self.numbers, self.titles = tokenizer, item_numbers, titles
        self.visual_tokens, self.max_length, self.max_title_length = visual_tokens, max_length, max_title_length
        self.plain = PlainText(tokenizer)
        self.end = int(tokenizer.eos_token_id)
        self.placeholder = int(tokenizer.convert_tokens_to_ids(PLACEHOLDER))
        self.begins_word = begins_word(tokenizer)
        self.answers = self.tokens([str(number) for number in item_numbers])  # the bare numbers, without the end
        self.separators = [self.tokens([text]).values for text in SEPARATORS]
        self._known: dict[str, np.ndarray] = {}

    def tokens(self, texts: Sequence[str]) -> Ragged:
        """Of text alone: a placeholder that someone wrote stands for no picture."""
        return Ragged.from_rows(self.plain(texts))

    def words(self, text: str) -> np.ndarray:
        """Tokens of a short text that comes again and again."""
        if text not in self._known:
            self._known[text] = self.tokens([text]).values
        return self._known[text]

    def yes_no(self) -> np.ndarray:
        """[2] first tokens of the two answers."""
        return np.array([self.words("yes")[0], self.words("no")[0]])

    @cached_property
    def mentions(self) -> dict[str, Ragged]:
        """Slot -> each item's tokens and placeholders; of lists with what separates it from the next."""
        bare = with_tail(self.answers, self.visual)
        item = with_tail(self.tokens([f"item_{number}" for number in self.numbers]), self.visual)
        lists = {f"list{n}": with_tail(bare, mark) for n, mark in enumerate(self.separators)}
        return {"one": bare, "item": item} | lists

    @cached_property
    def title(self) -> Ragged:
        cut = Ragged.from_rows(row[: self.max_title_length] for row in self._rows(self.tokens(self.titles)))
        return with_tail(cut, self.visual)

    @property
    def visual(self) -> np.ndarray:
        return np.full(self.visual_tokens, self.placeholder, dtype=np.int32)

    @staticmethod
    def _rows(ragged: Ragged) -> list[np.ndarray]:
        return [ragged.row(row) for row in range(len(ragged))]

    def items(self, rows: np.ndarray, separator: int) -> np.ndarray:
        """Tokens of a list of items."""
        listed = self.mentions[f"list{separator}"].take(rows).values
        return listed[: len(listed) - len(self.separators[separator])]

    def render(
        self, template: Template, items: Mapping[str, np.ndarray], words: Mapping[str, str], separator: int = 0
    ) -> Prompt:
        """`items`: slot -> catalogue rows; `words`: slot -> text. A history loses its oldest items until all fits;
        a UserError where not even the newest does."""
        parts: list[np.ndarray] = []
        pictures: list[np.ndarray] = []
        place = None
        for text, slot in pieces(template.text):
            parts.append(self.words(text) if text else np.zeros(0, dtype=np.int32))
            if slot in MENTIONS:
                rows = items[slot]
                if slot == "history":
                    place = (len(parts), len(pictures))
                    parts.append(self.items(rows, separator))
                elif slot == "candidates":
                    parts.append(self.items(rows, 0))
                else:
                    table = self.title if slot == "title" else self.mentions[slot]
                    parts += [table.row(int(row)) for row in rows]
                pictures.append(rows)
            elif slot:
                text = words[slot]
                parts.append(
                    self.words(text) if slot in SHORT else self.tokens([text]).values[: self.max_title_length]
                )
        length = sum(map(len, parts)) + 1
        shortened = length > self.max_length
        if shortened:
            needed = length
            if place is not None and len(rows := items["history"]):
                sizes = self.mentions[f"list{separator}"].lengths[rows][::-1].cumsum()
                sizes -= len(self.separators[separator])  # the last item has none
                without = length - len(parts[place[0]])
                needed = without + int(sizes[0])
                kept = rows[len(rows) - int((without + sizes <= self.max_length).sum()) :]
                parts[place[0]], pictures[place[1]] = self.items(kept, separator), kept
            if needed > self.max_length:
                raise UserError(self._too_long(template, needed, needed < length))
        ids = np.append(np.concatenate(parts), np.int32(self.end))
        whole_words = np.append(np.cumsum(self.begins_word[ids[:-1]]), 0)
        shown = np.concatenate(pictures) if pictures and self.visual_tokens else np.zeros(0, dtype=np.int32)
        return Prompt(ids, whole_words, shown, shortened)

    def _too_long(self, template: Template, needed: int, cut: bool) -> str:
        longer = f"give reranker.max_length={needed}, or" if needed <= WHOLE_WORDS else "choose"
        newest = " with the newest item alone of its history" * cut
        return (
            f"a prompt {template.name} needs {needed:,} tokens{newest}, more than reranker.max_length="
            f"{self.max_length} (at most {WHOLE_WORDS}); {longer} a smaller reranker.training_candidates, "
            "candidates.size, reranker.max_title_length or reranker.visual_tokens"
        )


SHORT = ("rating", "feature", "user", "name")  # slots whose texts come again


def pieces(text: str) -> list[tuple[str, str]]:
    """ "after {history} what" -> [("after", "history"), ("what", "")]"""
    words = [*re.split(r"{(\w+)}", text), ""]
    return [(before.strip(), slot) for before, slot in zip(words[::2], words[1::2], strict=True)]


def with_tail(ragged: Ragged, tail: np.ndarray) -> Ragged:
    """Each row with the same values after it."""
    values = np.insert(ragged.values, np.repeat(ragged.offsets[1:], len(tail)), np.tile(tail, len(ragged)))
    return Ragged.from_lengths(values, ragged.lengths + len(tail))


def begins_word(tokenizer: Any) -> np.ndarray:
    """[V] bool: pieces that begin a word, and the placeholder."""
    vocabulary = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return np.array([piece.startswith(WORD_MARK) or piece == PLACEHOLDER for piece in vocabulary])


def to_batch(prompts: Sequence[Prompt], padding: int) -> dict[str, torch.Tensor]:
    """What `Vip5Network.encode` reads, padded on the right."""
    ids = pad_sequence([torch.from_numpy(p.ids) for p in prompts], batch_first=True, padding_value=padding)
    whole_words = pad_sequence([torch.from_numpy(p.whole_words) for p in prompts], batch_first=True)
    lengths = torch.tensor([len(p.ids) for p in prompts])
    return {
        "input_ids": ids.long(),
        "whole_words": whole_words.long(),
        "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
        "pictures": torch.from_numpy(np.concatenate([p.pictures for p in prompts])).long(),
    }
