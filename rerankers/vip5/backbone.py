"""The T5 that VIP5 stands on: of the hub or a folder, or small from nothing with a tokenizer of the dataset's words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

from data.errors import in_range
from rerankers.vip5.prompts import WORD_MARK
from rerankers.word_tokenizer import by_frequency

TABLES = 0.1  # scale of the two tables of a model from nothing
SPECIAL = ("<pad>", "</s>", "<unk>")  # where T5 has them


@dataclass
class Scratch:
    """A T5 from nothing, small enough for a CPU, all weights trained; there are no adapters in it."""

    d_model: int = 64
    d_kv: int = 16
    d_ff: int = 256
    num_heads: int = 4
    num_layers: int = 2  # of the encoder, and of the decoder
    dropout_rate: float = 0.1
    vocab_size: int = 8192  # at most; whole words and numbers, single characters for all others

    def __post_init__(self) -> None:
        for name, low, high in (
            ("d_model", 8, 8192),
            ("d_kv", 1, 512),
            ("d_ff", 8, 65_536),
            ("num_heads", 1, 128),
            ("num_layers", 1, 96),
            ("dropout_rate", 0, 0.9),
            ("vocab_size", 300, 200_000),
        ):
            in_range(f"reranker.scratch.{name}", getattr(self, name), low, high)

    def tokenizer(self, always: Sequence[str], texts: Iterable[str]) -> Any:
        """The words of `always` are all known, whole; of `texts` the most frequent ones that there is room for."""
        words = dict.fromkeys(word for text in always for word in text.split())
        characters = sorted({char for text in [*always, *texts] for char in text if not char.isspace()})
        frequent = by_frequency(word for text in texts for word in text.split())
        known = [*SPECIAL, WORD_MARK, *characters]
        whole = [WORD_MARK + word for word in dict.fromkeys([*words, *frequent])]
        pieces = list(dict.fromkeys([*known, *whole]))[: max(self.vocab_size, len(known) + len(words)) - 1]
        return T5Tokenizer(vocab=[(piece, 0.0 if piece in SPECIAL else -1.0) for piece in pieces], extra_ids=1)

    def model(self, tokenizer: Any) -> T5ForConditionalGeneration:
        config = T5Config(
            vocab_size=len(tokenizer),
            d_model=self.d_model,
            d_kv=self.d_kv,
            d_ff=self.d_ff,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            dropout_rate=self.dropout_rate,
            decoder_start_token_id=SPECIAL.index("<pad>"),
        )
        return T5ForConditionalGeneration(config)

    def load_tokenizer(self, folder: Path) -> Any:
        return T5Tokenizer.from_pretrained(folder)

    def shrink_tables(self, network: Vip5Network) -> None:
        """Whole words and categories begin small beside the words' own embeddings, whose scale is 1: at equal scale
        they drown them, and a small model stays at the popularity plateau for long."""
        with torch.no_grad():
            network.whole_words.weight.mul_(TABLES)
            network.categories.weight.mul_(TABLES)
