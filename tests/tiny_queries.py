"""Made-up passages of a few words, queries that share some of them, and a reranker that counts shared words."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data.dataset import Catalog, Dataset, Interactions, Provenance, Requests
from data.files import read_json, write_json
from data.sources.source import Source
from data.splits import Split
from rerankers.base import Log, Reranker, Validate


@dataclass
class TinyPassages(Source):
    n_queries: int = 43
    n_passages: int = 25

    def load(self, data_dir: Path) -> Dataset:
        rng = np.random.default_rng(self.seed)
        words = rng.integers(0, 60, size=(self.n_passages, 12))
        relevant = [
            rng.choice(self.n_passages, 1 + (q % 4 == 0), replace=False).tolist() for q in range(self.n_queries)
        ]
        asked = [[*rng.choice(words[items[0]], 3), *rng.integers(0, 60, 3)] for items in relevant]

        def column(values: list[Any]) -> np.ndarray:
            out = np.empty(len(values), dtype=object)
            out[:] = values
            return out

        empty, nothing = column([""] * self.n_passages), column([None] * self.n_passages)
        texts = column([" ".join(f"w{w}" for w in row) for row in words])
        ids = column([f"p{i}" for i in range(self.n_passages)])
        catalog = Catalog(ids, empty, texts, column([()] * self.n_passages), nothing, empty, empty)
        user = np.repeat(np.arange(self.n_queries), [len(items) for items in relevant]).astype(np.int32)
        item = np.concatenate(relevant).astype(np.int32)
        events = Interactions(user, item, np.zeros(len(user), np.int64), np.full(len(user), np.nan, np.float32))
        return Dataset(
            name=self.name,
            kind="passages",
            catalog=catalog,
            user_id=column([f"q{i}" for i in range(self.n_queries)]),
            interactions=events,
            provenance=Provenance("made up", "none", {}),
            queries=column([" ".join(f"w{w}" for w in row) for row in asked]),
        )


@dataclass(kw_only=True)
class SharedWords(Reranker):
    """Scores are `skill` times the words that query and passage share, and noise; untuned it is noise alone."""

    skill: float = 1.0
    loss: float = 0.2  # at the end
    chance: float = 1.0
    accuracy: float = 0.9
    margin: float = 0.5
    fits: ClassVar[list[tuple[float, int]]] = []  # of (epochs, training queries)

    requires: ClassVar[tuple[str, ...]] = ("text",)
    trains: ClassVar[bool] = True
    keeps_checkpoints: ClassVar[bool] = True

    def untuned(self) -> Reranker:
        return replace(self, skill=0.0, trainer=replace(self.trainer, num_train_epochs=0.0))

    def fit(self, dataset: Dataset, split: Split, validate: Validate | None, log: Log) -> None:
        self.build(dataset, split)
        self.fits.append((self.trainer.num_train_epochs, len(split.train)))
        if not self.trainer.num_train_epochs:
            return
        for step, loss in enumerate(np.linspace(self.chance, self.loss, 20), start=1):
            log({"epoch": self.trainer.num_train_epochs * step / 20, "train_loss": float(loss)}, step)
        for step, complete in ((1, True), (2, True), (3, False)):
            folder = self.checkpoints / f"checkpoint-{step}"
            folder.mkdir(parents=True)
            names = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"]
            for name in names + ["complete"] * complete:
                (folder / name).touch()

    def score(self, requests: Requests) -> np.ndarray:
        assert requests.candidates is not None and requests.queries is not None
        texts = [set(text.split()) for text in requests.catalog.description]
        rows = zip(requests.queries, requests.candidates, strict=True)
        shared = np.array([[len(set(q.split()) & texts[i]) for i in row] for q, row in rows], dtype=np.float32)
        noise = (requests.candidates * 7919 + requests.ids[:, None] * 104729) % 1000 / 1000
        return (self.skill * (shared + noise)).astype(np.float32) if self.skill else noise.astype(np.float32)

    def reports(self) -> dict[str, dict]:
        return {"training_info.json": {"epochs": self.trainer.num_train_epochs, "name": self.name}}

    def save(self, folder: Path) -> None:
        write_json(folder / "skill.json", {"skill": self.skill})

    def load(self, folder: Path, requests: Requests) -> None:
        self.skill = read_json(folder / "skill.json")["skill"]

    def chance_loss(self, requests: Requests) -> float:
        return self.chance

    def facts(self, requests: Requests) -> dict[str, np.ndarray]:
        dev = np.array([self.accuracy, 0.5 + self.margin / 2, 0.5 - self.margin / 2, self.margin])
        return {"parameters": np.array([10, 10]), "weight_change": np.array([0.1]), "dev_metrics": dev}
