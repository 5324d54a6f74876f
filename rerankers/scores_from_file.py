"""Scores that a model made elsewhere, so that it stands in the same table with the same tests: `data.run_file` reads
parquet, CSV and TREC runs.

    python train.py reranker=file reranker.path=lightgcn.parquet reranker.name=lightgcn

A candidate without a score is not ranked and counts as missed, as trec_eval has it; how many those are is a label of
the run. The scores are of test requests: there is no validation of a model that was not trained here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from data.dataset import Dataset, Requests
from data.errors import UserError, one_of
from data.files import read_json, write_json
from data.run_file import lists_of
from data.splits import Split
from rerankers.base import Log, Reranker, Validate
from rerankers.weights import read_weights


@dataclass(kw_only=True)
class ScoresFromFile(Reranker):
    path: str
    missing_requests: str = "error"  # or empty: a request without scores has missed everything

    validates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_of("reranker.missing_requests", self.missing_requests, ("error", "empty"))

    @property
    def files(self) -> list[Path]:
        return [Path(self.path)]

    def fit(self, dataset: Dataset, split: Split, validate: Validate | None, log: Log) -> None:
        run = lists_of(Path(self.path), "reranker.path", "test")
        if run is None:
            raise UserError(f"reranker.path={self.path} has no row with phase=test")
        asked = dataset.user_id[split.test.ids]
        users = "users" if dataset.queries is None else "queries"
        for what, given, known in ((users, run.requests, asked), ("items", run.items, dataset.catalog.id)):
            if not np.isin(given, known).any():
                raise UserError(
                    f"{self.path} scores none of the {len(known):,} {what} of {dataset.name} (it has {given[0]!r}, "
                    f"the dataset {known[0]!r}); give the dataset's own ids"
                )
        self.requests, self.items = pd.Index(run.requests), pd.Index(run.items)
        pairs = run.row * len(run.items) + run.item
        order = np.argsort(pairs)
        self.pairs, self.scores = pairs[order], run.scores[order]  # [P] request x item, increasing

    def score(self, requests: Requests) -> np.ndarray:
        """-inf where the file has no score."""
        user, n = self._users(requests), len(self.items)
        scores = np.full((len(requests), requests.width), -np.inf, dtype=np.float32)
        if requests.candidates is None:
            row_of_item = pd.Index(requests.catalog.id).get_indexer(self.items)
            asked = np.flatnonzero(user >= 0)
            start, stop = (np.searchsorted(self.pairs, (user[asked] + last) * n) for last in (0, 1))
            place = np.repeat(start - np.cumsum(stop - start) + (stop - start), stop - start)
            place += np.arange(len(place))
            row, column = np.repeat(asked, stop - start), row_of_item[self.pairs[place] % n]
            scores[row[column >= 0], column[column >= 0]] = self.scores[place[column >= 0]]
            return scores
        item = np.append(self.items.get_indexer(pd.Index(requests.catalog.id)), -1)[requests.candidates]
        pair = user[:, None] * n + item
        place = np.minimum(np.searchsorted(self.pairs, pair), len(self.pairs) - 1)
        found = (self.pairs[place] == pair) & (item >= 0) & (user >= 0)[:, None]
        scores[found] = self.scores[place[found]]
        return scores

    def _users(self, requests: Requests) -> np.ndarray:
        """[R] the file's row of each request, -1 where it has none."""
        assert requests.names is not None
        user = self.requests.get_indexer(pd.Index(requests.names))
        who = "user" if requests.queries is None else "query"
        if (user < 0).any() and self.missing_requests == "error":
            raise UserError(
                f"{self.path} has no scores for {who} {requests.names[np.argmin(user)]} ({(user < 0).sum():,} of "
                f"{len(user):,}); score every request, or reranker.missing_requests=empty to count them as missed"
            )
        return user

    def labels(self, requests: Requests) -> list[str]:
        out = [f"scores made elsewhere, {Path(self.path).name}"]
        if without := int((self._users(requests) < 0).sum()):
            out.append(f"{without:,} of {len(requests):,} requests have no score and count as missed")
        unknown = (~np.isin(self.items.to_numpy(), requests.catalog.id)).mean()
        if unknown > 0:
            out.append(f"{unknown:.1%} of the items scored there are not in the catalogue")
        if requests.candidates is None:
            out.append(f"{len(self.pairs) / len(self.requests):,.1f} items a request are scored, others not ranked")
        else:
            share = np.isneginf(self.score(requests)[requests.candidates >= 0]).mean()
            if share > 0:
                out.append(f"{share:.1%} of the candidates have no score and are not ranked")
        return out

    def save(self, folder: Path) -> None:
        save_file({"pairs": self.pairs, "scores": self.scores}, folder / "model.safetensors")
        write_json(folder / "ids.json", {"requests": list(self.requests), "items": list(self.items)})

    def load(self, folder: Path, requests: Requests) -> None:
        arrays, ids = read_weights(folder, load_file), read_json(folder / "ids.json")
        self.requests, self.items = pd.Index(ids["requests"]), pd.Index(ids["items"])
        self.pairs, self.scores = arrays["pairs"], arrays["scores"]
