"""What all figures draw: the rows of each block with their runs, looks and values, and chance on the same requests.

The rows are those of a table (`experiments.table`), without its tests; values are means over a row's seeds, request by
request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import UserError
from experiments.chance import Chance
from experiments.chance import chance as chance_of
from experiments.collect import Finished, Selection
from experiments.figure_style import CEILING, GREY, LINES, Look, looks, shade
from experiments.grouping import Block, Group, blocks_of, plain
from experiments.grouping import label as label_of
from experiments.metrics import Ranks, display
from experiments.summary import prior
from experiments.table import BASELINE, BOUND, METHOD
from experiments.table_building import first_stage, is_untrained
from experiments.table_rows import BASELINES, averaged

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 5  # methods that are drawn in full; of more, the best of each reranker


@dataclass(frozen=True)
class Series:
    """One row of one block. `prefix` is that of its columns: a reference row stands in another run's files."""

    label: str
    kind: str
    reranker: str
    prefix: str
    runs: list[Finished]
    look: Look
    values: dict[str, Any]  # config key -> value, of what tells it from other rows of its reranker
    own: bool  # the runs are this row's own, so their cost is too

    def means(self, metric: str) -> list[float]:
        """One value a seed."""
        return [run.metrics[f"test/{self.prefix}{metric}"] for run in self.runs]

    def mean(self, metric: str) -> float:
        return float(np.mean(self.means(metric)))

    def validation(self, metric: str) -> float | None:
        """Mean over the seeds; None where it was not measured, as of fused rows."""
        found = [run.metrics.get(f"valid/{metric}") for run in self.runs]
        known = [value for value in found if value is not None]
        return float(np.mean(known)) if len(known) == len(found) and self.own else None


@dataclass(frozen=True)
class Panel:
    """One block: one protocol."""

    title: str  # what tells it from other blocks
    block: Block
    series: list[Series]
    metric: str
    small_print: str
    several: bool  # blocks there are

    @property
    def first(self) -> Finished:
        return self.block.first

    @property
    def requests(self) -> pd.DataFrame:
        return self.first.per_request

    @property
    def seed(self) -> int:
        return int(self.first.config.get("candidates.seed") or 0)

    @property
    def methods(self) -> list[Series]:
        return [series for series in self.series if series.kind == METHOD]

    def per_request(self, series: Series, names: list[str]) -> np.ndarray:
        """[R, M] mean over the row's seeds, in the order of `requests`."""
        order = self.requests["request"].to_numpy()
        return averaged(series.runs, [series.prefix + name for name in names], order)

    def has(self, series: Series, name: str) -> bool:
        return all(series.prefix + name in run.per_request for run in series.runs)

    def chance(self, names: list[str], ks: list[int]) -> Chance | None:
        """Of each request, exactly; None where a run is too old to say how many candidates there were."""
        if not {"n_candidates", "found", "n_relevant"} <= {*self.requests.columns}:
            return None
        n, found, relevant = (self.requests[name].to_numpy() for name in ("n_candidates", "found", "n_relevant"))
        row = np.repeat(np.arange(len(found)), found)
        none = np.zeros(len(row))
        return chance_of(Ranks(row, none, none == 0, none > 0, n, relevant), names, ks)

    def chance_level(self, metric: str) -> float:
        return float(self.first.metrics[f"test/chance/{metric}"])

    def figure_name(self, name: str) -> str:
        """Of a file: the block's values are added where there are several."""
        values = [f"{key.rpartition('.')[2]}-{value}" for key, value in self.block.values.items()]
        return "-".join([name, *values]).replace("/", "_").replace(" ", "_") if self.several else name

    def titled(self, title: str) -> str:
        return f"{title}, {self.title}" if self.several else title

    def highlighted(self) -> list[Series]:
        """The methods that are drawn in full: all if they are few, else the best of each reranker by validation (the
        test would choose for itself; it does only where validation was not measured)."""
        if len(self.methods) <= SHOWN:
            return self.methods
        best: dict[str, Series] = {}
        for series in self.methods:
            if series.reranker not in best or self.rank(series) > self.rank(best[series.reranker]):
                best[series.reranker] = series
        return [series for series in self.methods if best[series.reranker] is series]

    def rank(self, series: Series) -> tuple[bool, float]:
        validation = series.validation(self.metric)
        return (series.own, validation if validation is not None else series.mean(self.metric))

    def named(self, name: str, key: str) -> Series:
        """The row of a label or of a reranker's name (of several, the best on validation)."""
        there = [series for series in self.series if series.kind != BOUND]
        exact = [series for series in there if series.label == name]
        found = exact or [series for series in there if series.reranker == name and series.own] or [
            series for series in there if series.reranker == name
        ]  # fmt: skip
        if not found:
            raise UserError(
                f"{key}={name} is no row of these runs; choose of {plain(series.label for series in there)}"
            )
        return max(found, key=self.rank)


def panels_of(
    selection: Selection,
    metric: str | None = None,
    rows: list[str] | None = None,
    columns: list[str] | None = None,
    untrained: bool = False,
) -> list[Panel]:
    """One a block; runs of other protocols are refused as in a table."""
    kept = [run for run in selection.runs if untrained or not is_untrained(run)]
    if not kept:
        reason = "all are untrained, untrained=true shows them" if selection.runs else "; ".join(selection.absent[:1])
        raise UserError(f"{selection.name} has no finished run to show ({reason or 'none was given'})")
    blocks = sorted(blocks_of(replace(selection, runs=kept), rows, columns), key=lambda block: order(block.values))
    primary = metric or blocks[0].first.manifest["primary"]
    there = [name for name in blocks[0].first.manifest["metrics"] if all(f"test/{name}" in r.metrics for r in kept)]
    if primary not in there:
        raise UserError(f"metric={primary} is not a metric of these runs; choose of {', '.join(there)}")
    coloured = looks(run.reranker for run in kept if run.reranker not in BASELINES)
    common = [label for label in kept[0].manifest["labels"] if all(label in run.manifest["labels"] for run in kept)]
    out = []
    for block in blocks:
        title = label_of("", block.values).strip()
        series = [
            one
            for one in series_of(block, coloured)
            if all(f"test/{one.prefix}{primary}" in run.metrics for run in one.runs)  # of some seeds alone: no row
        ]
        absent = [f"incomplete: {len(selection.absent)} jobs have no finished run"] if selection.absent else []
        small = "; ".join([protocol(block), *common, *absent]) + "."
        out.append(Panel(title, block, series, primary, small, len(blocks) > 1))
    return out


def protocol(block: Block) -> str:
    manifest = block.first.manifest
    split = manifest["protocol"]["_target_"].rpartition(".")[2]
    sampled = ", so metrics are sampled" if manifest["candidates"].startswith("sampled") else ""
    n = f"{manifest['n_requests']:,} test requests"
    return f"{manifest['dataset']}, {split}, {n}, {manifest['candidates']}{sampled}"


def series_of(block: Block, coloured: dict[str, tuple[str, str]]) -> list[Series]:
    """Baselines, the methods with what stands beside them (`untuned`, `fused`), and the planted ceiling."""
    first = block.first
    names = [group.first.reranker for group in block.groups]
    own = {*names}

    def grey(name: str) -> Look:
        return Look(*GREY[name], "", 1.2)

    out = []
    references = {"popularity": prior(first.manifest), "first_stage": first_stage([block])}
    for name, label in references.items():
        if name not in own:
            out.append(Series(label, BASELINE, name, f"{name}/", [first], grey(name), {}, False))
    for group in sorted(block.groups, key=lambda group: (names.index(group.first.reranker), order(group.values))):
        name = group.first.reranker
        if name in BASELINES:
            label = group.label if group.values else references.get(name, group.label)
            out.append(Series(label, BASELINE, name, "", group.runs, grey(name), group.values, True))
            continue
        look = look_of(group, block, coloured[name])
        out.append(Series(group.label, METHOD, name, "", group.runs, look, group.values, True))
        beside = {"untuned": f"{group.label}, before training", "fused": f"{group.label} + first stage"}
        for place, (prefix, label) in enumerate(beside.items()):
            other = replace(look, line=(0, ((1.5, 1.5), (4, 1, 1, 1))[place]), width=1.1)
            out.append(Series(label, METHOD, name, f"{prefix}/", group.runs, other, group.values, False))
    return [*out, Series("planted ceiling", BOUND, "planted", "planted/", [first], Look(*CEILING, "", 1.0), {}, False)]


def look_of(group: Group, block: Block, coloured: tuple[str, str]) -> Look:
    """A shade and a line of its reranker's colour, in the order of the values that tell its rows apart."""
    family = [other for other in block.groups if other.first.reranker == group.first.reranker]
    place = [id(other) for other in sorted(family, key=lambda other: order(other.values))].index(id(group))
    return Look(shade(coloured[0], place, len(family)), LINES[place % len(LINES)], coloured[1])


def order(values: dict[str, Any]) -> list[tuple[bool, float, str]]:
    """Rows of a reranker, and blocks, stand in the order of their values, numbers as numbers."""
    return [(not number(v), float(v) if number(v) else 0.0, str(v)) for v in values.values()]


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def listed(labels: list[str], most: int = 4) -> str:
    """`a, b and c`, in a sentence."""
    shown = labels if len(labels) <= most else [*labels[: most - 1], f"{len(labels) - most + 1} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def best_sentence(panel: Panel, metric: str) -> str:
    """Who is highest, beside first stage and chance."""
    best = max(panel.methods or panel.series, key=lambda series: series.mean(metric))
    stage = next((series for series in panel.series if series.reranker == "first_stage"), None)
    beside = [f"{stage.label} {stage.mean(metric):.3f}"] if stage is not None and stage is not best else []
    beside.append(f"chance {panel.chance_level(metric):.3f}")
    return f"highest {display(metric)} is {best.mean(metric):.3f}, of {best.label} ({', '.join(beside)})"
