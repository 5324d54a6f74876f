"""Tokenizers as the rerankers meet them: small ones of each kind, made here; the real ones where they are on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHAT = (  # Qwen3's turns
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
REAL = {
    "letter": ("qwen3-tokenizer", "qwen2.5-tokenizer"),
    "pairs": ("xlmr-fixture-tokenizer", "bert-base-uncased-tokenizer"),
    "vip5": ("t5-tokenizer",),
}


def bytes_of_chat() -> Any:
    """Bytes and no merges, Qwen3's special tokens, and its <think>, which it does not call special."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    own.normalizer, own.decoder = normalizers.NFC(), decoders.ByteLevel()
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in ("endoftext", "im_start", "im_end")])
    own.add_tokens([AddedToken(name, special=False) for name in ("<think>", "</think>", "<tool_call>")])
    out = PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    out.chat_template = CHAT
    return out


def unigram_of_pairs() -> Any:
    """In XLM-R's form: the special tokens are pieces of the vocabulary, which folds ＜ to <."""
    from transformers import XLMRobertaTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = [chr(n) for n in range(33, 127)]
    return XLMRobertaTokenizer(
        vocab=[(piece, 0.0 if piece in special else -2.0) for piece in [*special, "▁", *letters]]
    )


def word_tokenizers(kind: str, texts: Sequence[str]) -> dict[str, Any]:
    """Those that a model from nothing makes of the texts."""
    if kind == "letter":
        from rerankers.letter.language_model import Scratch
        from rerankers.letter.prompt import instructions

        return {"words": Scratch().tokenizer(texts, instructions())}
    if kind == "pairs":
        from rerankers.cross_encoder.network import SPECIAL
        from rerankers.word_tokenizer import word_tokenizer

        return {"words": word_tokenizer(texts, 8192, SPECIAL, lower=True)}
    from rerankers.vip5.backbone import Scratch as T5
    from rerankers.vip5.templates import TEMPLATES

    numbers = "yes no , -> user_ shopper_ item_ 0 1 2 3 4 5 6 7 8 9"
    return {"words": T5().tokenizer([*(t.text for t in TEMPLATES.values()), numbers], texts)}


def tokenizers_for(kind: str, texts: Sequence[str]) -> dict[str, Any]:
    """`kind`: letter, pairs or vip5. Name -> tokenizer."""
    from transformers import AutoTokenizer

    found = word_tokenizers(kind, texts)
    if kind == "letter":
        found["bytes"] = bytes_of_chat()
    if kind == "pairs":
        found["unigram"] = unigram_of_pairs()
    shared = os.environ.get("RERANK_SHARED_DATA")
    for name in REAL[kind] if shared else ():
        if (folder := Path(str(shared), "tokenizers", name)).is_dir():
            found[name] = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return found
