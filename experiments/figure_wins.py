"""Figure `wins`: the metric of two rows, request by request: how many each wins, and by how much."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.figure_rows import Panel
from experiments.figure_style import Figure, canvas, legend
from experiments.metrics import display
from experiments.significance import compare

EQUAL = 1e-12  # a smaller difference is none


def draw(panel: Panel, a: str | None = None, b: str | None = None) -> list[Figure] | str:
    """`a` and `b`: labels or rerankers' names; None: the best method (of several by validation), the first stage."""
    if a is None and not panel.methods:
        return "there is no method to compare; choose two rows with a= and b="
    one = panel.named(a, "a") if a is not None else max(panel.methods, key=panel.rank)
    other = panel.named(b or "first_stage", "b")
    if one is other:
        return f"a and b are the same row, {one.label}"
    metric = panel.metric
    difference = (panel.per_request(one, [metric]) - panel.per_request(other, [metric]))[:, 0]
    ordered = np.sort(difference)[::-1]
    n, wins, losses = len(ordered), int((ordered > EQUAL).sum()), int((ordered < -EQUAL).sum())
    found = compare(difference, np.zeros(n), panel.seed)
    drawing = canvas(panel.titled("Wins and losses, request by request"), panel.small_print, 3.2)
    axes: Any = drawing.subplots()
    edges = np.arange(n + 1)
    second = "#bdbdbd" if other.look.color != one.look.color and not other.look.marker else other.look.color
    looks = [(ordered > EQUAL, one.look.color, ""), (ordered < -EQUAL, second, "////")]
    handles, labels = [], [f"{one.label} better: {share(wins, n)}", f"{other.label} better: {share(losses, n)}"]
    for where, color, hatch in looks:
        height = np.where(where, ordered, 0)
        handles.append(axes.stairs(height, edges, fill=True, facecolor=color, edgecolor="white" if hatch else color,
                                   hatch=hatch, linewidth=0))  # fmt: skip
    axes.axhline(0, color="#222222", linewidth=0.6)
    handles.append(axes.axhline(found.difference, color="#222222", linestyle=(0, (5, 1.5)), linewidth=1.1))
    axes.axhspan(found.low, found.high, color="#222222", alpha=0.12, linewidth=0)
    from matplotlib.patches import Patch

    handles.insert(2, Patch(facecolor="none", edgecolor="none"))
    labels += [f"equal: {share(n - wins - losses, n)}", f"mean {found.difference:+.3f} [{found.low:+.3f}, "
               f"{found.high:+.3f}], 95 % interval"]  # fmt: skip
    axes.set_xlim(0, n)
    axes.set_xlabel("test requests, sorted by the difference")
    axes.set_ylabel(f"difference of {display(metric)}")
    legend(drawing, handles, labels)
    caption = f"{display(metric)} of {one.label} minus that of {other.label} for each of {n:,} requests, sorted: "
    caption += f"{wins:,} wins, {n - wins - losses:,} equal, {losses:,} losses, mean {found.difference:+.4f} "
    caption += f"[{found.low:+.4f}, {found.high:+.4f}]."
    return [Figure(panel.figure_name("wins"), caption, drawing)]


def share(count: int, n: int) -> str:
    return f"{count:,} ({count / n:.0%})"
