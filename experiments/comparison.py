"""What `experiments.compare` says of two sides: a row a metric, a verdict in words, and files of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from data.files import write_atomically, write_json
from experiments.metrics import display
from experiments.paired_runs import Side
from experiments.significance import ALPHA, compare_all, holm, in_words, power

LARGE = 10_000  # requests from which on nearly every difference is significant
ROUNDING = 1e-12


@dataclass(frozen=True)
class Compared:
    a: Side
    b: Side
    metric: str  # that the verdict is of
    rows: list[dict[str, Any]]  # metric, a, b, and every statistic of a - b
    equal: list[str]  # metrics that are the same for every request
    repeated: list[str]  # metrics that equal one of `rows` for every request of both

    @property
    def n(self) -> int:
        return len(self.a.tables[0])

    def row(self, metric: str) -> dict[str, Any] | None:
        return next((row for row in self.rows if row["metric"] == metric), None)

    @property
    def verdict(self) -> str:
        """What the numbers say about the metric, and what this test set could show at all."""
        row, name = self.row(self.metric), display(self.metric)
        if row is None:
            return f"{name} is equal for every request."
        who = [f"{side.letter} ({side.reranker})" for side in (self.a, self.b)]
        told = in_words(who[1], row["difference"], row["low"], row["high"], row["p_holm"])
        effect = f"d = {row['effect_size']:+.2f}" if row["smallest_difference"] else "the same for every request"
        if row["b"]:
            effect = f"{row['difference'] / abs(row['b']):+.1%} of b's mean, {effect}"
        counts = f"a is better for {row['a_better']:,} requests, equal for {row['equal']:,}, worse for"
        share = f"{row['power']:.0%}" if row["power"] < 0.99 else "more than 99%"
        can = f"the smallest that {self.n:,} requests show with power .8 is {row['smallest_difference']:.4f}"
        if row["p_holm"] >= ALPHA:
            can += ", so a smaller one may have been missed"
        elif self.n > LARGE:
            can += ", so nearly every difference is significant here: judge it by its size"
        return (
            f"{name}: {who[0]} {told}, {effect}; {counts} "
            f"{row['b_better']:,}. A true difference of this size is found by {share} of such tests; {can}."
        )


def compared(a: Side, b: Side, names: list[str], metric: str, seed: int) -> Compared:
    """`metric` is one of `names`; it stays where another one repeats it."""
    values = {name: (a.values(name), b.values(name)) for name in names}
    equal = [name for name in names if np.array_equal(*values[name])]
    first: dict[bytes, str] = {}
    for name in sorted(names, key=lambda name: name != metric):
        first.setdefault(b"".join(part.tobytes() for part in values[name]), name)
    shown = [name for name in names if name in first.values() and name not in equal]
    repeated = [name for name in names if name not in first.values() and name not in equal]
    rows = []
    if shown:
        differences = np.stack([values[name][0] - values[name][1] for name in shown], axis=1)
        differences[abs(differences) < ROUNDING] = 0  # means of the same values in another order of the seeds
        found = compare_all(differences, seed)
        p_holm = holm([one.p_permutation for one in found])
        for name, one, p, d in zip(shown, found, p_holm, differences.T, strict=True):
            deviation = float(d.std(ddof=1)) if len(d) > 1 else 0.0
            rows.append(
                {
                    "metric": name, "a": float(values[name][0].mean()), "b": float(values[name][1].mean()),
                    "difference": one.difference, "low": one.low, "high": one.high, "p_t": one.p_t,
                    "p_permutation": one.p_permutation, "p_holm": p, "effect_size": one.effect_size,
                    "power": power(one.difference, deviation, len(d)), "smallest_difference": one.smallest_difference,
                    "a_better": int((d > 0).sum()), "equal": int((d == 0).sum()), "b_better": int((d < 0).sum()),
                }
            )  # fmt: skip
    return Compared(a, b, metric, rows, equal, repeated)


HEADINGS = ("metric", "a", "b", "a - b", "95 %", "Holm p", "effect\nsize d", "power at\na - b", "smallest,\npower .8",
            "a better / equal\n/ b better")  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """Of a row, in the order of HEADINGS."""
    return [
        display(row["metric"]), f"{row['a']:.4f}", f"{row['b']:.4f}", f"{row['difference']:+.4f}",
        f"[{row['low']:+.4f}, {row['high']:+.4f}]", "< 0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}",
        f"{row['effect_size']:+.3f}", f"{row['power']:.2f}", f"{row['smallest_difference']:.4f}",
        f"{row['a_better']:,} / {row['equal']:,} / {row['b_better']:,}",
    ]  # fmt: skip


def table(found: Compared) -> Table:
    out = Table(title=f"a = {found.a.name}, b = {found.b.name}; {found.n:,} requests", caption=caption(found))
    for column in HEADINGS:
        out.add_column(column, justify="left" if column == "metric" else "right", no_wrap=True)
    for row in found.rows:
        out.add_row(*cells(row), style="bold" if row["metric"] == found.metric else None)
    return out


def caption(found: Compared) -> str:
    parts = ["[95 % bootstrap interval]; p of paired sign flips; power of one such test at 5 %, without Holm"]
    for names, why in (
        (found.repeated, "they equal a row above"),
        (found.equal, "a and b do not differ in them"),
    ):
        if names:
            parts.append(f"not shown, as {why}: {', '.join(map(display, names))}")
    return "; ".join(parts)


def about_the_runs(a: Side, b: Side) -> list[str]:
    """Labels of both sides, and a warning where a diagnosis failed or the sides are one and the same run."""
    lines = [f"{side.letter}: {'; '.join(side.labels) or 'no labels'}" for side in (a, b)]
    for side in (a, b):
        if failed := [label for label in side.labels if label.startswith("diagnosis failed")]:
            lines.append(f"Warning: {side.letter}'s {'; '.join(failed)}. Mend it before its number is believed.")
    if both := set(a.folders) & set(b.folders):
        lines.append(f"Warning: {', '.join(sorted(folder.name for folder in both))} is on both sides.")
    return lines


def as_json(path: Path, found: Compared) -> None:
    sides = {
        side.letter: {"name": side.name, "folders": [str(folder) for folder in side.folders], "labels": side.labels}
        for side in (found.a, found.b)
    }
    numbers = {"n_requests": found.n, "metrics": found.rows, "equal": found.equal, "repeated": found.repeated}
    write_json(path, {**sides, **numbers, "metric": found.metric, "verdict": found.verdict})


def as_markdown(path: Path, found: Compared) -> None:
    lines = [[heading.replace("\n", " ") for heading in HEADINGS], ["---", *["---:"] * (len(HEADINGS) - 1)]]
    lines += [cells(row) for row in found.rows]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    about = "\n".join(f"- {line}" for line in about_the_runs(found.a, found.b))
    title = f"a = {found.a.name}, b = {found.b.name}; {found.n:,} requests; {caption(found)}"
    write_atomically(path, f"{title}\n\n{rows}\n\n{about}\n\n{found.verdict}\n")


def as_csv(path: Path, found: Compared) -> None:
    write_atomically(path, pd.DataFrame(found.rows).to_csv(index=False, lineterminator="\n"))


WRITERS: dict[str, Callable[[Path, Compared], None]] = {".json": as_json, ".md": as_markdown, ".csv": as_csv}
