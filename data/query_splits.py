"""Cutting queries into training, validation and test, for passages. No pair of a test query is ever trained.

`QueryFolds` tests every query once: fold f is the test of run f, and a part of what remains is validation. Queries of
one text are in one part.
`QueryFiles` takes the parts that the source's files name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from data.dataset import PARTS, Dataset, Ragged
from data.errors import UserError, check_seed, in_range, one_of
from data.splits import Phase, Split
from data.texts import folded


@dataclass
class QueryFolds:
    """`group_by="document"` keeps queries that share a relevant passage, directly or through others, together."""

    folds: int = 5
    fold: int | None = None  # None: all of them, one run each, and their results pooled
    dev_ratio: float = 0.2  # of the training part, for validation
    group_by: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        in_range("protocol.folds", self.folds, 2, 1000)
        in_range("protocol.fold", self.fold, 0, self.folds - 1)
        check_dev_ratio(self.dev_ratio)
        one_of("protocol.group_by", self.group_by, ("none", "document"))
        check_seed("protocol.split.seed", self.seed)

    def split(self, dataset: Dataset) -> Split:
        if self.fold is None:
            raise UserError(f"this command takes one fold at a time; give protocol.fold=0, or up to {self.folds - 1}")
        check_queries(dataset)
        rng = np.random.default_rng(self.seed)
        groups, notes = texts(dataset), [f"fold {self.fold} of {self.folds} is the test"]
        if dataset.parts is not None:
            notes.append("the files' own parts are not used; protocol=query_files tests on them")
        if self.group_by == "document":
            groups = documents(dataset)
            sizes = np.bincount(groups)
            sizes = sizes[sizes > 0]
            notes.append(
                f"{len(sizes):,} groups of queries that share passages, the largest of {sizes.max():,} queries"
            )
        if (n := len(np.unique(groups))) < self.folds:
            raise UserError(
                f"protocol.folds={self.folds} exceeds the {n} groups of queries of {dataset.name}; choose fewer"
            )
        fold = deal(groups, np.full(self.folds, 1 / self.folds), rng)
        part = np.where(fold == self.fold, "test", "train").astype(object)
        return finish(dataset, cut_validation(part, groups, self.dev_ratio, rng), notes)


@dataclass
class QueryFiles:
    """Train and test as the files have them; validation too, or else cut from the training part."""

    dev_ratio: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        check_dev_ratio(self.dev_ratio)
        check_seed("protocol.split.seed", self.seed)

    def split(self, dataset: Dataset) -> Split:
        check_queries(dataset)
        if dataset.parts is None or not {"train", "test"} <= set(dataset.parts):
            raise UserError(
                f"dataset {dataset.name} has no training and test queries of their own; give dataset.test_queries= or "
                "use protocol=query_folds"
            )
        part = dataset.parts.copy()
        if "validation" not in set(part):
            part = cut_validation(part, texts(dataset), self.dev_ratio, np.random.default_rng(self.seed))
        return finish(dataset, part, [])


def check_dev_ratio(value: float) -> None:
    if not 0 < value < 1:
        raise UserError(f"protocol.dev_ratio={value} is out of range; it must be in (0, 1)")


def check_queries(dataset: Dataset) -> None:
    if dataset.queries is None:
        raise UserError(f"dataset {dataset.name} has users, not queries; use protocol=leave_one_out or temporal")


def texts(dataset: Dataset) -> np.ndarray:
    """[U] number of the text of each query: the same words asked twice must not be trained on and tested."""
    assert dataset.queries is not None
    return pd.factorize(np.array([folded(text) for text in dataset.queries], dtype=object))[0]


def documents(dataset: Dataset) -> np.ndarray:
    """[U] number of the group of each query: the connected component of the graph of queries, their texts and relevant
    passages."""
    events, text = dataset.interactions, texts(dataset)
    n, passages = len(text), len(dataset.catalog)
    asked = np.concatenate([events.user, np.arange(n)])
    met = np.concatenate([n + events.item, n + passages + text])  # nodes: queries, then passages, then texts
    graph = sp.csr_matrix((np.ones(len(asked)), (asked, met)), shape=(2 * n + passages,) * 2)
    return connected_components(graph, directed=False)[1][:n]


def deal(groups: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[U] the part of each query, groups whole and in random order (larger ones first): each goes where most is
    lacking of the share."""
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    lacking = shares * len(groups)
    part = np.empty(len(names), dtype=np.int64)
    order = rng.permutation(len(names))
    for g in order[np.argsort(-sizes[order], kind="stable")]:
        part[g] = int(np.argmax(lacking))
        lacking[part[g]] -= sizes[g]
    return part[group]


def cut_validation(part: np.ndarray, groups: np.ndarray, dev_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """The parts [U], a share of "train" turned into "validation"."""
    train = np.flatnonzero(part == "train")
    cut = train[deal(groups[train], np.array([1 - dev_ratio, dev_ratio]), rng) == 1]
    out = part.copy()
    out[cut] = "validation"
    return out


def finish(dataset: Dataset, part: np.ndarray, notes: list[str]) -> Split:
    """`part` [U] of PARTS; queries of no part are not used."""
    assert dataset.queries is not None

    def phase(names: tuple[str, ...], training: bool) -> Phase:
        rows = np.flatnonzero(np.isin(part, names))
        positives, nothing = dataset.sequences.take(rows), Ragged.empty(len(rows))
        known, asked = (positives, nothing) if training else (nothing, positives)
        return Phase(rows.astype(np.int64), known, asked, dataset.queries[rows])  # type: ignore[index]

    for name in PARTS:
        if not (part == name).any():
            raise UserError(f"dataset {dataset.name} leaves no {name} query; it has {len(part)}, choose another split")
    split = Split(
        train=phase(("train",), True),
        train_and_validation=phase(("train", "validation"), True),
        validation=phase(("validation",), False),
        test=phase(("test",), False),
    )
    trained = np.zeros(len(dataset.catalog), dtype=bool)
    trained[split.train.histories.values] = True
    cold = int((~trained[split.test.relevant.values]).sum())
    sizes = ", ".join(f"{(part == name).sum():,} {name}" for name in PARTS)
    notes = [*notes, f"queries: {sizes}"]
    if cold:
        notes.append(
            f"{cold:,} of {len(split.test.relevant.values):,} test labels are on passages no training query has"
        )
    return replace(split, notes=tuple(notes))
