"""From finished runs to a table: which rows and columns it has, what is tested, what is best.

A method's value is the mean over its seeds of a run's mean over requests. What is compared is each request's metric
averaged over the seeds, paired with the row `against`; the p-values of a block and a metric are one Holm family.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.errors import UserError
from experiments.collect import Finished, Selection
from experiments.grouping import NO_NUMBER, Block, blocks_of, plain
from experiments.significance import compare_all, holm
from experiments.summary import distinct
from experiments.table import BASELINE, BOUND, CHANCE, COSTS, METHOD, VARIANT, Column, Row, Table
from experiments.table_rows import rows_of

ORDER = {CHANCE: 0, BASELINE: 1, METHOD: 2, VARIANT: 2, BOUND: 3}


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
    blocks = blocks_of(replace(selection, runs=runs), rows, columns)
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
    common = [shared_labels(block) for block in blocks]
    labels = [label for label in common[0] if all(label in own for own in common)]
    labels += [f"{block.title}: {label}" for block, own in zip(blocks, common, strict=True) for label in own
               if label not in labels]  # fmt: skip
    if selection.record is None and selection.experiment:
        labels.append("there is no record of the sweep, so what is absent is not known")
    out: dict[str, Row] = {}
    for index, block in enumerate(blocks):
        for row in rows_of(block, index, names, costs, common[index], first_stage(blocks)):
            if len(blocks) > 1:
                row.notes = [f"{block.title}: {note}" for note in row.notes]
            known = out.setdefault(row.label, row)
            if known is not row:
                assert not known.cells.keys() & row.cells.keys()
                known.cells |= row.cells
                known.runs |= row.runs
                known.per_request |= row.per_request
                known.notes = list(dict.fromkeys([*known.notes, *row.notes]))
    for row in out.values():
        row.notes += changed_settings(row)
    ordered = sorted(out.values(), key=lambda row: ORDER[row.kind])
    reference = named_row(ordered, against)
    for index, block in enumerate(blocks):
        tested(ordered, reference, index, names, block.first.manifest["seed"])
    for column in grid:
        if not column.cost:
            ranked(ordered, column)
    notes = [f"{name}: untrained, shown with untrained=true" for name in left_out]
    return Table(selection.name, blocks, grid, ordered, reference.label, primary, labels, notes, selection.absent)


def shared_labels(block: Block) -> list[str]:
    runs = [run for group in block.groups for run in group.runs]
    return [label for label in runs[0].manifest["labels"] if all(label in run.manifest["labels"] for run in runs)]


def changed_settings(row: Row) -> list[str]:
    """What differs between a method's runs of several blocks, beside what the blocks themselves are about."""
    if len(row.runs) < 2 or row.kind != METHOD:
        return []
    configs = [runs[0].config for runs in row.runs.values()]
    differ = [
        key
        for key in dict.fromkeys(key for config in configs for key in config)
        if key.startswith(("reranker.", "trainer."))
        and key.rpartition(".")[2] not in (*NO_NUMBER, "training_candidates")
        and len({str(config.get(key)) for config in configs}) > 1
    ]
    said = [f"{key} {', '.join(str(config.get(key)) for config in configs)}" for key in differ[:3]]
    more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
    return [f"settings differ between the columns: {'; '.join(said)}{more}"] if said else []


def is_untrained(run: Finished) -> bool:
    return any(label == "untrained" or label.startswith("untrained,") for label in run.manifest["labels"])


def chosen_metrics(blocks: list[Block], asked: list[str] | None, primary: str) -> list[str]:
    """Those asked for; else the primary one alone of several blocks, and of one block the primary at every k with the
    other metrics at its k, but for what equals another metric in every run."""
    there = [name for name in blocks[0].first.manifest["metrics"] if all(has(block, name) for block in blocks)]
    if asked:
        asked = [name.lower().replace("@", "_at_").replace(" ", "_") for name in asked]  # Recall@10, as tables have it
        if missing := [name for name in asked if name not in there]:
            raise UserError(f"metrics has {missing[0]}, which these runs do not have; choose of {', '.join(there)}")
        return list(dict.fromkeys(asked))
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


def named_row(rows: list[Row], against: str) -> Row:
    """The row that `against` names: by label, or by the reranker's name."""
    candidates = [row for row in rows if row.kind in (BASELINE, METHOD, VARIANT) and row.per_request]
    named = []
    for row in candidates:
        names = {row.label, row.label.partition(" ")[0], *(run.reranker for runs in row.runs.values() for run in runs)}
        if row.label.startswith("first stage"):
            names.add("first_stage")
        if against == row.label:
            return row
        if against in names:
            named.append(row)
    if len(named) > 1 and all(row.kind == METHOD for row in named):
        raise UserError(f"against={against} is several rows; choose of {plain(row.label for row in named)}")
    if named:
        return named[0]
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
    competing = [row for row in rows if row.kind in (BASELINE, METHOD, VARIANT) and column in row.cells]
    values = sorted({round(row.cells[column].mean, 12) for row in competing}, reverse=True)
    if len(values) < 2:
        return
    for row in competing:
        value = round(row.cells[column].mean, 12)
        row.cells[column] = replace(row.cells[column], best=value == values[0], second=value == values[1])
