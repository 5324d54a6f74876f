"""Figure `cost`: quality against milliseconds a request, with training seconds beside each point."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.figure_rows import Panel, Series, listed
from experiments.figure_style import CHANCE, Figure, apart, canvas, legend, short
from experiments.metrics import display
from experiments.significance import bootstrap_interval

LABELLED = 6  # points that carry their names; more of them carry numbers, which the legend explains


def draw(panel: Panel) -> list[Figure] | str:
    rows = [one for one in panel.methods if one.own and speeds(one)]  # baselines take next to no time
    if not rows:
        return "no method was timed here"
    from matplotlib.ticker import LogLocator

    metric = panel.metric
    drawing = canvas(panel.titled(f"{display(metric)} against time a request"), panel.small_print, 3.8)
    axes: Any = drawing.subplots()
    numbered = len(rows) > LABELLED
    legends: dict[str, Any] = {}
    texts, points, bars = [], [], []
    for one in rows:
        milliseconds = speeds(one)
        x, y = float(np.mean(milliseconds)), one.mean(metric)
        low, high = (float(end) for end in bootstrap_interval(panel.per_request(one, [metric])[:, 0], panel.seed))
        bar = {"color": one.look.color, "elinewidth": 0.9, "capsize": 0, "zorder": 2.5}
        across = [[x - min(milliseconds)], [max(milliseconds) - x]]
        axes.errorbar([x], [y], yerr=[[max(y - low, 0)], [max(high - y, 0)]], xerr=across, fmt="none", **bar)
        symbol = {"marker": one.look.marker, "color": one.look.color, "linestyle": "none", "markersize": 6}
        (point,) = axes.plot([x], [y], **symbol, label=one.label)
        points.append((x, y))
        bars += [[x, low, x, high], [min(milliseconds), y, max(milliseconds), y]]
        if numbered:
            together = said(one).replace(" s training", "\u00a0s\u00a0training")  # is not broken in a line
            legends[f"{len(points)}  {together}"] = point
        text = str(len(points)) if numbered else said(one).replace(" (", "\n(")
        look = {"xytext": (6, 0), "textcoords": "offset points", "fontsize": 6.5, "linespacing": 1.0}
        arrow = {"arrowstyle": "-", "linewidth": 0.4, "color": "#999999", "shrinkA": 0, "shrinkB": 3}
        texts.append(axes.annotate(text, (x, y), **look, arrowprops=arrow))
        texts[-1].set_in_layout(False)
    handles = [axes.axhline(panel.chance_level(metric), **CHANCE, label="chance")]
    stage = next((one for one in panel.series if one.reranker == "first_stage"), None)
    if stage is not None:
        handles.insert(0, axes.axhline(stage.mean(metric), **stage.look.plot | {"zorder": 1.5}, label=stage.label))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,g}")
    axes.minorticks_off()
    low, high = (end(min(speeds(one)) for one in rows) for end in (min, max))
    room = max((high / low) ** 0.2, 2.0)
    axes.set_xlim(low / room, max(speed for one in rows for speed in speeds(one)) * room)
    axes.set_ylim(0)
    axes.set_xlabel(f"milliseconds a request ({devices(rows)})")
    axes.set_ylabel(display(metric))
    legends |= {handle.get_label(): handle for handle in handles}
    legend(drawing, list(legends.values()), list(legends), 34 if numbered else 20)
    bars += [
        [axes.get_xlim()[0], level, axes.get_xlim()[1], level]
        for level in (handle.get_ydata()[0] for handle in handles)
    ]
    apart(axes, texts, points, bars)
    best = max(rows, key=lambda one: one.mean(metric))
    fast = min(rows, key=lambda one: float(np.mean(speeds(one))))
    caption = f"Test {display(metric)} (95 % bootstrap intervals) against milliseconds a request of "
    caption += f"{listed([one.label for one in rows])}; highest is {best.label} with {best.mean(metric):.3f} at "
    caption += f"{np.mean(speeds(best)):.3g} ms, fastest {fast.label} with {fast.mean(metric):.3f} at "
    return [Figure(panel.figure_name("cost"), f"{caption}{np.mean(speeds(fast)):.3g} ms.", drawing)]


def speeds(one: Series) -> list[float]:
    """Milliseconds of a request, of each seed; none of scores that were made elsewhere, or measured as 0."""
    known = [run.cost["milliseconds_per_request"] for run in one.runs if not run.cost.get("made_elsewhere")]
    return [value for value in known if value > 0]


def said(one: Series) -> str:
    seconds = float(np.mean([run.cost["training_seconds"] for run in one.runs]))
    return f"{short(one.label)} ({seconds:,.3g} s training)"


def devices(rows: list[Series]) -> str:
    return listed(list(dict.fromkeys(run.cost["device"] for one in rows for run in one.runs)))
