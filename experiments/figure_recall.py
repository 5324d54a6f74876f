"""Figure `recall_at_k`: Recall@k against k of methods, baselines and chance, with 95 % bootstrap bands over requests.

Runs that record each request's `rank` and have one relevant item a request are drawn at every k; others at the ks of
their protocol, with markers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.figure_rows import Panel, Series, best_sentence, listed
from experiments.figure_style import CHANCE, Figure, canvas, legend
from experiments.metrics import display, key
from experiments.significance import bootstrap_interval

DEEPEST = 100


def draw(panel: Panel) -> list[Figure] | str:
    metric = family(panel)
    ks = ks_of(panel, metric)
    if not ks:
        return "no metric was measured at two ks"
    drawing = canvas(panel.titled(f"{display(key(metric, 0)).partition('@')[0]}@k"), panel.small_print, 3.7)
    axes: Any = drawing.subplots()
    full = panel.highlighted()
    handles: dict[str, tuple[float, Any]] = {}
    faint = 0
    drawn_at = {
        one.label: points(panel, one, metric, ks) for one in panel.series if panel.has(one, key(metric, ks[0]))
    }
    every = any(len(x) > len(ks) for x, _ in drawn_at.values())
    for one in panel.series:
        if one.reranker == "random" or one.label not in drawn_at:
            continue  # chance is what random orders give, exactly
        x, values = drawn_at[one.label]
        mean = values.mean(axis=0)
        if one in panel.methods and one not in full:
            (drawn,) = axes.plot(x, mean, **one.look.plot | {"linewidth": 0.7, "alpha": 0.45}, label=one.label)
            faint += 1
            handles["other rows"] = (-1, drawn)
            continue
        if one in full:
            axes.fill_between(
                x, *bootstrap_interval(values, panel.seed), color=one.look.color, alpha=0.15, linewidth=0
            )
        if every and len(x) == len(ks):  # a line between would tell what is not known
            (drawn,) = axes.plot(x, mean, color=one.look.color, linestyle="none", marker="_", label=one.label)
            handles[one.label] = (mean[-1], drawn)
            continue
        shown = {"marker": one.look.marker, "markevery": [int(np.searchsorted(x, k)) for k in ks if k <= x[-1]]}
        (drawn,) = axes.plot(x, mean, **one.look.plot, **(shown if one.look.marker else {}), label=one.label)
        handles[one.label] = (mean[-1] if len(x) == len(ks) else mean[int(np.searchsorted(x, ks[-1]))], drawn)
    deep = list(range(1, depth(panel) + 1)) if every else ks
    chance = panel.chance([metric], deep)
    if chance is not None:
        level = [chance.mean[key(metric, k)].mean() for k in deep]
        (drawn,) = axes.plot(deep, level, **CHANCE, label="chance")
        handles["chance"] = (level[deep.index(ks[-1])] if ks[-1] in deep else level[-1], drawn)
    axes.set_xlabel("k")
    axes.set_ylabel(f"{display(key(metric, 0)).partition('@')[0]}@k")
    axes.set_ylim(0)
    axes.set_xlim(0 if ks[0] == 1 and max(deep) > 5 else None, max(deep) * 1.02)
    if every:
        axes.xaxis.get_major_locator().set_params(integer=True)
    else:
        axes.set_xticks(ks)
    ordered = sorted(handles, key=lambda label: -handles[label][0])
    legend(drawing, [handles[label][1] for label in ordered], ordered)
    caption = f"{display(key(metric, 0)).partition('@')[0]}@k of {listed([one.label for one in full] or ordered)} "
    caption += (
        f"for k = {deep[0]} to {deep[-1]}, bands are 95 % bootstrap intervals over {len(panel.requests):,} requests"
    )
    caption += f", {faint} rows that validation did not choose are faint" if faint else ""
    best = best_sentence(panel, key(metric, nearest(ks, int(panel.metric.rpartition("_")[2]))))
    return [Figure(panel.figure_name("recall_at_k"), f"{caption}; {best}.", drawing)]


def family(panel: Panel) -> str:
    """recall; without it the primary metric's own."""
    names = [name.partition("_at_")[0] for name in panel.first.manifest["metrics"]]
    return "recall" if "recall" in names else panel.metric.partition("_at_")[0]


def ks_of(panel: Panel, metric: str) -> list[int]:
    """Those of the protocol, if they are several."""
    named = [name.partition("_at_") for name in panel.first.manifest["metrics"]]
    ks = sorted({int(k) for name, _, k in named if name == metric})
    return ks if len(ks) > 1 else []


def nearest(ks: list[int], k: int) -> int:
    return min(ks, key=lambda one: abs(one - k))


def depth(panel: Panel) -> int:
    return min(panel.first.manifest.get("width") or DEEPEST, DEEPEST)


def points(panel: Panel, one: Series, metric: str, ks: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """k [K] and each request's metric at k [R, K], mean over the seeds."""
    relevant = panel.requests.get("n_relevant")
    single = relevant is not None and bool((relevant == 1).all())
    if metric in ("recall", "hit") and single and panel.has(one, "rank"):
        deep = np.arange(1, depth(panel) + 1)
        order = panel.requests["request"].to_numpy()
        ranks = [ranks_of(run, f"{one.prefix}rank", order) for run in one.runs]
        return deep, np.mean([rank[:, None] <= deep for rank in ranks], axis=0)  # NaN is a miss
    return np.array(ks), panel.per_request(one, [key(metric, k) for k in ks])


def ranks_of(run: Any, column: str, order: np.ndarray) -> np.ndarray:
    table = run.per_request
    return table.set_index("request")[column].reindex(order).to_numpy(dtype=np.float64)
