"""A paper's table, as data: rows of methods beside chance, first stage and ceilings; every cell knows its runs.

A method's value is the mean over its seeds of a run's mean over requests. What is compared is each request's metric
averaged over the seeds, paired with the row `against`; the p-values of a block and a metric are one Holm family.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from data.errors import UserError
from experiments.collect import Finished, Selection
from experiments.grouping import Block, Group, blocks_of, plain
from experiments.metrics import display
from experiments.significance import ALPHA, Comparison, compare_all, holm
from experiments.summary import distinct, prior

FEW = 3  # seeds; with fewer the values themselves are shown
CHANCE, BASELINE, METHOD, BOUND = "chance", "baseline", "method", "bound"  # kinds of rows
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
        return float(np.std(self.values, ddof=1)) if len(self.values) >= FEW else None

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
    def seeds(self) -> int:
        return max((len({run.seed for run in runs}) for runs in self.runs.values()), default=0)


@dataclass(frozen=True)
class Table:
    name: str
    blocks: list[Block]
    columns: list[Column]
    rows: list[Row]
    against: str  # label of a row
    primary: str
    labels: list[str]  # of all runs
    left_out: list[str]  # runs that are finished and not shown, and why
    absent: list[str]  # jobs that are not finished

    @property
    def runs(self) -> list[Finished]:
        return [run for row in self.rows if row.kind == METHOD for runs in row.runs.values() for run in runs]


def build(
    selection: Selection,
    metrics: list[str] | None = None,
    rows: list[str] | None = None,
    columns: list[str] | None = None,
    against: str = "first_stage",
    costs: list[str] | None = None,
    untrained: bool = False,
) -> Table:
    """The table of a selection of runs; a UserError where they do not compare."""
    left_out = [] if untrained else [run.name for run in selection.runs if is_untrained(run)]
    runs = [run for run in selection.runs if run.name not in left_out]
    if not runs:
        why = "; ".join([*(f"{name} is untrained" for name in left_out), *selection.absent[:1]])
        raise UserError(f"{selection.name} has no finished run to show ({why or 'none was given'})")
    shown = Selection(selection.name, runs, selection.absent, selection.swept, selection.columns)
    blocks = blocks_of(shown, rows, columns)
    primary = blocks[0].first.manifest["primary"]
    names = chosen_metrics(blocks, metrics, primary)
    costs = [key for key in COSTS if key != "total_parameters"] if costs is None else costs
    if unknown := [key for key in costs if key not in COSTS]:
        raise UserError(f"costs has {unknown[0]}, which is not recorded; choose of {', '.join(COSTS)}")
    grid = [
        column
        for index in range(len(blocks))
        for column in [*(Column(index, key) for key in names), *(Column(index, key, cost=True) for key in costs)]
    ]
    common = [label for label in runs[0].manifest["labels"] if all(label in run.manifest["labels"] for run in runs)]
    out: dict[str, Row] = {}
    for index, block in enumerate(blocks):
        for row in rows_of(block, index, names, costs, common, first_stage(blocks)):
            known = out.setdefault(row.label, row)
            if known is not row:
                known.cells |= row.cells
                known.runs |= row.runs
                known.per_request |= row.per_request
                known.notes = list(dict.fromkeys([*known.notes, *row.notes]))
    order = {CHANCE: 0, BASELINE: 1, METHOD: 2, BOUND: 3}
    ordered = sorted(out.values(), key=lambda row: order[row.kind])
    reference = named_row(ordered, against)
    for index, block in enumerate(blocks):
        tested(ordered, reference, index, names, block.first.manifest["seed"])
    for column in grid:
        if not column.cost:
            ranked(ordered, column)
    notes = [f"{name}: untrained, shown with untrained=true" for name in left_out]
    return Table(selection.name, blocks, grid, ordered, reference.label, primary, common, notes, selection.absent)


def is_untrained(run: Finished) -> bool:
    return any(label == "untrained" or label.startswith("untrained,") for label in run.manifest["labels"])


def chosen_metrics(blocks: list[Block], asked: list[str] | None, primary: str) -> list[str]:
    """Those asked for; else the primary one alone of several blocks, and of one block the primary at every k with the
    other metrics at its k, but for what equals another metric in every run."""
    there = [name for name in blocks[0].first.manifest["metrics"] if all(has(block, name) for block in blocks)]
    if asked:
        if missing := [name for name in asked if name not in there]:
            raise UserError(f"metrics has {missing[0]}, which these runs do not have; choose of {', '.join(there)}")
        return list(asked)
    if len(blocks) > 1:
        return [primary] if primary in there else there[:1]
    repeated = [set(distinct(group.first.metrics, there)[1]) for group in blocks[0].groups]
    same = set.intersection(*repeated) - {primary}
    name, _, k = primary.partition("_at_")
    family = [one for one in there if one.startswith(f"{name}_at_") or one.endswith(f"_at_{k}")]
    return [one for one in family if one not in same]


def first_stage(blocks: list[Block]) -> str:
    """What its row is called: one row of all blocks, with its name where that is the same everywhere."""
    retrievers = {block.first.manifest["retriever"] for block in blocks}
    return f"first stage ({retrievers.pop()})" if len(retrievers) == 1 else "first stage"


def has(block: Block, metric: str) -> bool:
    return all(f"test/{metric}" in run.metrics for group in block.groups for run in group.runs)


def rows_of(block: Block, index: int, names: list[str], costs: list[str], common: list[str], stage: str) -> list[Row]:
    first = block.first
    own = {group.first.reranker for group in block.groups}
    order = first.per_request["request"].to_numpy()

    def reference(key: str, label: str, kind: str) -> list[Row]:
        if f"test/{key}/{names[0]}" not in first.metrics:
            return []
        row = Row(label, kind)
        row.cells = {
            Column(index, name): Cell((first.metrics[f"test/{key}/{name}"],), (first.name,)) for name in names
        }
        if all(f"{key}/{name}" in first.per_request for name in names):
            row.per_request[index] = np.stack([first.per_request[f"{key}/{name}"] for name in names], axis=1)
        return [row]

    out = reference("chance", "chance", CHANCE)
    if "popularity" not in own:
        out += reference("popularity", prior(first.manifest), BASELINE)
    if "first_stage" not in own:
        out += reference("first_stage", stage, BASELINE)
    for group in block.groups:
        kind = BASELINE if group.first.reranker in ("popularity", "first_stage", "random") else METHOD
        label = {"first_stage": stage, "popularity": prior(first.manifest)}.get(group.label, group.label)
        out += [method(group, label, index, names, costs, kind, common, order)]
        for key, label in (("untuned", f"{group.label}, before training"), ("fused", f"{group.label} + first stage")):
            if f"test/{key}/{names[0]}" in group.first.metrics and group.first.reranker != key:
                out.append(beside(group, index, names, key, label, order))
    return [*out, *reference("planted", "planted ceiling", BOUND), *reference("ceiling", "perfect order", BOUND)]


def method(
    group: Group,
    label: str,
    index: int,
    names: list[str],
    costs: list[str],
    kind: str,
    common: list[str],
    order: np.ndarray,
) -> Row:
    row = Row(label, kind, runs={index: group.runs})
    runs = tuple(run.name for run in group.runs)
    row.per_request[index] = averaged(group.runs, names, order)
    for name in names:
        values = tuple(run.metrics[f"test/{name}"] for run in group.runs)
        low, high = (group.first.metrics[f"test/chance_{end}/{name}"] for end in ("low", "high"))
        at_chance = low < high - 1e-12 and low <= float(np.mean(values)) <= high
        row.cells[Column(index, name)] = Cell(values, runs, at_chance=at_chance)
    for key in costs:
        known = [run.cost[key] for run in group.runs if not run.cost.get("made_elsewhere")]
        if key == "training_seconds" and not any(known):
            continue  # nothing was trained
        if known and (kind == METHOD or not key.endswith("parameters")):
            row.cells[Column(index, key, cost=True)] = Cell((float(np.mean(known)),), runs)
    row.notes = [label for run in group.runs for label in run.manifest["labels"] if label not in common]
    row.notes = list(dict.fromkeys(row.notes))
    return row


def beside(group: Group, index: int, names: list[str], key: str, label: str, order: np.ndarray) -> Row:
    """A further row that each run of a group has: the model before its training, or fused with the first stage."""
    row = Row(label, METHOD)
    row.per_request[index] = averaged(group.runs, [f"{key}/{name}" for name in names], order)
    for name in names:
        values = tuple(run.metrics[f"test/{key}/{name}"] for run in group.runs)
        row.cells[Column(index, name)] = Cell(values, tuple(run.name for run in group.runs))
    return row


def averaged(runs: list[Finished], names: list[str], order: np.ndarray) -> np.ndarray:
    """[R, M] mean over the runs; `order` [R] are the requests, by their names in the source."""
    total = np.zeros((len(order), len(names)))
    for run in runs:
        requests, values = run.columns(names)
        if not np.array_equal(requests, order):
            if len(requests) != len(order) or set(requests) != set(order):
                raise UserError(f"{run.name} has other test requests than the rest; choose runs with runs=")
            place = {request: row for row, request in enumerate(requests)}
            values = values[[place[request] for request in order]]
        total += values
    return total / len(runs)


def named_row(rows: list[Row], against: str) -> Row:
    """The row that `against` names: by label, or by the reranker's name."""
    candidates = [row for row in rows if row.kind in (BASELINE, METHOD) and row.per_request]
    for row in candidates:
        names = {row.label, row.label.partition(" ")[0], *(run.reranker for runs in row.runs.values() for run in runs)}
        if row.label.startswith("first stage"):
            names.add("first_stage")
        if against in names:
            return row
    raise UserError(f"against={against} is no row of the table; choose of {plain(row.label for row in candidates)}")


def tested(rows: list[Row], reference: Row, index: int, names: list[str], seed: int) -> None:
    """Every method and baseline of a block against the reference, metric by metric."""
    if index not in reference.per_request:
        return
    others = [row for row in rows if row is not reference and index in row.per_request and row.kind != BOUND]
    if not others:
        return
    base = reference.per_request[index]
    wrong = [row.label for row in others if len(row.per_request[index]) != len(base)]
    if wrong:
        raise UserError(f"{wrong[0]} and {reference.label} have other test requests; choose runs with runs=")
    differences = np.concatenate([row.per_request[index] - base for row in others], axis=1)  # [R, rows x M]
    found = compare_all(differences, seed)
    for m, name in enumerate(names):
        of_metric = [found[place * len(names) + m] for place in range(len(others))]
        adjusted = holm([one.p_permutation for one in of_metric])
        for row, one, p in zip(others, of_metric, adjusted, strict=True):
            column = Column(index, name)
            row.cells[column] = replace(row.cells[column], comparison=one, p_holm=p)


def ranked(rows: list[Row], column: Column) -> None:
    """Marks the best value and the second best among methods and baselines; equal values share a mark."""
    competing = [row for row in rows if row.kind in (BASELINE, METHOD) and column in row.cells]
    values = sorted({round(row.cells[column].mean, 12) for row in competing}, reverse=True)
    if len(values) < 2:
        return
    for row in competing:
        value = round(row.cells[column].mean, 12)
        row.cells[column] = replace(row.cells[column], best=value == values[0], second=value == values[1])
