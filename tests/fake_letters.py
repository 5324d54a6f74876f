"""A letter reranker without a language model: it knows the demo's planted truth, and each field breaks one thing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data.dataset import Dataset, Requests
from data.files import read_json, write_json
from data.splits import Split
from rerankers.base import Log, Reranker, Validate

FALLING = np.linspace(3.0, 1.8, 60) + np.random.default_rng(0).normal(0, 0.05, 60)


@dataclass(kw_only=True)
class FakeLetters(Reranker):
    curve: Any = field(default_factory=lambda: FALLING)
    gradient: float = 1.0
    skill: float = 1.0
    label_ids: Any = field(default_factory=lambda: np.arange(20) + 65)
    shortened: float = 0.0
    other_prompts: int = 0
    trainable: int = 100
    moved: float = 0.1
    first_letter: float = 0.0  # added to the logit of A
    place_noise: float = 0.0  # of a logit, by column
    dropout: float = 0.0
    forgets: bool = False
    target_columns: Any = None

    trains: ClassVar[bool] = True
    order_sensitive: ClassVar[bool] = True
    chance_curve: ClassVar[str] = "train_letter_loss"
    planted: ClassVar[Any] = None

    def build(self, dataset: Dataset, split: Split) -> None:
        FakeLetters.planted = dataset.planted

    def fit(self, dataset: Dataset, split: Split, validate: Validate | None, log: Log) -> None:
        self.build(dataset, split)
        epochs = self.trainer.num_train_epochs
        if epochs:
            for step, loss in enumerate(self.curve, start=1):
                values = {"train_loss": 9.0, self.chance_curve: float(loss), "grad_norm": self.gradient}
                log({"epoch": epochs * step / len(self.curve)} | values, step)

    def score(self, requests: Requests) -> np.ndarray:
        scores = self.skill * self.planted.score(requests)
        scores[:, 0] += self.first_letter
        scores += self.place_noise * np.random.default_rng(0).normal(size=scores.shape)
        return (scores + self.dropout * np.random.normal(size=scores.shape)).astype(np.float32)  # noqa: NPY002

    def save(self, folder: Path) -> None:
        write_json(folder / "fake.json", {"skill": 0.0 if self.forgets else self.skill})

    def load(self, folder: Path, requests: Requests) -> None:
        self.skill = read_json(folder / "fake.json")["skill"]  # type: ignore[assignment]

    def chance_loss(self, requests: Requests) -> float:
        return float(np.log(requests.width))

    def inputs(self, requests: Requests) -> list[str]:
        return [f"user {name}, which of the candidates is next?" for name in requests.names or []]

    def facts(self, requests: Requests) -> dict[str, np.ndarray]:
        n, hashes = len(requests), np.arange(30)
        facts = {
            "parameters": np.array([self.trainable, 10_000_000]),
            "training_rows": np.array([2000]),
            "weight_change": np.array([self.moved]),
            "label_ids": self.label_ids,
            "prompt_lengths": np.full(n, 200),
            "shortened": np.arange(n) < self.shortened * n,
            "trained_prompt": hashes,
            "scored_prompt": hashes + (hashes < self.other_prompts),
        }
        return facts if self.target_columns is None else facts | {"target_columns": self.target_columns}
