"""The rows of one block of a table: chance, baselines, methods with what stands beside them, ceilings."""

from __future__ import annotations

import numpy as np

from data.errors import UserError
from experiments.collect import Finished
from experiments.grouping import Block, Group
from experiments.summary import prior
from experiments.table import BASELINE, BOUND, CHANCE, METHOD, VARIANT, Cell, Column, Row

BASELINES = ("popularity", "first_stage", "random")


def rows_of(block: Block, index: int, names: list[str], costs: list[str], common: list[str], stage: str) -> list[Row]:
    first = block.first
    own = {group.first.reranker for group in block.groups}
    order = first.per_request["request"].to_numpy()

    def reference(key: str, label: str, kind: str) -> list[Row]:
        if f"test/{key}/{names[0]}" not in first.metrics:
            return []
        row = Row(label, kind)
        for name in names:
            value = first.metrics[f"test/{key}/{name}"]
            at_chance = kind == BASELINE and is_at_chance(first, name, value)
            row.cells[Column(index, name)] = Cell((value,), (first.name,), at_chance=at_chance)
        if all(f"{key}/{name}" in first.per_request for name in names):
            row.per_request[index] = np.stack([first.per_request[f"{key}/{name}"] for name in names], axis=1)
        return [row]

    out = reference("chance", "chance", CHANCE)
    if "popularity" not in own:
        out += reference("popularity", prior(first.manifest), BASELINE)
    if "first_stage" not in own:
        out += reference("first_stage", stage, BASELINE)
    for group in block.groups:
        kind = BASELINE if group.first.reranker in BASELINES else METHOD
        label = {"first_stage": stage, "popularity": prior(first.manifest)}.get(group.label, group.label)
        out.append(method(group, label, index, names, costs, kind, common, order))
        for key, what in (("untuned", f"{label}, before training"), ("fused", f"{label} + first stage")):
            if all(f"test/{key}/{names[0]}" in run.metrics for run in group.runs):
                out.append(beside(group, index, names, key, what, BASELINE if kind == BASELINE else VARIANT, order))
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
        if not np.isfinite(values).all():
            raise UserError(f"{group.label} has no number for {name}; leave its runs out with runs=")
        at_chance = is_at_chance(group.first, name, float(np.mean(values)), len({*values}))
        row.cells[Column(index, name)] = Cell(values, runs, at_chance=at_chance)
    for key in costs:
        known = [run.cost[key] for run in group.runs if not run.cost.get("made_elsewhere")]
        if kind == BASELINE and key in ("training_seconds", "trainable_parameters", "total_parameters"):
            continue  # nothing was trained
        if known:
            row.cells[Column(index, key, cost=True)] = Cell((float(np.mean(known)),), runs)
    notes = [note for run in group.runs for note in run.manifest["labels"] if note not in common]
    if len({str(run.environment.get("code_sha256")) for run in group.runs}) > 1:
        notes.append("its runs were made by several versions of the code")
    row.notes = list(dict.fromkeys(notes))
    return row


def is_at_chance(run: Finished, metric: str, value: float, n: int = 1) -> bool:
    """Inside the 95 % interval of the mean of `n` random orders, where that has a width."""
    low, middle, high = (run.metrics[f"test/{name}/{metric}"] for name in ("chance_low", "chance", "chance_high"))
    ends = middle - (middle - low) / np.sqrt(n), middle + (high - middle) / np.sqrt(n)
    return bool(low < high - 1e-12 and ends[0] <= value <= ends[1])


def beside(group: Group, index: int, names: list[str], key: str, label: str, kind: str, order: np.ndarray) -> Row:
    """A further row that each run of a group has: the model before its training, or fused with the first stage."""
    row = Row(label, kind)
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
