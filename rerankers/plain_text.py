"""Texts that people wrote, as token ids that are text and nothing else: no title ends a turn or begins a candidate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

IN_BRACKETS = re.compile(r"<.+>|\[.+\]", re.DOTALL)


class PlainText:
    """Names of control tokens are read as letters. A tokenizer that finds the token all the same has it left out: T5
    and XLM-R hold special tokens in their vocabulary and make "</s>" of "＜/s＞", and Qwen3 calls <think> not special.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = {n for n, token in tokenizer.added_tokens_decoder.items() if IN_BRACKETS.fullmatch(token.content)}
        self.control = frozenset({*tokenizer.all_special_ids, *added} - {tokenizer.unk_token_id})

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Without the tokens that open and close a text."""
        if not texts:
            return []
        rows = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        ).input_ids
        return [row if self.control.isdisjoint(row) else [n for n in row if n not in self.control] for row in rows]
