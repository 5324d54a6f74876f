"""What is measured for the checks, of any reranker, through the contract; it leaves no trace in a run's numbers."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from data.dataset import Dataset, Relevance, Requests
from data.keys import NEGATIVES_OF_VALIDATION
from data.negatives import sample
from data.splits import Phase, Split
from experiments.evaluation import Evaluated, Evaluator
from experiments.training_checks import Curve, Rate
from rerankers.base import Reranker

MOST, LEAST = 512, 64  # requests that are scored, by models of less and of more parameters than
LARGE = 50_000_000
ORDERS = 5


@contextmanager
def undisturbed() -> Iterator[None]:
    """Every random state is afterwards what it was before."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002


@dataclass(frozen=True)
class Scored:
    """A sample of requests, scored once."""

    evaluator: Evaluator
    scores: np.ndarray  # [R, N] float32
    evaluated: Evaluated

    @property
    def requests(self) -> Requests:
        return self.evaluator.requests

    @property
    def listed(self) -> np.ndarray:
        """[R, N] bool: a candidate that has a score."""
        candidates = self.requests.candidates
        return np.isfinite(self.scores if candidates is None else np.where(candidates < 0, -np.inf, self.scores))

    @property
    def answered(self) -> np.ndarray:
        """[R] bool: requests that have a candidate with a score."""
        return np.asarray(self.listed.any(axis=1))

    @property
    def logits(self) -> np.ndarray:
        """[R, N] log-probabilities over the candidates, -inf where there is none."""
        out = np.full(self.scores.shape, -np.inf)
        masked = np.where(self.listed, self.scores.astype(np.float64), -np.inf)
        out[self.answered] = log_softmax(masked[self.answered], axis=1)
        return out

    @property
    def spread(self) -> float:
        """Standard deviation of the scores of a request, on average."""
        return float(np.ma.array(np.where(self.listed, self.scores, 0), mask=~self.listed).std(axis=1).mean())

    @property
    def entropy(self) -> tuple[float, float]:
        """Of the softmax over the candidates, on average in nats, and the number of candidates."""
        listed = self.listed[self.answered]
        logits = self.logits[self.answered]
        nats = -(np.exp(logits) * np.where(listed, logits, 0)).sum(axis=1)
        return float(nats.mean()), float(np.exp(np.log(listed.sum(axis=1)).mean()))

    @property
    def loss(self) -> tuple[float, float] | None:
        """Cross-entropy over the candidates of the requests whose list holds a target, and ln of their number."""
        columns, _, rows = targets(self.requests, self.evaluator.relevance)
        loss = -self.logits[rows, columns]
        rows, loss = rows[np.isfinite(loss)], loss[np.isfinite(loss)]
        if not len(rows):
            return None
        return float(loss.mean()), float(np.log(self.listed[rows].sum(axis=1)).mean())

    @property
    def best(self) -> np.ndarray:
        """[R] column of the best candidate; equal scores are told apart at random."""
        noise = np.random.default_rng(0).random(self.scores.shape)
        first = np.where(self.listed, self.scores, -np.inf)
        return np.where(first == first.max(axis=1, keepdims=True), noise, -1).argmax(axis=1)


def score(reranker: Reranker, evaluator: Evaluator, keep: bool = False) -> Scored:
    """`keep`: the ranked lists too."""
    parts = []

    def kept(requests: Requests) -> np.ndarray:
        parts.append(np.array(reranker.score(requests), dtype=np.float32))
        return parts[-1]

    evaluated = evaluator(kept, keep, description="diagnosing")
    return Scored(evaluator, np.concatenate(parts), evaluated)


def take(evaluator: Evaluator, rows: np.ndarray) -> Evaluator:
    return replace(evaluator, requests=evaluator.requests.take(rows), relevance=evaluator.relevance.take(rows))


def chosen(n: int, size: int, seed: int) -> np.ndarray:
    """A seeded choice of rows, a smaller one inside each larger one."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:size])


def affordable(reranker: Reranker, requests: Requests) -> int:
    """How many requests are scored, some ten times in all checks: few by a large model. Not by the clock, so that a
    repeat finds the same."""
    _, parameters = reranker.facts(requests.take(slice(0, 1))).get("parameters", (0, 0))
    return MOST if parameters < LARGE else LEAST


def rate(reranker: Reranker, requests: Requests) -> Rate:
    trainable, total = reranker.facts(requests.take(slice(0, 1))).get("parameters", (0, 0))
    return Rate.of(reranker.trainer.learning_rate, trainable, total)


def is_part(name: str) -> bool:
    """Whether a curve is of one task of several, whose sum is `train_loss`."""
    return name.startswith("train_") and name.endswith("_loss") and name != "train_loss"


def targets(requests: Requests, relevance: Relevance) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the requests whose list holds a relevant item: its column, the list's length, and the request's row."""
    row, items = relevance.items.row_of_value, relevance.items.values
    if requests.candidates is None:
        column, found = items, np.ones(len(row), dtype=bool)
    else:
        match = requests.candidates[row] == items[:, None]
        column, found = match.argmax(axis=1), match.any(axis=1)
    rows, first = np.unique(row[found], return_index=True)
    return column[found][first].astype(np.int64), widths(requests)[rows], rows


def widths(requests: Requests) -> np.ndarray:
    """[R] candidates of each request."""
    if requests.candidates is None:
        return np.full(len(requests), requests.width)
    return (requests.candidates >= 0).sum(axis=1)


def shuffled(requests: Requests, seed: int) -> tuple[Requests, np.ndarray]:
    """The same candidates in another order, padding last, and the old column of each new one [R, N]."""
    assert requests.candidates is not None
    draw = np.random.default_rng(seed).random(requests.candidates.shape)
    order = np.argsort(np.where(requests.candidates < 0, 2, draw), axis=1)

    def moved(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else np.take_along_axis(array, order, axis=1)

    return replace(
        requests,
        candidates=moved(requests.candidates),
        first_stage_items=moved(requests.first_stage_items),
        first_stage_values=moved(requests.first_stage_values),
    ), order


def under_orders(reranker: Reranker, scored: Scored, metric: str) -> tuple[np.ndarray, float, float]:
    """The metric under each of `ORDERS` orders, share of requests whose best item changes from one order to the first,
    and the standard deviation of an item's log-probability over orders relative to that between items."""
    values, logits, best = [], [], []
    for seed in range(ORDERS):
        requests, order = shuffled(scored.requests, seed)
        again = score(reranker, replace(scored.evaluator, requests=requests))
        values.append(float(again.evaluated.values[metric].mean()))
        logits.append(np.empty_like(again.logits))
        np.put_along_axis(logits[-1], order, again.logits, axis=1)
        best.append(order[np.arange(len(order)), again.best])
    listed = np.broadcast_to(scored.listed, (ORDERS, *scored.listed.shape))
    stack = np.ma.array(np.where(listed, np.stack(logits), 0), mask=~listed)  # [ORDERS, R, N]
    noise = float(stack.std(axis=0).mean() / max(stack.mean(axis=0).std(axis=1).mean(), 1e-12))
    changed = np.mean([best[0] != other for other in best[1:]])
    return np.array(values), float(changed), noise


def reloaded(reranker: Reranker, requests: Requests) -> np.ndarray | None:
    """Scores of the model after saving and loading; None if there is no memory for a second one."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        reranker.save(Path(folder))
        again = replace(reranker)  # the same settings, nothing learned
        try:
            again.load(Path(folder), requests)
            return again.score(requests)
        except torch.OutOfMemoryError:
            return None


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest of two scorings; infinite where only one has a score."""
    unequal = a != b
    return float(np.abs(a[unequal].astype(np.float64) - b[unequal]).max(initial=0))


def last_items(
    dataset: Dataset, split: Split, evaluator: Evaluator, size: int, n: int
) -> tuple[Evaluator, Evaluator] | None:
    """The same users asked for their last training item and for their validation item, each among `size` candidates
    with the same uniform negatives; None without such users."""
    seed = evaluator.seed
    train = split.train.histories.take(np.searchsorted(split.train.ids, split.validation.ids))
    asked = np.flatnonzero(train.lengths >= 2)
    asked = asked[chosen(len(asked), n, seed)]
    spare = len(dataset.catalog) - int(dataset.sequences.lengths[split.validation.ids[asked]].max(initial=0))
    if not len(asked) or min(size, spare + 1) <= max(evaluator.ks):
        return None
    ids, history, ones = split.validation.ids[asked], train.take(asked), np.ones(len(asked), dtype=np.int64)
    rows, length = np.arange(len(asked)), history.lengths
    before = Phase(ids, history.part(rows, 0 * ones, length - 1), history.part(rows, length - 1, length))
    valid = split.validation.take(asked)
    after = Phase(ids, valid.histories, valid.relevant.part(rows, 0 * ones, ones))

    def evaluator_of(phase: Phase) -> Evaluator:
        lists = sample(
            dataset, phase, split.train.histories, min(size, spare + 1), "uniform", seed, NEGATIVES_OF_VALIDATION
        )
        requests = Requests(dataset.catalog, ids, phase.histories, dataset.user_id[ids], phase.queries, lists)
        return replace(evaluator, requests=shuffled(requests, seed)[0], relevance=Relevance(phase.relevant))

    return evaluator_of(before), evaluator_of(after)


def curve(points: list[dict[str, Any]], name: str) -> Curve | None:
    """One curve of curves.jsonl; a null is a value that was not finite."""
    own = [point for point in points if point["name"] == name]
    if not own:
        return None
    value = [np.nan if point["value"] is None else point["value"] for point in own]
    return Curve(name, np.array([point["epoch"] for point in own]), np.array(value, dtype=np.float64))
