"""Figure `slices`: the metric by the length of the history and by the popularity of the relevant item.

Bins are quantiles of the test requests, the same for every row.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from experiments.figure_rows import Panel, Series, listed
from experiments.figure_style import CHANCE, Figure, canvas, legend
from experiments.metrics import display
from experiments.significance import bootstrap_interval
from experiments.table import BOUND

BINS, LEAST = 5, 20  # and requests in a bin, where there are so many
SPREAD = 0.5  # of the points of a bin, where 1 is from one bin to the next
DIGITS = 3  # of a bin's edges that are no whole numbers
SLICES = {"history_length": "length of the history", "target_popularity": "training interactions of the relevant item"}


def draw(panel: Panel) -> list[Figure] | str:
    there = [name for name in SLICES if name in panel.requests and panel.requests[name].notna().any()]
    binned = {name: bins(panel.requests[name].to_numpy(dtype=np.float64)) for name in there}
    binned = {name: found for name, found in binned.items() if len(found) > 1}
    if not binned:
        missing = [name for name in SLICES if name not in panel.requests]
        return f"the runs do not record {listed(missing)}" if missing else "all requests are alike"
    metric = panel.metric
    drawing = canvas(panel.titled(f"{display(metric)} by kind of request"), panel.small_print, 3.5)
    grid: Any = drawing.subplots(1, len(binned), squeeze=False, sharey=True)[0]
    full = panel.highlighted()
    rows = [one for one in panel.series if one.kind != BOUND and one.reranker != "random"]
    rows = [one for one in rows if one in full or one not in panel.methods]
    marked = [one for one in rows if one.look.marker]  # they stand beside each other around the tick
    of_rows = {one.label: panel.per_request(one, [metric])[:, 0] for one in rows}
    name, _, k = metric.partition("_at_")
    chance = panel.chance([name], [int(k)])
    handles: dict[str, Any] = {}
    for axes, (what, found) in zip(grid, binned.items(), strict=True):
        for one in rows:
            shift = SPREAD * ((marked.index(one) + 0.5) / len(marked) - 0.5) if one in marked else 0.0
            handles[one.label] = draw_row(axes, one, of_rows[one.label], found, shift, panel)
        if chance is not None:
            level = [float(chance.mean[metric][members].mean()) for _, members in found]
            (handles["chance"],) = axes.plot(range(len(found)), level, **CHANCE, label="chance")
        axes.set_xticks(range(len(found)), [f"{label}\nn = {len(members):,}" for label, members in found])
        axes.set_xlabel(SLICES[what])
    grid[0].set_ylabel(display(metric))
    grid[0].set_ylim(0)
    legend(drawing, list(handles.values()), list(handles), 20 if len(binned) > 1 else 30)
    said = [sentence(what, found, of_rows, full or rows) for what, found in binned.items()]
    left = f"; {len(panel.methods) - len(full)} rows that validation did not choose are left out" * (
        len(full) < len(panel.methods)
    )
    caption = f"Test {display(metric)} with 95 % bootstrap intervals over the requests of a bin"
    return [Figure(panel.figure_name("slices"), f"{caption}: {'; '.join(said)}{left}.", drawing)]


def bins(values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(label, rows) of at most `BINS` quantile bins [R] values; equal values share a bin, NaN is in none."""
    known = np.flatnonzero(np.isfinite(values))
    n = max(1, min(BINS, len(known) // LEAST))
    uppers = np.unique(np.quantile(values[known], np.arange(1, n + 1) / n, method="lower"))  # known is not empty
    place = np.searchsorted(uppers, values[known])
    members = [known[place == index] for index in range(len(uppers))]
    edges = printed([(float(values[own].min()), float(values[own].max())) for own in members])
    return [(low if low == high else f"{low}–{high}", own) for (low, high), own in zip(edges, members, strict=True)]


def printed(edges: list[tuple[float, float]]) -> list[tuple[str, str]]:
    """Lows and highs of ascending bins with `DIGITS` digits; with more where a high would read like the next low."""
    for digits in range(DIGITS, 18):
        out = [(rounded(low, digits), rounded(high, digits)) for low, high in edges]
        if all(high != low for (_, high), (low, _) in itertools.pairwise(out)):
            break
    return out


def rounded(value: float, digits: int) -> str:
    """Without an exponent or zeros at the end; whole numbers stay as they are."""
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value))))) if value else 0
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def draw_row(axes: Any, one: Series, values: np.ndarray, found: list[Any], shift: float, panel: Panel) -> Any:
    """Points beside each other, joined by a thin line; baselines without intervals."""
    x = np.arange(len(found)) + shift
    mean = np.array([values[members].mean() for _, members in found])
    if one.look.marker:
        ends = np.array([bootstrap_interval(values[members], panel.seed) for _, members in found])  # [bins, 2]
        axes.vlines(x, ends[:, 0], ends[:, 1], color=one.look.color, linewidth=1.0, alpha=0.8)
    (drawn,) = axes.plot(x, mean, **one.look.plot | {"linewidth": 1.1}, marker=one.look.marker, label=one.label)
    return drawn


def sentence(what: str, found: list[Any], of_rows: dict[str, np.ndarray], full: list[Series]) -> str:
    """From the first bin to the last, of the row that is best overall."""
    best = max(full, key=lambda one: float(of_rows[one.label].mean()))
    first, last = (float(of_rows[best.label][found[place][1]].mean()) for place in (0, -1))
    ends = f"from {first:.3f} at {found[0][0]} to {last:.3f} at {found[-1][0]}"
    return f"by {SLICES[what]} {best.label} goes {ends}"
