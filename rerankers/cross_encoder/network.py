"""The network: sentence-transformers' CrossEncoder on tokens made once; pretrained, or small from nothing.

What is saved is a plain sequence-classification model with one logit, which `CrossEncoder`, FlagEmbedding and
`transformers` load as it is.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentence_transformers import CrossEncoder
from transformers import AutoConfig, XLMRobertaConfig, XLMRobertaForSequenceClassification

from data.errors import UserError, in_range
from rerankers.cross_encoder.checks import check_fit, check_kind, has_new_head
from rerankers.cross_encoder.pairs import Pair, PairTokens
from rerankers.pretrained import load_pretrained
from rerankers.training import device
from rerankers.word_tokenizer import word_tokenizer

logging.getLogger("sentence_transformers").setLevel(logging.ERROR)  # "saving model", "converting" at every checkpoint
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # where XLM-R has them


@dataclass
class Scratch:
    """A small XLM-R from nothing; its tokenizer is made of the dataset's words."""

    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int = 256
    initializer_range: float = 0.1  # .02, made for wide models, leaves a narrow one where it is for long
    vocab_size: int = 8192  # at most; whole words, lower-case, the most frequent ones

    def __post_init__(self) -> None:
        for name, low, high in (
            ("hidden_size", 8, 8192),
            ("num_hidden_layers", 1, 96),
            ("num_attention_heads", 1, 128),
            ("intermediate_size", 8, 65_536),
            ("initializer_range", 1e-4, 1),
            ("vocab_size", 100, 200_000),
        ):
            in_range(f"reranker.scratch.{name}", getattr(self, name), low, high)
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"reranker.scratch.hidden_size={self.hidden_size} must be a multiple of "
                f"reranker.scratch.num_attention_heads={self.num_attention_heads}"
            )

    def save(self, folder: Path, texts: Sequence[str], max_length: int) -> None:
        """Writes a random model and the tokenizer of `texts` as a folder of the hub's layout."""
        tokenizer = word_tokenizer(texts, self.vocab_size, SPECIAL, lower=True)
        more: Any = {"num_labels": 1}
        config = XLMRobertaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size,
            initializer_range=self.initializer_range,
            max_position_embeddings=max_length + 2,  # XLM-R's positions begin after the padding's
            type_vocab_size=2,  # query and text, which large ones tell apart by the separator
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
            **more,
        )
        model: Any = XLMRobertaForSequenceClassification(config)
        # A word looks at its twin in the other text from the start: equal words are alike wherever they stand, and
        # queries and keys begin as the same projection.
        torch.nn.init.zeros_(model.roberta.embeddings.position_embeddings.weight)
        model.roberta.embeddings.token_type_embeddings.weight.data.mul_(0.5)
        for layer in model.roberta.encoder.layer:
            layer.attention.self.key.load_state_dict(layer.attention.self.query.state_dict())
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
        save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})  # in each of several processes
        tokenizer.save_pretrained(folder)


class PairEncoder(CrossEncoder):
    """Reads (query, text) pairs through `PairTokens`, so that the library's losses do not tokenize again."""

    accepts_loss_kwargs = False  # its forward takes **kwargs, which the Trainer would take for a normalised loss
    pairs: PairTokens
    new_head: bool  # the loaded model had none: its logits mean nothing before training

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        pairs: Sequence[Pair] = inputs
        return self.pairs.batch(self.pairs.of(pairs))


def load(name: str, max_length: int) -> PairEncoder:
    """float32, on the GPU where there is one. Only safetensors are read, no code."""
    options = {"dtype": torch.float32, "use_safetensors": True}

    def checked() -> PairEncoder:
        check_kind(name, AutoConfig.from_pretrained(name, trust_remote_code=False))
        return PairEncoder(
            name,
            num_labels=1,
            max_length=max_length,
            device=str(device()),
            trust_remote_code=False,
            model_kwargs=options,
        )

    network = load_pretrained("reranker.model", name, checked)
    model, tokenizer = network[0].model, network.tokenizer
    check_fit(name, model, tokenizer, max_length)
    network.new_head = has_new_head(name, model) or bool(getattr(model.config, "untrained_head", False))
    first_token_alone(model)
    network.pairs = PairTokens(tokenizer, max_length)
    return network


def first_token_alone(model: Any) -> None:
    """Of BERT and RoBERTa the head reads the last layer's first token, so nothing after its attention is computed for
    the others: the same logits and gradients with 6 layers for an eighth of the work less."""
    if model.config.model_type in ("bert", "roberta", "xlm-roberta"):
        last = model.base_model.encoder.layer[-1]
        last.attention.output.register_forward_pre_hook(lambda module, inputs: tuple(x[:, :1] for x in inputs))


@contextlib.contextmanager
def scoring_in(network: PairEncoder, dtype: torch.dtype) -> Iterator[None]:
    """Weights in half precision; afterwards they are what they were, to the bit."""
    network.eval()
    before = [p.data for p in body(network)]
    hook = convert(network, dtype)
    try:
        yield
    finally:
        hook.remove()
        for p, data in zip(body(network), before, strict=True):
            p.data = data


def convert(network: PairEncoder, dtype: torch.dtype) -> Any:
    """All weights but the head's, whose logits stay float32 (in bfloat16 they would tie). Returns the hook that takes
    the head its inputs."""
    for p in body(network):
        p.data = p.data.to(dtype)
    model: Any = network[0].model
    return model.classifier.register_forward_pre_hook(lambda module, inputs: tuple(x.float() for x in inputs))


def body(network: PairEncoder) -> list[torch.nn.Parameter]:
    model: Any = network[0].model
    return [p for name, p in model.named_parameters() if not name.startswith("classifier.")]
