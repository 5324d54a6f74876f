"""Checks of a model that is given: a cross-encoder with one logit, whole, with its own tokenizer, long enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open

from data.errors import UserError
from data.model_files import code_named

NO_CROSS_ENCODER = (
    "reranker.model={name} is a {kind}, not a cross-encoder with one logit; give one like BAAI/bge-reranker-v2-m3"
)
AFTER_PADDING = ("roberta", "camembert", "mpnet", "longformer", "data2vec")  # their positions begin there


def check_kind(name: str, config: Any) -> None:
    """A model of another kind is refused before it is loaded; one without a head may be given a new one."""
    if named := code_named(config.to_dict()):
        raise UserError(f"reranker.model={name} names code, {named}, which is never run; give another model")
    kind = (config.architectures or [""])[0]
    if "ForSequenceClassification" in kind and config.num_labels != 1:
        raise UserError(NO_CROSS_ENCODER.format(name=name, kind=f"{kind} with {config.num_labels} labels"))
    if "ForCausalLM" in kind:
        raise UserError(NO_CROSS_ENCODER.format(name=name, kind=kind))


def check_fit(name: str, model: Any, tokenizer: Any, max_length: int) -> None:
    """Model, tokenizer and `max_length` that do not fit would be noticed late, or never."""
    if not hasattr(model, "classifier"):
        raise UserError(NO_CROSS_ENCODER.format(name=name, kind=type(model).__name__))
    n_known, n_words = len(tokenizer), model.get_input_embeddings().num_embeddings
    if n_known <= len(tokenizer.all_special_tokens):  # what is made of a folder without its files
        raise UserError(f"reranker.model={name} has no tokenizer; give a folder with tokenizer.json")
    if n_known > n_words:
        raise UserError(
            f"reranker.model={name} has a tokenizer of {n_known:,} tokens, and the model knows {n_words:,}; give the "
            "tokenizer that it was trained with"
        )
    if max_length > (most := positions(model.config)):
        raise UserError(
            f"reranker.max_length={max_length} exceeds the {most} positions of {name}; give at most {most}"
        )


def positions(config: Any) -> int:
    """The longest pair in tokens."""
    after_padding = any(family in config.model_type for family in AFTER_PADDING)
    first = (config.pad_token_id or 0) + 1 if after_padding else 0
    return getattr(config, "max_position_embeddings", 2**20) - first


def has_new_head(name: str, model: Any) -> bool:
    """Whether head or pooler are not among the stored tensors, and random; a UserError if that is so of others."""
    if (stored := stored_names(name)) is None:  # a layout that is not known here
        return not any("ForSequenceClassification" in kind for kind in model.config.architectures or [])
    body = model.base_model_prefix + "."

    def plain(key: str) -> str:  # a base model's names lack the prefix; those of the first BERTs are TensorFlow's
        key = key.removeprefix(body)
        return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")

    have = set(map(plain, stored))
    lacking = sorted(key for key in model.state_dict() if plain(key) not in have)
    if torn := [key for key in lacking if key.startswith(body) and "pooler" not in key]:
        raise UserError(f"reranker.model={name} lacks weights ({torn[0]}), which would be random; give a whole one")
    return bool(lacking)


def stored_names(name: str) -> set[str] | None:
    """Of the tensors of a folder, or of a model that was just loaded from the hub."""

    def find(file: str) -> str | None:
        if (folder := Path(name)).is_dir():
            return str(folder / file) if (folder / file).exists() else None
        found = try_to_load_from_cache(name, file)
        return found if isinstance(found, str) else None

    if index := find("model.safetensors.index.json"):
        return set(json.loads(Path(index).read_text())["weight_map"])
    if path := find("model.safetensors"):
        with safe_open(path, "pt") as file:
            return set(file.keys())
    return None
