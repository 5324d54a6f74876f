"""What stands around a table, in words: its caption, its notes and the verdict under it."""

from __future__ import annotations

import numpy as np

from experiments.metrics import display
from experiments.significance import ALPHA
from experiments.summary import milliseconds
from experiments.table import BASELINE, BOUND, CHANCE, FEW, METHOD, VARIANT, Cell, Column, Row, Table

BETTER, WORSE, AT_CHANCE = "▲", "▼", "*"  # marks of a cell; LaTeX has a dagger and a double dagger
SHOWN = 12  # methods in the verdict
MANY = 10_000  # requests, above which nearly every difference is significant


def block_title(table: Table, index: int) -> str:
    return table.blocks[index].title


def protocol(table: Table) -> list[str]:
    """One sentence for each block."""
    out = []
    for index, block in enumerate(table.blocks):
        manifest = block.first.manifest
        split = manifest["protocol"]["_target_"].rpartition(".")[2]
        what = f"{manifest['dataset']}, {split}, {manifest['n_requests']:,} test requests, {manifest['candidates']}"
        title = block_title(table, index)
        out.append(f"{title}: {what}" if title else what)
    return out


def caption(table: Table) -> list[str]:
    """The protocol, how to read a cell, and what a reader must know before believing one."""
    out = protocol(table)
    sampled = [block for block in table.blocks if block.first.manifest["candidates"].startswith("sampled")]
    if sampled:
        out.append("sampled metrics: they rank a method among drawn negatives, not the catalogue")
    seeds = {n for row in table.rows if row.kind == METHOD for n in row.seeds.values()}
    if seeds and max(seeds) >= FEW:
        out.append("mean ± standard deviation over seeds")
    elif seeds == {1}:
        out.append("one seed")
    elif seeds:
        out.append(f"fewer than {FEW} seeds: their values")
    out.append("bold: best of its column, underlined: second (chance and ceilings aside)")
    if any(cell.verdict for row in table.rows for cell in row.cells.values()):
        out.append(
            f"{BETTER} above, {WORSE} below {table.against} (paired sign-flip test over requests, Holm over the rows "
            f"of a metric, p < {ALPHA:.2f})"
        )
    if any(cell.at_chance for row in table.rows for cell in row.cells.values()):
        out.append(f"{AT_CHANCE} inside the 95 % interval of a random order")
    for index, block in enumerate(table.blocks):
        if (share := block.first.metrics["test/share_with_a_hit"]) < 1:
            where = f" ({block_title(table, index)})" if len(table.blocks) > 1 else ""
            out.append(f"{1 - share:.1%} of requests have no relevant candidate and count 0{where}")
    return [*out, *table.labels]


def notes(table: Table) -> list[str]:
    """Labels that not every run has, in the order of their numbers."""
    return list(dict.fromkeys(note for row in table.rows for note in row.notes))


def seeds(row: Row, table: Table) -> str:
    """How many seeds a row has; `2 of 3` where others have more."""
    if not row.runs or (row.kind == BASELINE and {*row.seeds.values()} == {1}):
        return ""
    most = max((n for other in table.rows if other.kind == METHOD for n in other.seeds.values()), default=0)
    said = [str(n) if n >= most or row.kind != METHOD else f"{n} of {most}" for n in row.seeds.values()]
    return ", ".join(said if len({*said}) > 1 else said[:1])


def number(cell: Cell, column: Column) -> str:
    """The value, or each seed's where they are few; without marks."""
    if column.cost:
        value = cell.mean
        if column.key.endswith("parameters"):
            return next((f"{value / size:.3g}{unit}" for size, unit in SIZES if value >= size), f"{value:.0f}")
        return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
    if cell.deviation:  # 0 of what has no seed
        return f"{cell.mean:.4f} ± {cell.deviation:.4f}"
    return ", ".join(dict.fromkeys(f"{value:.4f}" for value in cell.values))


SIZES = ((1e9, "B"), (1e6, "M"), (1e3, "k"))


def mark(cell: Cell) -> str:
    """The signs after a number."""
    return {1: BETTER, -1: WORSE, 0: ""}[cell.verdict] + (AT_CHANCE if cell.at_chance else "")


def verdict(table: Table) -> list[str]:
    """Who beats the row `against`, by how much, at what cost, and what this test set could show at all."""
    out = []
    for index in range(len(table.blocks)):
        title = block_title(table, index)
        out += [f"{title}: {line}" if title else line for line in of_block(table, index)]
    out += [f"Left out: {line}." for line in table.left_out]
    if table.absent:
        more = f" and {len(table.absent) - 3} more" if len(table.absent) > 3 else ""
        out.append(f"INCOMPLETE, {len(table.absent)} jobs have no finished run: {'; '.join(table.absent[:3])}{more}.")
    return out


def of_block(table: Table, index: int) -> list[str]:
    metric = table.primary if any(c.key == table.primary for c in table.columns) else table.columns[0].key
    column = Column(index, metric)
    rows = [row for row in table.rows if row.kind not in (CHANCE, BOUND) and column in row.cells]
    compared = [row for row in rows if row.cells[column].comparison is not None]
    compared.sort(key=lambda row: -row.cells[column].mean)
    if not compared:
        return [f"{display(metric)}: there is nothing to compare with {table.against}."]
    trained = [row for row in compared if row.kind == METHOD]
    baseline = max((row for row in rows if row.kind == BASELINE), key=lambda row: row.cells[column].mean, default=None)
    ahead = [row for row in trained if row.cells[column].verdict > 0]
    lines = (
        [f"{display(metric)}: only baselines, no trained method."]
        if not trained
        else [
            f"{display(metric)}: {len(ahead)} of {len(trained)} methods beat {table.against} "
            f"({next(row for row in rows if row.label == table.against).cells[column].mean:.4f})."
        ]
    )
    if baseline is not None and baseline.label != table.against:
        lines[0] += f" The best baseline is {baseline.label} ({baseline.cells[column].mean:.4f})."
    lines += [sentence(row, table, column) for row in compared[:SHOWN] if row.kind in (METHOD, VARIANT)]
    if len(compared) > SHOWN:
        lines.append(f"{len(compared) - SHOWN} rows more stand in the table.")
    found = [row.cells[column].comparison for row in trained or compared]
    smallest = [one.smallest_difference for one in found if one is not None and one.smallest_difference > 0]
    if not smallest:
        return lines
    n = table.blocks[index].first.manifest["n_requests"]
    end = (
        f"The smallest difference to {table.against} that {n:,} requests can show (power .8, one test, before Holm): "
    )
    end += f"{min(smallest):.4f}" + (f" to {max(smallest):.4f}, by row" if max(smallest) > min(smallest) else "")
    many = "; with so many requests nearly every difference is significant: read the effect sizes" if n > MANY else ""
    return [*lines, f"{end}{many}."]


def sentence(row: Row, table: Table, column: Column) -> str:
    cell = row.cells[column]
    assert cell.comparison is not None and cell.p_holm is not None
    c = cell.comparison
    what = {1: "beats", -1: "is worse than", 0: "cannot be told from"}[cell.verdict]
    size = f"{c.difference:+.4f} [{c.low:+.4f}, {c.high:+.4f}]"
    p = "< 0.001" if cell.p_holm < 0.001 else f"= {cell.p_holm:.3f}"
    out = f"{row.label} ({cell.mean:.4f}) {what} {table.against}: {size}, Holm p {p}, effect size {c.effect_size:+.2f}"
    if cell.at_chance:
        out += "; it is what chance gives"
    if runs := row.runs.get(column.block):
        seconds = float(np.mean([run.cost["training_seconds"] for run in runs]))
        speed = float(np.mean([run.cost["milliseconds_per_request"] for run in runs]))
        out += f"; {seconds:,.1f} s training, {milliseconds({'milliseconds_per_request': speed})} a request"
    return out + "."
