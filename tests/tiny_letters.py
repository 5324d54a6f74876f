"""A letter reranker small enough for tests, from nothing or on a checkpoint in the hub's layout."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data.dataset import Dataset
from data.splits import Split
from data.texts import item_texts
from rerankers.base import TrainerConfig
from rerankers.letter.language_model import Scratch
from rerankers.letter.letter import LetterReranker
from rerankers.letter.prompt import instructions

SMALL = Scratch(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, head_dim=8, intermediate_size=32)


def checkpoint_of(demo: Dataset, folder: Path) -> Path:
    """A folder as from_pretrained reads it: a small random Qwen3 and a tokenizer with a chat template."""
    torch.manual_seed(0)
    tokenizer = SMALL.tokenizer(item_texts(demo.catalog, "text_only"), instructions())
    SMALL.model(len(tokenizer), 512).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make(folder: Path | None, tmp_path: Path, epochs: float = 1, **settings: Any) -> LetterReranker:
    trainer = TrainerConfig(
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        learning_rate=settings.pop("learning_rate", 1e-3),
        gradient_accumulation_steps=settings.pop("gradient_accumulation_steps", 1),
        logging_steps=1,
        metric_for_best_model="recall_at_10",
    )
    model = {"init": "scratch"} if folder is None else {"model": str(folder)}
    settings = {"training_candidates": 10, "negatives": "random", "scratch": SMALL, **settings}
    return LetterReranker(
        name="qwen_letter", trainer=trainer, checkpoints=tmp_path / "checkpoints", **model, **settings
    )


def overfitted(
    dataset: Dataset, split: Split, n: int, tmp_path: Path, epochs: float, training_candidates: int
) -> list[float]:
    """Always the same rows of `n` users or queries: the curve of letter_loss, in units of chance's."""
    larger = replace(SMALL, hidden_size=64, head_dim=32)
    settings: dict[str, Any] = {"training_candidates": training_candidates, "learning_rate": 3e-3, "scratch": larger}
    reranker = make(None, tmp_path, epochs=epochs, **settings)
    reranker.redraws = False
    logged: list[dict[str, float]] = []
    few = replace(split, train=split.train.take(slice(0, n)))
    reranker.fit(dataset, few, None, lambda values, step: logged.append(values))
    curve = [values["train_letter_loss"] for values in logged if "train_letter_loss" in values]
    return [value / math.log(training_candidates) for value in curve]


def nothing(values: dict[str, float], step: int) -> None:
    pass
