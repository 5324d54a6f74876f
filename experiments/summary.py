"""The table at the end of every command, read from a run folder, and the sentence under it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from data.files import read_json
from experiments.fusion import name_of
from experiments.metrics import display
from experiments.significance import in_words


def show(folder: Path) -> dict[str, float]:
    """Prints table, cost, labels and sentence of a finished run; returns its metrics."""
    metrics, manifest, cost = (read_json(folder / f"{name}.json") for name in ("metrics", "manifest", "cost"))
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    shown = table(metrics, manifest)
    if Measurement.get(console, console.options.update(width=1000), shown).maximum > console.width:
        shown = table(metrics, manifest, intervals=False)
    console.print(shown)
    if manifest["labels"]:
        console.print("Note: " + "; ".join(manifest["labels"]) + ".", style="yellow")
    for line in (verdict(metrics, manifest, cost), costs(cost), f"Run folder: {folder}"):
        console.print(line, soft_wrap=True)
    return metrics


def one_line(folder: Path) -> str:
    """The primary metric of a finished run beside chance and its first stage, the diagnosis, and the time."""
    metrics, manifest, cost = (read_json(folder / f"{name}.json") for name in ("metrics", "manifest", "cost"))
    primary, diagnosis = manifest["primary"], folder / "diagnosis.json"
    m = f"test/{{}}/{primary}".format
    interval = f"[{metrics[m('low')]:.3f}, {metrics[m('high')]:.3f}]"
    parts = [f"{display(primary)} {metrics[f'test/{primary}']:.4f} {interval}", f"chance {metrics[m('chance')]:.3f}"]
    if m("first_stage") in metrics and manifest["reranker"] != "first_stage":
        parts.append(f"first stage {metrics[m('first_stage')]:.3f}")
    numbers = re.sub(r"\b0\.", ".", ", ".join(parts))
    tag = f"; diagnosis: {read_json(diagnosis)['tag']}" if diagnosis.exists() else ""
    return f"{numbers}{tag}; {sum(stage['seconds'] for stage in cost['stages'].values()):.0f} s"


def table(metrics: dict[str, float], manifest: dict[str, Any], intervals: bool = True) -> Table:
    """`intervals=False` is for a narrow terminal; the sentence under the table and metrics.json still have them."""
    name = manifest["reranker"]

    def there(rows: dict[str, str]) -> list[tuple[str, str]]:
        return [(key, label) for key, label in rows.items() if f"test/{key}/{manifest['primary']}" in metrics]

    first = f"first stage\n({manifest['retriever']})"
    others = {"popularity": prior(manifest), "first_stage": first, "untuned": "untuned"}
    before = [row for row in there(others) if row[0] != name]
    fused = f"fused\n{name_of(manifest['fusion_weight'])}" if manifest.get("fusion_weight") is not None else ""
    after = there({"fused": fused, "planted": "planted\nceiling", "ceiling": "perfect\norder"})
    split = manifest["protocol"]["_target_"].rpartition(".")[2]
    title = f"{manifest['dataset']}, {split}, {manifest['n_requests']:,} test requests, {manifest['candidates']}"
    caption = "\\[95 % interval]; " if intervals else ""
    caption += "* = inside chance's interval; bold = the primary metric"
    if metrics["test/share_with_a_hit"] < 1:
        caption += f"; {1 - metrics['test/share_with_a_hit']:.1%} of requests have no relevant candidate and count 0"
    if metrics["test/tie_rate"] > 0:
        caption += f"; {name} ties a relevant item in {metrics['test/tie_rate']:.1%} of requests (broken at random)"
    shown, repeated = distinct(metrics, manifest["metrics"])
    if repeated:
        caption += f"; not shown, as they equal a row above: {', '.join(map(display, repeated))}"
    out = Table(title=title, caption=caption)
    out.add_column("metric", no_wrap=True)
    for label in ("chance", *(label for _, label in before), name, *(label for _, label in after)):
        out.add_column(label, justify="right", no_wrap=True)
    for metric in shown:
        m = f"test/{{}}/{metric}".format
        value = metrics[f"test/{metric}"]
        star = "*" if is_chance(metrics, metric) else ""
        around_chance = _interval(metrics, m("chance_low"), m("chance_high")) if intervals else ""
        cells = [f"{metrics[m('chance')]:.4f}{around_chance}"]
        cells += [f"{metrics[m(key)]:.4f}" for key, _ in before]
        cells.append(f"{value:.4f}{star}{_interval(metrics, m('low'), m('high')) if intervals else ''}")
        cells += [f"{metrics[m(key)]:.4f}" for key, _ in after]
        out.add_row(display(metric), *cells, style="bold" if metric == manifest["primary"] else None)
    return out


def prior(manifest: dict[str, Any]) -> str:
    """What the row `popularity` is called: of passages it ranks by how often each was relevant in training."""
    return "label prior" if manifest.get("kind") == "passages" else "popularity"


def distinct(metrics: dict[str, float], names: list[str]) -> tuple[list[str], list[str]]:
    """With one relevant item a request, Hit = Recall, and at k = 1 all metrics agree: one row says it."""
    known = ("chance", "first_stage", "popularity", "untuned", "fused")
    rows = [row for row in known if f"test/{row}/{names[0]}" in metrics]
    seen: dict[tuple[float, ...], str] = {}
    for name in names:
        values = (metrics[f"test/{name}"], *(metrics[f"test/{row}/{name}"] for row in rows))
        seen.setdefault(tuple(round(value, 12) for value in values), name)
    return list(seen.values()), [name for name in names if name not in seen.values()]


def is_chance(metrics: dict[str, float], metric: str) -> bool:
    """Inside chance's 95 % interval, where that has a width: recall of all candidates is the same in any order."""
    low, high = metrics[f"test/chance_low/{metric}"], metrics[f"test/chance_high/{metric}"]
    return low < high - 1e-12 and low <= metrics[f"test/{metric}"] <= high


def _interval(metrics: dict[str, float], low: str, high: str) -> str:
    return f" \\[{metrics[low]:.3f}, {metrics[high]:.3f}]".replace("0.", ".")


def verdict(metrics: dict[str, float], manifest: dict[str, Any], cost: dict[str, Any]) -> str:
    """What the numbers say about the primary metric, and what this test set could show at all."""
    primary, name = manifest["primary"], manifest["reranker"]
    value = metrics[f"test/{primary}"]
    speed = f"{milliseconds(cost)} a request"
    parts = []
    if is_chance(metrics, primary) and name != "random":
        low, high = metrics[f"test/chance_low/{primary}"], metrics[f"test/chance_high/{primary}"]
        parts.append(
            f"{name}'s {display(primary)} of {value:.4f} is what chance gives ({low:.4f} to {high:.4f}): it "
            + (
                "cannot be better, and this test is too easy or too small to tell"
                if value >= metrics[f"test/ceiling/{primary}"] - 1e-12
                else "has learned nothing that this test can see; look at the loss curve and the learning rate"
                if cost["trainable_parameters"]
                else "knows nothing that this test can see"
            )
        )
    else:
        parts.append(f"{name} {_against(metrics, 'vs_chance', 'chance')}")
    first = f"the first stage ({manifest['retriever']})"
    others = {"vs_popularity": prior(manifest), "vs_first_stage": first, "vs_untuned": "the model before its training"}
    parts += [_against(metrics, which, label) for which, label in others.items() if f"test/{which}/p_holm" in metrics]
    if "test/fused_vs_first_stage/p_holm" in metrics:
        against = _against(metrics, "fused_vs_first_stage", "the first stage")
        parts.append(f"fused with it ({name_of(manifest['fusion_weight'])}) it {against}")
    tail = ""
    if name != "first_stage":
        smallest = metrics["test/vs_first_stage/smallest_difference"]
        it = "the first stage" if {"test/vs_untuned/p_holm", "test/fused_vs_first_stage/p_holm"} & {*metrics} else "it"
        tail = f"; at {speed}; the smallest difference to {it} that this test set can show is {smallest:.4f}"
    unscored = metrics.get("test/share_unscored", 0)
    only = f" (only {1 - unscored:.0%} of the candidates were scored; the others count as missed)" if unscored else ""
    text = f"{display(primary)}{only}: {parts[0]}; {'; '.join(parts[1:])}{tail}."
    if f"test/conditional/{primary}" in metrics and name != "first_stage":
        own, initial, chance = (metrics[f"test/conditional/{row}{primary}"] for row in ("", "first_stage/", "chance/"))
        text += (
            f" Where the first stage found the item ({metrics['test/share_with_a_hit']:.1%} of requests): "
            f"{name} {own:.4f}, first stage {initial:.4f}, chance {chance:.4f}."
        )
    return text


def _against(metrics: dict[str, float], which: str, label: str) -> str:
    return in_words(label, *(metrics[f"test/{which}/{name}"] for name in ("difference", "low", "high", "p_holm")))


def milliseconds(cost: dict[str, Any]) -> str:
    value = cost["milliseconds_per_request"]
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def costs(cost: dict[str, Any]) -> str:
    if cost.get("made_elsewhere"):
        return "Cost: of a model made elsewhere, not known here."
    trainable, total = cost["trainable_parameters"], cost["total_parameters"]
    size = f"{trainable:,} of {total:,} parameters trained" if total else "no parameters"
    speed = f"{cost['training_seconds']:.1f} s training, {milliseconds(cost)} a request"
    return f"Cost: {size}, {speed}, peak memory {cost['peak_memory_mb']:,.0f} MB, on {cost['device']}."
