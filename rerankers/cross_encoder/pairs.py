"""Token ids of (query, text) pairs: each text is tokenized once, pairs are put together from its tokens.

The result is what the tokenizer makes of the pair (`truncation="longest_first"`): a fast tokenizer encodes both texts
apart, cuts them and adds the special tokens, in that order. Only a special token that a text names is none here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from data.errors import UserError
from rerankers.plain_text import PlainText

TEXTS = 1024  # tokenized at a time: what the tokenizer makes of a text is many times its tokens' size
Pair = tuple[str, str]
KNOWN = 2**18  # texts; with more the tokens that are kept are forgotten, so that a service does not grow
Tokens = tuple[np.ndarray, int]  # of a text: its first token ids, as many as a pair can hold, and how many it has


class PairTokens:
    """`max_length` in tokens, special ones included. Tokens of texts that `keep` names stay in memory, until it
    was given `KNOWN` others."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length, self.plain = tokenizer, max_length, PlainText(tokenizer)
        self.known: dict[str, Tokens] = {}
        whole = tokenizer("a", "a")
        parts = np.array([-1 if part is None else part for part in whole.sequence_ids(0)])
        ids, types = np.array(whole["input_ids"]), np.array(whole.get("token_type_ids", np.zeros(len(parts))))
        first, second = np.flatnonzero(parts == 0), np.flatnonzero(parts == 1)
        if not len(first) or not len(second) or tokenizer.pad_token_id is None:
            raise UserError(
                "the tokenizer of reranker.model does not take padded pairs of texts; choose another model"
            )
        spans = (slice(0, first[0]), slice(first[-1] + 1, second[0]), slice(second[-1] + 1, None))
        self.before, self.between, self.after = (ids[span].astype(np.int64) for span in spans)
        self.types = [int(value) for value in types[[0, first[0], first[-1] + 1, second[0], -1]]]
        self.typed = "token_type_ids" in whole
        self.room = max_length - sum(map(len, (self.before, self.between, self.after)))
        self.pad = int(tokenizer.pad_token_id)

    def keep(self, texts: Sequence[str]) -> None:
        """Tokenizes what is not known yet, and keeps it."""
        new = self._tokenized([text for text in dict.fromkeys(texts) if text not in self.known])
        if new and len(self.known) + len(new) > KNOWN:
            self.known = {}
        self.known |= new

    def _tokenized(self, texts: list[str]) -> dict[str, Tokens]:
        out = {}
        for start in range(0, len(texts), TEXTS):
            part = texts[start : start + TEXTS]
            for text, ids in zip(part, self.plain(part), strict=True):
                out[text] = np.array(ids[: self.room], dtype=np.int32), len(ids)
        return out

    def of(self, pairs: Sequence[Pair]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The tokens of both texts of each pair, cut to fit, without special tokens."""
        tokens = self._tokens(pairs)
        return [self._cut(tokens[first], tokens[second]) for first, second in pairs]

    def _tokens(self, pairs: Sequence[Pair]) -> dict[str, Tokens]:
        texts = dict.fromkeys(text for pair in pairs for text in pair)
        new = self._tokenized([text for text in texts if text not in self.known])
        return {text: new[text] if text in new else self.known[text] for text in texts}

    def _cut(self, first: Tokens, second: Tokens) -> tuple[np.ndarray, np.ndarray]:
        """Longest first, as the tokenizers library has it: what the shorter one leaves, or half each; of an odd number
        the longer one has one more, and the second where both are equally long."""
        (a, n_a), (b, n_b) = first, second
        if n_a + n_b <= self.room:
            return a, b
        short = min(n_a, n_b, self.room // 2)
        n_a, n_b = (self.room - short, short) if n_a > n_b else (short, self.room - short)
        return a[:n_a], b[:n_b]

    def shortened(self, pairs: Sequence[Pair]) -> np.ndarray:
        """[P] bool, and without a cut there is nothing the model does not see."""
        tokens = self._tokens(pairs)
        return np.array([tokens[a][1] + tokens[b][1] > self.room for a, b in pairs], dtype=bool)

    def sizes(self, texts: Sequence[str]) -> np.ndarray:
        """[n] tokens of each text, uncut."""
        self.keep(texts)
        new = self._tokenized([text for text in texts if text not in self.known])
        return np.array([(new[text] if text in new else self.known[text])[1] for text in texts], dtype=np.int64)

    def length(self, parts: tuple[np.ndarray, np.ndarray]) -> int:
        return self.max_length - self.room + len(parts[0]) + len(parts[1])

    def batch(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask and, where the model has them, token_type_ids: [P, L], padded to the longest."""
        width = max(map(self.length, parts))
        ids = np.full((len(parts), width), self.pad, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, (first, second) in enumerate(parts):
            pieces = (self.before, first, self.between, second, self.after)
            whole = np.concatenate(pieces)
            ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
            types[row, : len(whole)] = np.repeat(self.types, [len(piece) for piece in pieces])
        out = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        return out | ({"token_type_ids": torch.from_numpy(types)} if self.typed else {})

    def batches(self, parts: Sequence[tuple[np.ndarray, np.ndarray]], budget: int) -> Iterator[list[int]]:
        """Pairs of like length together, at most `budget` tokens in a batch, padding included; longest first, so that
        a lack of memory shows at once."""
        lengths = np.array([self.length(part) for part in parts])
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            size = max(1, budget // int(lengths[order[start]]))
            yield order[start : start + size].tolist()
            start += size
