"""Figure `sweep`: the metric against each number that was swept: learning rate, epochs, LoRA rank, candidates.

A ring marks what validation chooses; the test does not choose. One figure for each swept key, and one over the blocks
where the blocks themselves differ in a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.figure_rows import Panel, Series, listed, number
from experiments.figure_style import CHANCE, LINES, Figure, Look, canvas, legend, looks, shade
from experiments.grouping import label as label_of
from experiments.grouping import text
from experiments.metrics import display
from experiments.table import FEW, METHOD

CALLED = {"candidates.size": "candidates", "trainer.num_train_epochs": "epochs", "reranker.lora.r": "LoRA rank r"}
SAID = 4  # lines in the caption
LOGARITHMIC = 10  # the largest value over the smallest, from which an axis is logarithmic


@dataclass(frozen=True)
class Line:
    label: str
    look: Look
    points: list[tuple[float, Series]]  # by x, each of its own runs


def draw(panels: list[Panel]) -> list[Figure] | str:
    """Of all blocks at once."""
    swept = [(panel, key) for panel in panels for key in keys_of(panel)]
    across = across_of(panels)
    several = len({key for _, key in swept} | ({across} - {None})) > 1
    out = []
    for panel, key in swept:
        name = f"sweep-{key.rpartition('.')[2]}" if several else "sweep"
        levels = {"chance": (CHANCE, [(None, panel.chance_level(panel.metric))])}
        for stage in (one for one in panel.series if one.reranker == "first_stage"):
            levels[stage.label] = (stage.look.plot, [(None, stage.mean(panel.metric))])
        out.append(figure(panel, key, panel.figure_name(name), panel.titled, lines_of(panel, key), levels))
    if across:
        out.insert(0, over_blocks(panels, f"sweep-{across.rpartition('.')[2]}" if several else "sweep"))
    return out or "no number was swept: rows differ in no numeric key"


def keys_of(panel: Panel) -> list[str]:
    """Numeric keys of which some reranker has several values."""
    seen: dict[str, dict[str, set[float]]] = {}
    for one in panel.methods:
        for key, value in one.values.items():
            if one.own and number(value):
                seen.setdefault(key, {}).setdefault(one.reranker, set()).add(float(value))
    return [key for key, of in seen.items() if any(len(values) > 1 for values in of.values())]


def across_of(panels: list[Panel]) -> str | None:
    """The one numeric key in which the blocks differ."""
    keys = list(panels[0].block.values)
    numeric = len(panels) > 1 and len(keys) == 1 and all(number(panel.block.values[keys[0]]) for panel in panels)
    return keys[0] if numeric else None


def lines_of(panel: Panel, key: str) -> list[Line]:
    """One a reranker and setting of the other keys."""
    rows = [one for one in panel.methods if one.own and number(one.values.get(key))]
    found: dict[str, list[Series]] = {}
    for one in rows:
        found.setdefault(label_of(one.reranker, {k: v for k, v in one.values.items() if k != key}), []).append(one)
    colours = looks(one.reranker for one in panel.methods)
    out = []
    for label, own in found.items():
        family = [other for other, of in found.items() if of[0].reranker == own[0].reranker]
        color, marker = colours[own[0].reranker]
        place = family.index(label)
        look = Look(shade(color, place, len(family)), LINES[place % len(LINES)], marker)
        out.append(Line(label, look, sorted(((float(one.values[key]), one) for one in own), key=lambda p: p[0])))
    return out


def over_blocks(panels: list[Panel], name: str) -> Figure:
    """Rows of the same label, from block to block, with chance and first stage of each."""
    key = across_of(panels)
    assert key is not None
    ordered = sorted(panels, key=lambda panel: panel.block.values[key])
    x = [float(panel.block.values[key]) for panel in ordered]
    found: dict[str, list[tuple[float, Series]]] = {}
    levels: dict[str, Any] = {"chance": (CHANCE, [])}
    for at, panel in zip(x, ordered, strict=True):
        levels["chance"][1].append((at, panel.chance_level(panel.metric)))
        for one in panel.series:
            if one.kind == METHOD and one.own:
                found.setdefault(one.label, []).append((at, one))
            elif one.reranker == "first_stage":
                levels.setdefault(one.label, (one.look.plot, []))[1].append((at, one.mean(panel.metric)))
    lines = [Line(label, own[0][1].look, own) for label, own in found.items()]
    return figure(ordered[0], key, name, lambda title: title, lines, levels, chosen=False, several=ordered)


def figure(
    panel: Panel,
    key: str,
    name: str,
    titled: Any,
    lines: list[Line],
    levels: dict[str, Any],
    chosen: bool = True,
    several: list[Panel] | None = None,
) -> Figure:
    """`levels`: what stands beside the lines, at each x or (x None) throughout; `chosen`: ring validation's choice."""
    metric, what = panel.metric, CALLED.get(key) or key.rpartition(".")[2].replace("_", " ")
    small = panel.small_print if several is None else (
        f"{panel.small_print.rstrip('.')}; the same with {listed([one.title for one in several[1:]])}."
    )  # fmt: skip
    drawing = canvas(titled(f"{display(metric)} by {what}"), small, 3.5)
    axes: Any = drawing.subplots()
    handles: dict[str, tuple[float, Any]] = {}
    said, ring = [], None
    counts = [len(one.runs) for line in lines for _, one in line.points]
    sd = min(counts) >= FEW  # one measure for all lines: the caption says it once
    spread = ""
    for line in lines:
        x = np.array([at for at, _ in line.points])
        seeds = [one.means(metric) for _, one in line.points]
        mean = np.array([np.mean(values) for values in seeds])
        (drawn,) = axes.plot(x, mean, **line.look.plot, marker=line.look.marker, label=line.label)
        if max(map(len, seeds)) > 1:
            spread = "one standard deviation over seeds" if sd else "smallest and largest of the seeds"
            low = mean - [np.std(v, ddof=1) for v in seeds] if sd else [min(v) for v in seeds]
            high = mean + [np.std(v, ddof=1) for v in seeds] if sd else [max(v) for v in seeds]
            axes.fill_between(x, low, high, color=line.look.color, alpha=0.15, linewidth=0)
            of = [(at, value) for at, values in zip(x, seeds, strict=True) for value in values]
            axes.scatter(*zip(*of, strict=True), s=6, color=line.look.color, alpha=0.6, linewidths=0, zorder=2.5)
        handles[line.label] = (mean[-1], drawn)
        known = [one.validation(metric) for _, one in line.points]
        if chosen and len(known) > 1 and all(value is not None for value in known):
            best = int(np.argmax(known))  # type: ignore[arg-type]
            (ring,) = axes.plot(x[best], mean[best], "o", ms=11, mfc="none", mec="#222222", mew=0.9, linestyle="none")
            said.append(f"validation chooses {text(x[best])} for {line.label} (test {mean[best]:.3f})")
        else:
            said.append(f"{line.label} goes from {mean[0]:.3f} at {text(x[0])} to {mean[-1]:.3f} at {text(x[-1])}")
    values = sorted({at for line in lines for at, _ in line.points})
    scale(axes, key, values)
    for label, (look, points) in levels.items():
        if points[0][0] is None:
            drawn = axes.axhline(points[0][1], **look, label=label)
        else:
            (drawn,) = axes.plot(*zip(*points, strict=True), **look, label=label)
        handles[label] = (points[-1][1], drawn)
    axes.set_xlabel(what)
    axes.set_ylabel(display(metric))
    axes.set_ylim(0)
    ordered = sorted(handles, key=lambda label: -handles[label][0])
    rings = ([ring], ["chosen by validation"]) if ring is not None else ([], [])
    legend(drawing, [*(handles[label][1] for label in ordered), *rings[0]], [*ordered, *rings[1]])
    caption = f"Test {display(metric)} against {what} beside {listed(list(levels))}"
    caption += f" (bands: {spread}; dots: seeds)" if spread else ""
    left = [f"{len(said) - SAID} lines more"] if len(said) > SAID else []
    return Figure(name, "; ".join([caption, *said[:SAID], *left]) + ".", drawing)


def scale(axes: Any, key: str, values: list[float]) -> None:
    """Ticks stand at the values that were tried."""
    positive = min(values) > 0
    if positive and (key.endswith("learning_rate") or max(values) / min(values) >= LOGARITHMIC):
        axes.set_xscale("log")
        axes.minorticks_off()
    step = -(-len(values) // 10)
    axes.set_xticks(values[::step], [text(value) for value in values[::step]])
