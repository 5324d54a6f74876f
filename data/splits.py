"""Cutting a dataset into training, validation and test. A history always ends before its target.

Leave-one-out keeps each user's last item for test and the one before for validation; `Temporal` cuts all users at
one moment, for rerankers that leave-one-out flatters: there, training data of other users may lie after a target.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from data.dataset import Catalog, Dataset, Ragged
from data.errors import UserError

if TYPE_CHECKING:
    from data.negatives import TrainingNegatives
    from data.retrievers import Retriever

YEAR_1, YEAR_10000 = -62_135_596_800, 253_402_300_800


@dataclass(frozen=True)
class Phase:
    """One part of a split: who asks, what is known of them then, and (not for training) what is relevant."""

    ids: np.ndarray  # [R] int64, user rows
    histories: Ragged  # [R], oldest first; in training all there is to learn from, of queries what is relevant
    relevant: Ragged  # [R]; empty rows in training
    queries: np.ndarray | None = None  # [R] str; None for recommendation

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: slice | np.ndarray) -> Phase:
        queries = None if self.queries is None else self.queries[rows]
        return Phase(self.ids[rows], self.histories.take(rows), self.relevant.take(rows), queries)


@dataclass(frozen=True)
class Split:
    train: Phase
    train_and_validation: Phase
    validation: Phase
    test: Phase
    notes: tuple[str, ...] = ()  # what a reader must know: ties, cold targets, users without a request
    retriever: Retriever | None = None  # the first stage whose hard negatives training may ask for

    def with_validation_in_train(self) -> Split:
        """For refitting before the test: training goes on to where the test histories end."""
        return replace(self, train=self.train_and_validation)

    def negatives(
        self,
        catalog: Catalog,
        hard_share: float,
        top_k: int | None = None,
        margin: float | None = None,
        retriever: Retriever | None = None,
        asked: Phase | None = None,
        with_new: bool = True,
    ) -> TrainingNegatives:
        """Negatives for training rows, or for those of `asked`; the hard ones of a first stage that is fit on the
        training part alone.

        `retriever` None is the candidates' own. Hard ones are among its `top_k` (None: 100) best; for queries they are
        mined here, once, with `margin`, see `data.mining`. Where there are users there is no margin: what was not
        taken is not known to be like what was. `with_new=False`, of users: never an item that nobody took in
        training, which would teach that what is new is not wanted; this tells nothing of what is taken later.
        """
        from data.mining import mine
        from data.negatives import HARD, TrainingNegatives, relevant_by_text

        fitted, mined = None, None
        asked = self.train if asked is None else asked
        if asked.queries is not None:
            asked = replace(asked, histories=relevant_by_text(asked, catalog))
        if hard_share:
            fitted = copy.copy(retriever or self.retriever)  # the candidates' own may know validation items
            if fitted is None:
                raise UserError("there is no first stage to take hard negatives from; use random negatives")
            fitted.check(self.train.queries)
            fitted.fit(catalog, self.train)
            if asked.queries is not None:
                mined = mine(fitted, asked, len(catalog), HARD if top_k is None else top_k, margin)
        new = None if with_new else np.setdiff1d(np.arange(len(catalog)), self.train.histories.values)
        return TrainingNegatives(asked.histories, len(catalog), fitted, hard_share, top_k, mined, new)


@dataclass
class LeaveOneOut:
    """Users with fewer than three interactions are trained on and never asked about."""

    def split(self, dataset: Dataset) -> Split:
        check_users(dataset)
        sequences = dataset.sequences
        length = sequences.lengths
        users = np.arange(len(sequences))
        asked = users[length >= 3]
        zero = np.zeros(len(asked), dtype=np.int64)
        n = length[asked]
        held_out = np.where(length >= 3, 1, 0)
        timestamp = Ragged(dataset.interactions.timestamp, sequences.offsets)
        last = timestamp.offsets[asked + 1] - 1
        tied = (timestamp.values[last] == timestamp.values[last - 1]).sum()
        notes = ["the data has no timestamps; the file's order decides"]
        if dataset.timed:
            who = f"{tied:,} of {len(asked):,} users have equal timestamps at the test boundary"
            notes = [f"{who}; the file's order decides"]
        if len(asked) < len(users):
            notes.append(f"{len(users) - len(asked):,} users with fewer than 3 interactions are in training only")
        return _finish(
            Split(
                train=_phase(users, sequences.part(users, np.zeros_like(users), length - 2 * held_out), None),
                train_and_validation=_phase(
                    users, sequences.part(users, np.zeros_like(users), length - held_out), None
                ),
                validation=_phase(asked, sequences.part(asked, zero, n - 2), sequences.part(asked, n - 2, n - 1)),
                test=_phase(asked, sequences.part(asked, zero, n - 1), sequences.part(asked, n - 1, n)),
            ),
            dataset,
            notes,
        )


@dataclass
class Temporal:
    """Training ends at one moment for all users, validation at a later one; the rest is test.

    A request is a user with an item on both sides of the moment. `target="first"`: the next item is relevant;
    `"all"`: every item of the period is.
    """

    validation_share: float = 0.1  # of all interactions, by time
    test_share: float = 0.1
    target: str = "first"

    def __post_init__(self) -> None:
        for name in ("validation_share", "test_share"):
            if not 0 < getattr(self, name) < 0.5:
                raise UserError(f"protocol.split.{name}={getattr(self, name)} is out of range; it must be in (0, 0.5)")
        if self.target not in ("first", "all"):
            raise UserError(f"protocol.split.target={self.target} is not allowed; choose first or all")

    def split(self, dataset: Dataset) -> Split:
        check_users(dataset)
        if not dataset.timed:
            raise UserError(f"dataset {dataset.name} has no timestamps to cut at; use protocol=leave_one_out")
        sequences, timestamp = dataset.sequences, dataset.interactions.timestamp
        ordered = np.sort(timestamp)
        n = len(ordered)
        test_from = ordered[min(int(n * (1 - self.test_share)), n - 1)]
        valid_from = ordered[min(int(n * (1 - self.test_share - self.validation_share)), n - 1)]
        row = sequences.row_of_value

        def count_before(moment: int) -> np.ndarray:
            return np.bincount(row[timestamp < moment], minlength=len(sequences))

        users, before_valid, before_test = (
            np.arange(len(sequences)),
            count_before(valid_from),
            count_before(test_from),
        )
        zero = np.zeros_like(users)

        def phase(start: np.ndarray, stop: np.ndarray) -> Phase:
            asked = users[(start > 0) & (stop > start)]
            end = stop[asked] if self.target == "all" else start[asked] + 1
            return _phase(
                asked,
                sequences.part(asked, zero[asked], start[asked]),
                sequences.part(asked, start[asked], end),
            )

        split = Split(
            train=_phase(users, sequences.part(users, zero, before_valid), None),
            train_and_validation=_phase(users, sequences.part(users, zero, before_test), None),
            validation=phase(before_valid, before_test),
            test=phase(before_test, sequences.lengths),
        )
        ends = [shown(int(moment)) for moment in (valid_from, test_from)]
        notes = [
            f"training ends at {ends[0]}, validation at {ends[1]}; {len(split.test):,} of {len(users):,} users "
            "have items before and after the test's start"
        ]
        return _finish(split, dataset, notes)


def shown(moment: int) -> str:
    """The number itself where it is no second of the years 1 to 9999, as milliseconds are not."""
    if YEAR_1 <= moment < YEAR_10000:
        return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
    return f"timestamp {moment} (no seconds since 1970)"


def check_users(dataset: Dataset) -> None:
    if dataset.queries is not None:
        raise UserError(
            f"dataset {dataset.name} has queries, not users; use protocol=query_folds candidates/retriever=bm25"
        )


def _phase(ids: np.ndarray, histories: Ragged, relevant: Ragged | None) -> Phase:
    return Phase(ids.astype(np.int64), histories, relevant if relevant is not None else Ragged.empty(len(ids)))


def _finish(split: Split, dataset: Dataset, notes: list[str]) -> Split:
    for name in ("validation", "test"):
        if len(getattr(split, name).ids) == 0:
            raise UserError(f"dataset {dataset.name} leaves no {name} request; it needs users with more interactions")
    trained = np.zeros(len(dataset.catalog), dtype=bool)
    trained[split.train.histories.values] = True
    cold = int((~trained[split.test.relevant.values]).sum())
    if cold:
        notes.append(f"{cold:,} of {len(split.test.relevant.values):,} test targets never occur in training")
    return replace(split, notes=tuple(notes))
