"""The rows that need no training: what luck, the first stage and counting give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from data.dataset import Dataset, Requests
from data.errors import UserError
from data.keys import RANDOM_RERANKER, keys
from data.splits import Split
from rerankers.base import Log, Reranker, Validate
from rerankers.item_ids import load_item_ids, rows_in, save_item_ids
from rerankers.weights import read_weights


@dataclass(kw_only=True)
class Random(Reranker):
    """A seeded random score for each (request, item)."""

    def score(self, requests: Requests) -> np.ndarray:
        items = np.arange(requests.width) if requests.candidates is None else requests.candidates
        return (keys(self.seed, RANDOM_RERANKER, requests.ids, items) >> np.uint64(40)).astype(np.float32)


@dataclass(kw_only=True)
class FirstStage(Reranker):
    """The order in which the first stage left the candidates."""

    def score(self, requests: Requests) -> np.ndarray:
        scores = requests.first_stage_scores
        if scores is None:
            raise UserError("these candidates carry no first-stage scores; choose another reranker")
        return scores


@dataclass(kw_only=True)
class Popularity(Reranker):
    """The number of training interactions of each item; of passages the label prior: of how many training queries
    a passage is relevant, no text read."""

    def fit(self, dataset: Dataset, split: Split, validate: Validate | None, log: Log) -> None:
        self.item_ids = dataset.catalog.id
        self.counts = np.bincount(split.train.histories.values, minlength=len(self.item_ids)).astype(np.float32)

    def score(self, requests: Requests) -> np.ndarray:
        if requests.candidates is None:
            return np.broadcast_to(self.counts, (len(requests), len(self.counts)))
        return self.counts[requests.candidates]

    def save(self, folder: Path) -> None:
        save_file({"counts": self.counts}, folder / "model.safetensors")
        save_item_ids(folder, self.item_ids)

    def load(self, folder: Path, requests: Requests) -> None:
        rows = rows_in(load_item_ids(folder), requests.catalog)
        counts = read_weights(folder, load_file)["counts"]
        self.item_ids = requests.catalog.id
        self.counts = np.where(rows < 0, 0, counts[rows]).astype(np.float32)
