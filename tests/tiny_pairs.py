"""Cross-encoders small enough for tests: from nothing, or random ones as a folder of the hub's layout."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from data.dataset import Dataset, Ragged, Requests
from rerankers.base import TrainerConfig
from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker
from rerankers.cross_encoder.network import SPECIAL, Scratch
from rerankers.word_tokenizer import word_tokenizer

SMALL = Scratch(hidden_size=16, num_attention_heads=2, intermediate_size=32)
WORDS = "the cat sat on a mat while câu lạc bộ lập trình was 1 of 2 clubs, and nobody! knew Why".split()
NAMES = {"bert": "bert-base-uncased-tokenizer", "xlmr": "xlmr-fixture-tokenizer"}
FAMILIES: dict[str, tuple[Any, Any]] = {
    "bert": (BertConfig, BertForSequenceClassification),
    "xlmr": (XLMRobertaConfig, XLMRobertaForSequenceClassification),
}


def sentence(rng: np.random.Generator, n: int) -> str:
    return " ".join(rng.choice(WORDS, n))


def some_pairs(n: int, seed: int = 0, longest: int = 60) -> list[tuple[str, str]]:
    """Of many lengths, the empty text among them."""
    rng = np.random.default_rng(seed)
    pairs = [(sentence(rng, rng.integers(1, 12)), sentence(rng, rng.integers(1, longest))) for _ in range(n - 2)]
    return [*pairs, ("", "a mat"), ("the cat", "")]


def tokenizer_of(family: str, shared: Path | None) -> Any:
    """The real one of a family; "scratch", and without shared data: the words of these tests."""
    if family == "scratch" or shared is None or not shared.is_dir():
        return word_tokenizer([" ".join(WORDS)], 1000, SPECIAL, lower=True)
    return AutoTokenizer.from_pretrained(shared / "tokenizers" / NAMES[family], trust_remote_code=False)


def words_of(dataset: Dataset) -> Any:
    """A tokenizer of the dataset's own words."""
    assert dataset.queries is not None
    return word_tokenizer([*dataset.catalog.description, *dataset.queries], 1000, SPECIAL, lower=True)


def folder_of(family: str, tokenizer: Any, folder: Path, seed: int = 0, **settings: Any) -> Path:
    """A random model whose scores differ, and its tokenizer."""
    config, model = FAMILIES[family]
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    more = {"max_position_embeddings": 66, "num_labels": 1, "pad_token_id": tokenizer.pad_token_id, **settings}
    types = {"type_vocab_size": 2, "initializer_range": 0.3}
    model(config(vocab_size=len(tokenizer), **(sizes | types | more))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make(tmp_path: Path, model: Path | str | None = None, epochs: float = 1, **settings: Any) -> CrossEncoderReranker:
    """`settings` are of the reranker, or of the trainer where they bear its names."""
    trainer: dict[str, Any] = {"per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1}
    known = TrainerConfig.__dataclass_fields__
    trainer |= {name: settings.pop(name) for name in list(settings) if name in known}
    start = {"init": "scratch", "scratch": SMALL} if model is None else {"model": str(model)}
    defaults: dict[str, Any] = {
        "max_length": 32,
        "hard_negatives": 1,
        "random_negatives": 2,
        "mixed_precision": "none",
    }
    return CrossEncoderReranker(
        name="viranker",
        trainer=TrainerConfig(num_train_epochs=epochs, metric_for_best_model="recall_at_10", **trainer),
        checkpoints=tmp_path / "checkpoints",
        **(defaults | start | settings),
    )


def asked(dataset: Any, split: Any, n: int = 8, width: int = 10, seed: int = 0) -> Requests:
    """Test queries with random candidates, some of them padding."""
    rng = np.random.default_rng(seed)
    phase = split.test.take(slice(0, n))
    rows = [rng.choice(len(dataset.catalog), width, replace=False) for _ in range(len(phase))]
    candidates = np.array(rows, dtype=np.int32)
    candidates[0, -2:] = -1
    histories = Ragged.empty(len(phase)) if phase.queries is not None else phase.histories
    return Requests(dataset.catalog, phase.ids, histories, queries=phase.queries, candidates=candidates)


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.network.parameters()])


def nothing(values: dict[str, float], step: int) -> None:
    pass
