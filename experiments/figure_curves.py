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
    there = [one for one in panel.methods if one.own]
    trained = [one for one in there if any(logged(run, panel.metric) for run in trainings(one))]
    if not trained:
        return "no run has logged a loss or a validation metric while it trained (trainer.logging_steps=1 logs all)"
    names = list(dict.fromkeys(one.reranker for one in trained))
    drawing = canvas(panel.titled("Training loss and validation"), panel.small_print)
    shown: dict[str, Any] = {}
    said, columns = [], grid(drawing, len(names))
    for i, (name, (upper, lower)) in enumerate(zip(names, columns, strict=True)):
        rows = [one for one in trained if one.reranker == name]
        shown |= losses(upper, rows)
        for one in rows:
            if (drawn := validation(lower, one, panel.metric)) is not None:
                shown.setdefault(one.label, drawn)
        if not lower.lines:
            lower.text(0.5, 0.5, "no validation\nduring training", transform=lower.transAxes, ha="center", va="center")
        lower.axhline(panel.chance_level(panel.metric), **CHANCE, label="chance")
        lower.set_xlabel("epoch")
        if i % ACROSS == 0:
            lower.set_ylabel(f"validation {display(panel.metric)}")
        if len(names) == 1:
            upper.set_xlabel("epoch")
        else:
            upper.set_title(name, loc="left", fontweight="bold")
        last = max((x for axes in (upper, lower) for line in axes.lines for x in epochs(line)), default=1.0)
        for axes in (upper, lower):
            axes.set_xlim(0, 1.03 * last)
        said += falls(name, rows)
    top = max(lower.get_ylim()[1] for _, lower in columns)
    for _, lower in columns:
        lower.set_ylim(0, top)  # metrics compare
    from matplotlib.lines import Line2D

    titled = len(names) > 1 and [one.label for one in trained] == names  # the panels' titles name the rows
    told = {} if titled else shown
    told["chance (of validation: that of the test)"] = Line2D([], [], **CHANCE)
    legend(drawing, list(told.values()), list(told), 30 if len(told) > 1 else 22)
    caption = f"Training loss of {listed(names)} over epochs beside the loss of a model that knows nothing, and "
    caption += f"validation {display(panel.metric)} beside chance ({panel.chance_level(panel.metric):.3f})"
    return [Figure(panel.figure_name("curves"), "; ".join([caption, *said]) + ".", drawing)]


def grid(drawing: Any, n: int) -> list[tuple[Any, Any]]:
    """Axes of loss and validation for n rerankers: beside each other for one, else one above the other."""
    if n == 1:
        drawing.set_figheight(3.0)
        return [tuple(drawing.subplots(1, 2))]
    down = -(-n // ACROSS)
    drawing.set_figheight(1.2 + 3.1 * down)
    axes = drawing.subplots(2 * down, min(n, ACROSS), squeeze=False)
    out = [(axes[2 * row][column], axes[2 * row + 1][column]) for row in range(down) for column in range(len(axes[0]))]
    for pair in out[n:]:
        for one in pair:
            one.remove()
    return out[:n]


def epochs(line: Any) -> list[float]:
    """Nothing of chance, which is drawn across."""
    return [] if line.get_label() == "chance" else [float(x) for x in line.get_xdata()]


def trainings(one: Series) -> list[Finished]:
    """The runs that trained: of folds that were pooled, those of the folds, if they are still there."""
    out = []
    for run in one.runs:
        folds = [run.folder.parent / name for name in run.manifest.get("folds", {})]
        out += [Finished(folder, folder.name) for folder in folds if (folder / "manifest.json").exists()] or [run]
    return out


def logged(run: Finished, metric: str) -> bool:
    return loss_of(run)[0] is not None or curve(run.curves, f"valid_{metric}") is not None


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


def losses(axes: Any, rows: list[Series]) -> dict[str, Any]:
    """One line a training, smoothed; the values themselves faintly. Returns a handle of each row for the legend."""
    shown: dict[str, Any] = {}
    levels: set[float] = set()
    ends: list[float] = []
    what = "loss"
    for one in rows:
        for run in trainings(one):
            loss, chance = loss_of(run)
            if loss is None:
                continue
            line = smoothed(loss)
            if line is not loss.value and len(rows) <= 3:
                axes.plot(loss.epoch, loss.value, color=one.look.color, linewidth=0.5, alpha=0.25)
            (drawn,) = axes.plot(loss.epoch, line, **one.look.plot | {"linewidth": 1.1}, label=one.label)
            if len(loss.value) == 1:
                drawn.set_marker(one.look.marker)
            shown.setdefault(one.label, drawn)
            levels |= set() if chance is None else {chance}
            ends += [value for value in line if np.isfinite(value)]
            what = loss.name.removeprefix("train_").replace("_", " ")
    for chance in sorted(levels):
        axes.axhline(chance, **CHANCE, label="chance")
    if ends:
        low, high = (float(np.quantile([*ends, *levels], end)) for end in (0, 0.98))
        high = max(high, *levels, low + 1e-6)
        axes.set_ylim(low - 0.08 * (high - low), high + 0.12 * (high - low))  # a loss that diverges leaves the panel
    else:
        axes.text(0.5, 0.5, "no loss\nwas logged", transform=axes.transAxes, ha="center", va="center")
    axes.set_ylabel(f"training {what}")
    return shown


def validation(axes: Any, one: Series, metric: str) -> Any:
    """One line a training; returns a handle for the legend, None without any."""
    drawn = None
    for run in trainings(one):
        if (seen := curve(run.curves, f"valid_{metric}")) is not None:
            marker = one.look.marker if len(seen.value) <= 12 else ""
            look = one.look.plot | {"linewidth": 1.1, "marker": marker, "markersize": 3}
            (drawn,) = axes.plot(seen.epoch, seen.value, **look, label=one.label)
    return drawn


def falls(name: str, rows: list[Series]) -> list[str]:
    """How the loss ended, over rows and seeds; nothing without a loss."""
    found = [loss_of(run) for one in rows for run in trainings(one)]
    ends = [loss.ends[1] for loss, _ in found if loss is not None]
    if not ends:
        return []
    level = next((chance for loss, chance in found if chance is not None and loss is not None), None)
    span = f"{min(ends):.2f}" if max(ends) - min(ends) < 0.005 else f"{min(ends):.2f} to {max(ends):.2f}"
    return [f"the loss of {name} ends at {span}" + (f" (chance {level:.2f})" if level is not None else "")]
