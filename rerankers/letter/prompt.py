"""From a request to the tokens that a model reads: the one rendering, for training and for scoring.

    <system line>                                 through the model's own chat template, thinking off
    User history, oldest to newest:
    - title
    Candidates:
    A. title
    B. title
    Answer with only one letter (A-B).            then the template's own opening of an answer

With order=invariant a prompt is one start (system line, history) and a block for each candidate, which no other block
can see: "Candidate: title", "Answer with only Yes or No.", opening of an answer.

Prompts are put together from the tokens of their parts. Parts meet where a tokenizer splits anyway (before a blank,
after a line break), so the tokens are those of the whole text, where no item is cut; each item is tokenized once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jinja2 import TemplateError

from data.errors import UserError, in_one_line
from rerankers.letter.labels import LETTERS, letter_range
from rerankers.plain_text import PlainText

SYSTEM = {
    "history": "Choose the candidate that the user takes next.",
    "query": "Choose the candidate that answers the query.",
}
HEADING = {"history": "User history, oldest to newest:\n", "query": "Query:"}
CONTENT = "@@content@@\n"
NOTHING = "N/A"  # an item without text, and the items of a content-free prompt
SHORTEST = 4  # tokens that an item keeps when its prompt is too long


def instructions() -> list[str]:
    """Every word that a prompt may hold beside the items', for a tokenizer that is made for them."""
    letters = [*LETTERS, letter_range(len(LETTERS))]
    fixed = "Answer with only one letter ().\nAnswer with only Yes or No.\nCandidates: Candidate: - Answer:"
    return [*SYSTEM.values(), *HEADING.values(), fixed, NOTHING, *letters]


@dataclass(frozen=True)
class Prompt:
    """`ids` end where the answer begins."""

    ids: np.ndarray  # [L]
    ends: np.ndarray  # [1], or of an invariant prompt [N]: last tokens before an answer
    lines: np.ndarray  # [N] last tokens of the candidates' lines
    begin: int  # first token of the candidates
    shortened: bool  # an item was cut, or the history lost its oldest items


class Prompts:
    """Renders requests over one catalogue, whose texts are given by item row.

    An item keeps its first `max_item_length` tokens. A prompt longer than `max_length` loses the oldest items of its
    history, then all its items are cut further; the candidates, the instruction and the answer always stay.
    """

    def __init__(
        self, tokenizer: Any, texts: Sequence[str], max_length: int, max_item_length: int, invariant: bool = False
    ) -> None:
        self.tokenizer, self.max_length, self.invariant = tokenizer, max_length, invariant
        self.plain = PlainText(tokenizer)
        self.max_item_length = max_item_length
        self.newline = self._after("a", ["\n"])[0]
        self.read(texts)
        self.dash, self.candidates, self.candidate = self._after("\n", ["-", "Candidates:\n", "Candidate:"])
        self.headings = dict(zip(HEADING, self._after("\n", list(HEADING.values())), strict=True))
        self.labels = self._after("\n", [f"{letter}." for letter in LETTERS])
        self.sides = cache(self._sides)

    def read(self, texts: Sequence[str]) -> None:
        """Takes the texts of a catalogue in place of those it had."""
        self.nothing = len(texts)  # the row of the content-free item
        lines = self._after(".", [f" {' '.join(text.split()) or NOTHING}\n" for text in [*texts, NOTHING]])
        self.cut = np.array([len(line) > self.max_item_length + 1 for line in lines])
        self.items = [self._shorter(line, self.max_item_length) for line in lines]

    def _after(self, context: str, texts: list[str], special: bool = False) -> list[np.ndarray]:
        """The tokens that each text adds to `context`; `special`: control tokens that the text names are meant."""
        all_texts = [context, *(context + text for text in texts)]
        if special:
            before, *whole = self.tokenizer(all_texts, add_special_tokens=False).input_ids
        else:
            before, *whole = self.plain(all_texts)
        if any(ids[: len(before)] != before for ids in whole):
            raise UserError(f"the tokenizer merges {context!r} with what follows it; choose another reranker.model")
        return [np.array(ids[len(before) :], dtype=np.int64) for ids in whole]

    def frame(self, kind: str, content: str, answer: str | None = None) -> str:
        """The conversation as text, up to where the answer begins, or with it to the end."""
        if not self.tokenizer.chat_template:
            end = "" if answer is None else answer + (self.tokenizer.eos_token or "")
            return f"{SYSTEM[kind]}\n{content}\nAnswer:\n{end}"
        system, user = {"role": "system", "content": SYSTEM[kind]}, {"role": "user", "content": content}
        after = [] if answer is None else [{"role": "assistant", "content": answer}]
        options: Any = {"tokenize": False, "add_generation_prompt": answer is None, "enable_thinking": False}
        try:
            return self.tokenizer.apply_chat_template([system, user, *after], **options)
        except TemplateError:  # of a template without system turns
            user = {"role": "user", "content": f"{SYSTEM[kind]}\n{content}"}
            try:
                return self.tokenizer.apply_chat_template([user, *after], **options)
            except TemplateError as error:  # its own, or the sandbox's, which lets it reach nothing but the messages
                raise UserError(
                    f"the chat template of reranker.model= cannot be used ({in_one_line(error)[:200]}); "
                    "give another model, or mend its chat_template"
                ) from None

    def closing(self) -> np.ndarray:
        """Tokens that end the turn after the answer's letter; the end of text where the template has its own way."""
        before, whole = (self.frame("history", CONTENT, answer) for answer in (None, "A"))
        if not whole.startswith(before + "A"):
            return np.array([self.tokenizer.eos_token_id])
        return self._after("A", [whole.removeprefix(before + "A")], special=True)[0]

    def instruction(self, n: int) -> str:
        return "Answer with only Yes or No." if self.invariant else f"Answer with only one letter ({letter_range(n)})."

    def _sides(self, kind: str, instruction: str) -> tuple[np.ndarray, np.ndarray]:
        """Tokens before the history or query, and from the instruction to where the answer begins."""
        head, found, tail = self.frame(kind, CONTENT + instruction).partition(CONTENT)
        if not found:
            raise UserError(
                "the chat template of reranker.model does not repeat the user's words; choose another model"
            )
        before = self.tokenizer(head, add_special_tokens=not self.tokenizer.chat_template).input_ids
        return np.array(before, dtype=np.int64), self._after("\n", [tail], special=True)[0]

    def render(self, history: np.ndarray, candidates: np.ndarray, query: str | None = None) -> Prompt:
        """`history` item rows, oldest first; `candidates` [N] item rows in the order of their labels."""
        kind = "history" if query is None else "query"
        head, tail = self.sides(kind, self.instruction(len(candidates)))
        start = [head, self.headings[kind]]
        cut = bool(self.cut[history].any() or self.cut[candidates].any())
        if query is not None:
            words = self._after(".", [f" {' '.join(query.split())}"])[0]
            cut |= len(words) > self.max_length // 2
            start += [words[: self.max_length // 2], self.newline]
        labels = [self.candidate] * len(candidates) if self.invariant else self.labels[: len(candidates)]
        fixed = sum(map(len, start)) + len(tail)
        limit = None
        while True:
            listed = [
                part
                for label, row in zip(labels, candidates, strict=True)
                for part in (label, self._shorter(self.items[row], limit))
            ]
            taken = [np.append(self.dash, self._shorter(self.items[row], limit)) for row in history]
            room = self.max_length - fixed - self._length(listed, limit)
            kept = int((np.cumsum([len(line) for line in reversed(taken)]) <= room).sum())
            if room >= 0 and (kept or not taken):
                break
            longest = self.max_item_length if limit is None else limit
            if longest <= SHORTEST:
                need = self.max_length - room + (len(taken[-1]) if taken else 0)
                raise UserError(
                    f"reranker.max_length={self.max_length} is too short for {len(candidates)} candidates; give at "
                    f"least {need} tokens"
                )
            limit = max(longest * 3 // 4, SHORTEST)
        start += taken[len(taken) - kept :]
        shortened = cut or limit is not None or kept < len(taken)
        begin = sum(map(len, start))
        if not self.invariant:
            ids = np.concatenate([*start, self.candidates, *listed, tail])
            lines = begin + len(self.candidates) - 1 + np.cumsum([len(part) for part in listed])[1::2]
            return Prompt(ids, np.array([len(ids) - 1]), lines, begin, shortened)
        blocks = [np.concatenate([label, line, tail]) for label, line in zip(listed[::2], listed[1::2], strict=True)]
        ends = begin + np.cumsum([len(block) for block in blocks]) - 1
        return Prompt(np.concatenate([*start, *blocks]), ends, ends - len(tail), begin, shortened)

    def _shorter(self, line: np.ndarray, limit: int | None) -> np.ndarray:
        return line if limit is None or len(line) <= limit + 1 else np.append(line[:limit], self.newline)

    def _length(self, listed: list[np.ndarray], limit: int | None) -> int:
        """Blocks of an invariant prompt stand beside one another: the longest that there could be counts."""
        if self.invariant:
            whole = self.max_item_length if limit is None else limit
            return len(self.candidate) + whole + 1
        return len(self.candidates) + sum(map(len, listed))
