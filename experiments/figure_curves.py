"""Figure `curves`: training loss with the loss of chance, and the validation metric with its chance, over epochs.

Losses of two rerankers do not compare (over items, over candidates, of pairs), so each reranker has its own panel;
validation metrics do, and share an axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.collect import Finished
from experiments.evidence import curve, is_part
from experiments.figure_rows import Panel, Series, listed
from experiments.figure_style import CHANCE, Figure, canvas, legend
from experiments.metrics import display
from experiments.training_checks import Curve

ACROSS = 3  # panels in a row
CHANCE_CURVES = ("train_letter_loss", "train_sequential_loss", "train_loss")  # of runs that do not say which


def draw(panel: Panel) -> list[Figure] | str:
    trained = [one for one in panel.methods if one.own and any(loss_of(run)[0] is not None for run in one.runs)]
    if not trained:
        return "no run has logged a training loss"
    names = list(dict.fromkeys(one.reranker for one in trained))
    across = min(len(names), ACROSS)
    down = -(-len(names) // ACROSS)
    drawing = canvas(panel.titled("Training loss and validation"), panel.small_print, 1.2 + 3.1 * down)
    if len(names) == 1:
        drawing.set_figheight(3.0)
        grid: Any = drawing.subplots(1, 2, squeeze=False).reshape(2, 1, 1)
    else:
        grid = drawing.subplots(2 * down, across, squeeze=False, sharex="none").reshape(down, 2, across)
        grid = grid.transpose(1, 0, 2).reshape(2, 1, down * across)
    shown: dict[str, Any] = {}
    metric, said = panel.metric, []
    top = 0.0
    for i, axes in enumerate(grid[0, 0]):
        below = grid[1, 0, i]
        if i >= len(names):
            axes.set_visible(False)
            below.set_visible(False)
            continue
        rows = [one for one in trained if one.reranker == names[i]]
        shown |= losses(axes, names[i], rows, shown)
        said.append(falls(names[i], rows))
        seen = [validation(below, one, metric) for one in rows]
        level = panel.chance_level(metric)
        below.axhline(level, **CHANCE)
        below.set_xlabel("epoch")
        if i % across == 0 or len(names) == 1:
            below.set_ylabel(f"validation {display(metric)}")
        if not any(seen):
            below.text(0.5, 0.5, "no validation\nduring training", transform=below.transAxes, ha="center", va="center")
        top = max(top, below.get_ylim()[1])
        if len(names) > 1:
            below.sharex(axes)
            axes.set_title(names[i], loc="left", fontweight="bold")
        else:
            axes.set_xlabel("epoch")
    for below in grid[1, 0]:
        below.set_ylim(0, top)  # metrics compare
    from matplotlib.lines import Line2D

    shown["chance (validation: of the test)"] = Line2D([], [], **CHANCE)
    told = list(shown) if len(trained) > len(names) else list(shown)[-1:]  # else the panels' titles name the rows
    legend(drawing, [shown[label] for label in told], told, 22)
    caption = f"Training loss of {listed(names)} over epochs beside the loss of a model that knows nothing, and "
    caption += f"validation {display(metric)} beside chance ({panel.chance_level(metric):.3f}): {'; '.join(said)}."
    return [Figure(panel.figure_name("curves"), caption, drawing)]


def loss_of(run: Finished) -> tuple[Curve | None, float | None]:
    """The loss to look at and the value that knowing nothing gives it; the value is None where it is not known."""
    for name, value in (run.manifest.get("chance_loss") or {}).items():
        if (found := curve(run.curves, name)) is not None:
            return found, value
    chance = next((point["value"] for point in run.curves if point["name"] == "chance_loss"), None)
    found = next((c for c in (curve(run.curves, name) for name in CHANCE_CURVES) if c is not None), None)
    if found is not None and found.name == "train_loss" and any(is_part(point["name"]) for point in run.curves):
        chance = None  # a sum of several tasks
    return found, chance


def smoothed(loss: Curve) -> np.ndarray:
    """Mean over a twentieth of the curve around each point; the window is cut at the ends."""
    value, half = loss.value, len(loss.value) // 40
    if half == 0:
        return value
    total = np.cumsum(np.concatenate([[0.0], value]))
    place = np.arange(len(value))
    low, high = np.maximum(place - half, 0), np.minimum(place + half + 1, len(value))
    return (total[high] - total[low]) / (high - low)


def losses(axes: Any, name: str, rows: list[Series], shown: dict[str, Any]) -> dict[str, Any]:
    """One line a seed. Returns what the legend says."""
    new: dict[str, Any] = {}
    levels: set[float] = set()
    ends: list[float] = []
    for one in rows:
        for run in one.runs:
            loss, chance = loss_of(run)
            if loss is None:
                continue
            line = smoothed(loss)
            if line is not loss.value and len(rows) <= 3:
                axes.plot(loss.epoch, loss.value, color=one.look.color, linewidth=0.5, alpha=0.25, gid="raw")
            (drawn,) = axes.plot(loss.epoch, line, **one.look.plot | {"linewidth": 1.1}, label=one.label)
            if len(loss.value) == 1:
                drawn.set_marker(one.look.marker)
            if one.label not in shown:
                new[one.label] = drawn
            levels |= set() if chance is None else {chance}
            ends += [value for value in line if np.isfinite(value)]
    for chance in sorted(levels):
        axes.axhline(chance, **CHANCE, label="chance")
    if ends:
        low, high = (float(np.quantile([*ends, *levels], end)) for end in (0, 0.98))
        high = max(high, *levels, low + 1e-6)
        axes.set_ylim(low - 0.08 * (high - low), high + 0.12 * (high - low))  # a loss that diverges leaves the panel
    first = next(loss for loss, _ in map(loss_of, rows[0].runs) if loss is not None)
    what = first.name.removeprefix("train_").replace("_", " ")
    axes.set_ylabel("training loss" if what == "loss" else f"training {what}")
    return new


def validation(axes: Any, one: Series, metric: str) -> bool:
    """One line a seed."""
    found = False
    for run in one.runs:
        if (seen := curve(run.curves, f"valid_{metric}")) is not None:
            few = one.look.marker if len(seen.value) <= 12 else ""
            axes.plot(seen.epoch, seen.value, **one.look.plot | {"linewidth": 1.1}, marker=few, markersize=3)
            found = True
    return found


def falls(name: str, rows: list[Series]) -> str:
    """How the loss ended, over rows and seeds."""
    ends, level = [], None
    for run in (run for one in rows for run in one.runs):
        loss, chance = loss_of(run)
        if loss is not None:
            ends.append(loss.ends[1])
            level = chance if chance is not None else level
    span = f"{min(ends):.2f}" if max(ends) - min(ends) < 0.005 else f"{min(ends):.2f} to {max(ends):.2f}"
    return f"the loss of {name} ends at {span}" + (f" (chance {level:.2f})" if level is not None else "")
