"""The T5 that VIP5 stands on: of the hub or a folder, or small from nothing with a tokenizer of the dataset's own
words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, T5Config, T5ForConditionalGeneration, T5Tokenizer

from data.dataset import sha256
from data.errors import UserError, in_range
from rerankers.pretrained import load_pretrained
from rerankers.vip5.prompts import PLACEHOLDER, WORD_MARK
from rerankers.word_tokenizer import by_frequency

PLACES = 2.0  # standard deviation of the biases of relative positions of a model from nothing
SPECIAL = ("<pad>", "</s>", "<unk>")  # where T5 has them


@dataclass
class Scratch:
    """A T5 from nothing, small enough for a CPU, all weights trained; there are no adapters in it."""

    d_model: int = 128
    d_kv: int = 32
    d_ff: int = 256
    num_heads: int = 4
    num_layers: int = 1  # of the encoder, and of the decoder
    dropout_rate: float = 0.0
    vocab_size: int = 8192  # at most; whole words and numbers, single characters for all others
    whole_numbers: bool = True  # false: items' numbers are spelled in digits, so that a new item's has nothing new

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
        pieces = list(dict.fromkeys([*known, *whole]))[: max(self.vocab_size - 1, len(known) + len(words))]
        return T5Tokenizer(vocab=[(piece, 0.0 if piece in SPECIAL else -1.0) for piece in pieces], extra_ids=1)

    def model(self, tokenizer: Any) -> T5ForConditionalGeneration:
        config = T5Config(  # type: ignore[call-arg]
            vocab_size=len(tokenizer),
            d_model=self.d_model,
            d_kv=self.d_kv,
            d_ff=self.d_ff,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            dropout_rate=self.dropout_rate,
            decoder_start_token_id=SPECIAL.index("<pad>"),
        )
        t5: Any = T5ForConditionalGeneration(config)
        # T5's own start is nearly no bias of places: then a history has no order until late in the training. So each
        # head begins by looking at places of its own, and what comes last is told apart from the first step. And
        # queries begin as keys, so that a token looks at its like: a candidate's picture at such pictures before it.
        first = t5.encoder.block[0].layer[0].SelfAttention
        torch.nn.init.normal_(first.relative_attention_bias.weight, std=PLACES)
        for block in t5.encoder.block:
            attention = block.layer[0].SelfAttention
            attention.q.weight.data = attention.k.weight.data * self.d_kv**-0.5
        return t5

    def load_tokenizer(self, folder: Path) -> Any:
        return T5Tokenizer.from_pretrained(folder)


def load_t5(name: str) -> tuple[Any, T5ForConditionalGeneration]:
    """Tokenizer and T5 in float32 on the CPU, its vocabulary as long as the tokenizer's, as VIP5 has it: 32,100 of
    t5-small's 32,128 rows. Only safetensors are read. T5 1.1 and Flan, gated and with their own head, load too."""
    config = load_pretrained("reranker.model", name, lambda: AutoConfig.from_pretrained(name, trust_remote_code=False))
    if config.model_type != "t5":
        raise UserError(f"reranker.model={name} is a {config.model_type}, not a T5; give one like google-t5/t5-small")
    tokenizer: Any = load_pretrained(
        "reranker.model", name, lambda: AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    )
    pieces = tokenizer.get_vocab()
    words = any(piece.startswith(WORD_MARK) and piece != WORD_MARK for piece in pieces)
    if not words or PLACEHOLDER not in pieces:  # also what is made of a folder without its files
        raise UserError(
            f"reranker.model={name} has no tokenizer of T5's kind, with words that begin with {WORD_MARK} and "
            f"{PLACEHOLDER}; give a folder with T5's own tokenizer.json"
        )
    weights: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    t5, info = load_pretrained(
        "reranker.model", name, lambda: T5ForConditionalGeneration.from_pretrained(name, **weights)
    )
    if lacking := sorted(info["missing_keys"]):
        raise UserError(f"reranker.model={name} lacks weights ({lacking[0]}), which would be random; give a whole one")
    if len(tokenizer) > t5.config.vocab_size:
        raise UserError(
            f"reranker.model={name} has a tokenizer of {len(tokenizer):,} tokens, and the model knows "
            f"{t5.config.vocab_size:,}; give the tokenizer that it was trained with"
        )
    cut_vocabulary(t5, len(tokenizer))
    return tokenizer, t5


def cut_vocabulary(t5: T5ForConditionalGeneration, rows: int) -> None:
    """The first rows. transformers' `resize_token_embeddings` would give a head of its own the embeddings' weights."""
    tables: list[Any] = [t5.shared, t5.encoder.embed_tokens, t5.decoder.embed_tokens, t5.lm_head]
    cut = {table.weight: nn.Parameter(table.weight[:rows].detach().clone()) for table in tables}
    for table in tables:
        table.weight = cut[table.weight]
    t5.shared.num_embeddings = t5.lm_head.out_features = t5.config.vocab_size = rows


def fingerprint(t5: T5ForConditionalGeneration) -> str:
    """Of the first values of all tensors but adapters', which want this T5 again once they are trained."""
    own = [p for name, p in t5.named_parameters() if ".adapter." not in name]
    return sha256(*(p.detach().flatten()[:1024].float().cpu().numpy() for p in own))
