"""A paper's table, as data: rows of methods beside chance, first stage and ceilings; every cell knows its runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from experiments.collect import Finished
from experiments.grouping import Block
from experiments.metrics import display
from experiments.significance import ALPHA, Comparison

FEW = 3  # seeds; with fewer the values themselves are shown
CHANCE, BASELINE, METHOD, BOUND = "chance", "baseline", "method", "bound"  # kinds of rows
VARIANT = "variant"  # a further row of a method's runs: before training, or fused with the first stage
COSTS = {
    "trainable_parameters": "trained params",
    "total_parameters": "params",
    "training_seconds": "train s",
    "milliseconds_per_request": "ms/request",
    "peak_memory_mb": "peak MB",
}


@dataclass(frozen=True)
class Cell:
    values: tuple[float, ...]  # one a seed; a row that has none has one value
    runs: tuple[str, ...] = ()
    best: bool = False
    second: bool = False
    at_chance: bool = False  # inside the 95 % interval of a random order
    comparison: Comparison | None = None  # with the row `against`
    p_holm: float | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float | None:
        """Over seeds; 0 of what has no seed. None of fewer seeds than `FEW`."""
        if len(self.values) < FEW:
            return None
        return 0.0 if np.ptp(self.values) < 1e-12 else float(np.std(self.values, ddof=1))

    @property
    def verdict(self) -> int:
        """1: significantly above the row `against`, -1: below, 0: not to be told apart, or not compared."""
        if self.p_holm is None or self.comparison is None or self.p_holm >= ALPHA:
            return 0
        return 1 if self.comparison.difference > 0 else -1


@dataclass(frozen=True)
class Column:
    block: int
    key: str  # a metric or a key of cost.json
    cost: bool = False

    @property
    def title(self) -> str:
        return COSTS[self.key] if self.cost else display(self.key)


@dataclass
class Row:
    label: str
    kind: str
    cells: dict[Column, Cell] = field(default_factory=dict)
    runs: dict[int, list[Finished]] = field(default_factory=dict)  # block -> runs
    per_request: dict[int, np.ndarray] = field(default_factory=dict)  # block -> [R, M], mean over seeds
    notes: list[str] = field(default_factory=list)  # labels that not all runs share

    @property
    def seeds(self) -> dict[int, int]:
        """Block -> how many."""
        return {block: len({run.seed for run in runs}) for block, runs in self.runs.items()}


@dataclass(frozen=True)
class Table:
    name: str
    blocks: list[Block]
    columns: list[Column]
    rows: list[Row]
    against: str  # label of a row
    primary: str
    labels: list[str]  # of all runs, or of all of a block
    left_out: list[str]  # runs that are finished and not shown, and why
    absent: list[str]  # jobs that are not finished

    @property
    def runs(self) -> list[Finished]:
        """Those whose own row the table has, baselines too."""
        return [run for row in self.rows for runs in row.runs.values() for run in runs]
