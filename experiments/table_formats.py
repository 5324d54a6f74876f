"""A table as text for a terminal, Markdown, LaTeX (booktabs), HTML or CSV."""

from __future__ import annotations

import csv
import html
import io
import re
from typing import TYPE_CHECKING

from experiments.table import METHOD, VARIANT, Cell, Column, Row, Table
from experiments.table_origins import traced
from experiments.table_text import AT_CHANCE, BETTER, WORSE, block_title, caption, mark, notes, number, seeds, verdict

if TYPE_CHECKING:
    import rich.table

SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$", "×": r"$\times$",
    BETTER: r"$^{\dagger}$", WORSE: r"$^{\ddagger}$", AT_CHANCE: r"$^{*}$",
}  # fmt: skip


def grid(table: Table) -> tuple[list[tuple[str, int]], list[str], bool]:
    """Titles of the blocks with their widths, titles of the columns, and whether a column of seeds says anything."""
    per_block = len(table.columns) // len(table.blocks)
    blocks = [(block_title(table, index), per_block) for index in range(len(table.blocks))]
    several = any(seeds(row, table) not in ("", "1") for row in table.rows)
    return blocks, [column.title for column in table.columns], several


def numbered(row: Row, table: Table) -> list[int]:
    order = notes(table)
    return sorted(order.index(note) + 1 for note in row.notes)


def text(table: Table, width: int) -> rich.table.Table:
    """For a terminal of so many characters; what does not fit is left out and named: metrics at other ks than the
    primary one's first, then the others, then costs."""
    import rich.table
    from rich.console import Console
    from rich.markup import escape
    from rich.measure import Measurement

    blocks, _, several = grid(table)
    numbers = [f"({i}) {note}" for i, note in enumerate(notes(table), 1)]
    kept = list(dict.fromkeys((column.key, column.cost) for column in table.columns))
    k = table.primary.rpartition("_at_")[2]
    giving_way = sorted(
        [*reversed(kept)], key=lambda key: (key[1], key[0].endswith(f"_at_{k}"))
    )  # the last ones first
    giving_way = [key for key in giving_way if key != (table.primary, False)]
    hidden: list[str] = []
    while True:
        columns = [column for column in table.columns if (column.key, column.cost) in kept]
        words = [*caption(table), *numbers]
        if hidden:
            words.append(f"too wide for this terminal: {', '.join(reversed(hidden))} (format=markdown has all)")
        out = rich.table.Table(title=escape(table.name), caption=escape("; ".join(words)))
        out.add_column("", no_wrap=True)
        if several:
            out.add_column("seeds", justify="right", no_wrap=True)
        for column in columns:
            title = blocks[column.block][0]
            out.add_column(
                f"{escape(title)}\n{column.title}" if title else column.title, justify="right", no_wrap=True
            )
        for rule, row in with_rules(table):
            signs = "".join(f" ({i})" for i in numbered(row, table))
            cells = [_styled(row.cells.get(column), column) for column in columns]
            out.add_row(escape(row.label) + signs, *([seeds(row, table)] if several else []), *cells, end_section=rule)
        wide = Console(width=10_000)
        fits = Measurement.get(wide, wide.options.update(width=10_000), out).maximum <= width
        giving_way = [key for key in giving_way if key in kept]
        if fits or not giving_way:
            return out
        kept.remove(giving_way[0])
        hidden.append(Column(0, *giving_way[0]).title)


def _styled(cell: Cell | None, column: Column) -> str:
    if cell is None:
        return "-"
    out = number(cell, column) + mark(cell)
    return f"[bold]{out}[/]" if cell.best else f"[underline]{out}[/]" if cell.second else out


def with_rules(table: Table) -> list[tuple[bool, Row]]:
    """Rows, and whether a rule follows: between chance and baselines, methods, and ceilings."""
    kinds = [METHOD if row.kind == VARIANT else row.kind for row in table.rows]
    return [
        (place + 1 < len(kinds) and kinds[place + 1] != kind, row)
        for place, (kind, row) in enumerate(zip(kinds, table.rows, strict=True))
    ]


def markdown(table: Table) -> str:
    blocks, titles, several = grid(table)
    heads = [f"{blocks[c.block][0]} {t}".strip() for c, t in zip(table.columns, titles, strict=True)]
    lines = [["", *(["seeds"] if several else []), *heads]]
    lines.append(["---", *(["---:"] if several else []), *("---:" for _ in heads)])
    for row in table.rows:
        signs = ",".join(str(i) for i in numbered(row, table)).translate(SUPERSCRIPT)
        cells = []
        for column in table.columns:
            cell = row.cells.get(column)
            value = "-" if cell is None else number(cell, column) + mark(cell).replace("*", r"\*")
            cells.append(
                f"**{value}**" if cell and cell.best else f"<u>{value}</u>" if cell and cell.second else value
            )
        label = row.label.replace("|", r"\|") + signs
        lines.append([label, *([seeds(row, table)] if several else []), *cells])
    out = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([*out, "", *around(table, r"\*"), ""])


def around(table: Table, star: str) -> list[str]:
    """Caption, notes and verdict, a paragraph each."""
    words = "; ".join(caption(table))
    out = [(words + ".").replace(f"{AT_CHANCE} inside", f"{star} inside"), ""]
    out += [f"{i}: {note}." for i, note in enumerate(notes(table), 1)] + [""] * bool(notes(table))
    return [*out, *verdict(table)]


def latex(table: Table) -> str:
    """A float for `\\usepackage{booktabs,graphicx}`, as wide as the column at most; the verdict is a comment."""
    blocks, titles, several = grid(table)
    align = "l" + "r" * (len(titles) + several)
    lead = 2 if several else 1
    lines = [r"\begin{table}[t]", r"\centering", r"\small", r"\setlength{\tabcolsep}{4pt}"]
    lines.append(r"\setlength{\belowcaptionskip}{4pt}")
    words = "; ".join([*caption(table), *(f"({i}) {note}" for i, note in enumerate(notes(table), 1))])
    lines.append(r"\caption{" + escaped(words) + ".}")
    lines.append(r"\label{tab:" + re.sub(r"[^\w-]", "-", table.name) + "}")
    lines.append(r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%")
    lines += [r"\begin{tabular}{" + align + "}", r"\toprule"]
    if any(title for title, _ in blocks):
        over = [rf"\multicolumn{{{width}}}{{c}}{{{escaped(title)}}}" for title, width in blocks]
        lines.append(" & ".join([*[""] * lead, *over]) + r" \\")
        ends = [lead + sum(width for _, width in blocks[: i + 1]) for i in range(len(blocks))]
        rules = [rf"\cmidrule(lr){{{end - w + 1}-{end}}}" for end, (_, w) in zip(ends, blocks, strict=True)]
        lines.append(" ".join(rules))
    lines.append(" & ".join(["", *(["seeds"] if several else []), *map(escaped, titles)]) + r" \\")
    lines.append(r"\midrule")
    for rule, row in with_rules(table):
        signs = ",".join(str(i) for i in numbered(row, table))
        label = escaped(row.label) + (f"$^{{({signs})}}$" if signs else "")
        cells = [_latex_cell(row.cells.get(column), column) for column in table.columns]
        lines.append(" & ".join([label, *([seeds(row, table)] if several else []), *cells]) + r" \\")
        lines += [r"\midrule"] * rule
    lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""]
    return "\n".join(lines + ["% " + line for line in verdict(table)]) + "\n"


def escaped(words: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in words)


def _latex_cell(cell: Cell | None, column: Column) -> str:
    if cell is None:
        return "--"
    value, _, deviation = number(cell, column).partition(" ± ")
    value = escaped(value) + (rf"{{\scriptsize$\pm${deviation.removeprefix('0')}}}" if deviation else "")
    value = rf"\textbf{{{value}}}" if cell.best else rf"\underline{{{value}}}" if cell.second else value
    return value + escaped(mark(cell))


def html_table(table: Table) -> str:
    """A <table> in a <div> that may scroll, its caption, notes and verdict; classes for styles, none here."""
    blocks, titles, several = grid(table)
    lead = "<th></th>" + "<th></th>" * several
    out = ['<div class="wide"><table class="results"><thead>']
    if any(title for title, _ in blocks):
        out.append(f"<tr>{lead}{''.join(f'<th colspan={w}>{html.escape(t)}</th>' for t, w in blocks)}</tr>")
    heads = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    out.append(f"<tr><th></th>{'<th>seeds</th>' * several}{heads}</tr></thead><tbody>")
    for rule, row in with_rules(table):
        signs = ",".join(str(i) for i in numbered(row, table))
        label = html.escape(row.label) + (f"<sup>({signs})</sup>" if signs else "")
        cells = "".join(_html_cell(row.cells.get(column), column) for column in table.columns)
        classes = f"{row.kind}{' rule' if rule else ''}"
        count = f"<td>{seeds(row, table)}</td>" * several
        out.append(f'<tr class="{classes}"><th scope="row">{label}</th>{count}{cells}</tr>')
    out += ["</tbody></table></div>", f'<p class="caption">{html.escape("; ".join(caption(table)))}.</p>']
    out += [f'<p class="caption">({i}) {html.escape(note)}.</p>' for i, note in enumerate(notes(table), 1)]
    return "\n".join([*out, *(f"<p>{html.escape(line)}</p>" for line in verdict(table)), ""])


def _html_cell(cell: Cell | None, column: Column) -> str:
    if cell is None:
        return "<td>-</td>"
    flags = {"best": cell.best, "second": cell.second, "better": cell.verdict > 0, "worse": cell.verdict < 0}
    classes = " ".join(name for name, on in (flags | {"chance": cell.at_chance, "cost": column.cost}).items() if on)
    return f'<td class="{classes}">{html.escape(number(cell, column) + mark(cell))}</td>'


def comma_separated(table: Table) -> str:
    """A line a cell, for other programs: exact values, deviation, test and runs."""
    out = io.StringIO()
    names = "block row kind column n_seeds mean std difference low high p_holm effect_size best at_chance runs".split()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for cell in traced(table)["cells"]:
        writer.writerow({name: cell.get(name) for name in names} | {"runs": " ".join(cell["runs"])})
    return out.getvalue()


FORMATS = {"latex": (latex, "tex"), "markdown": (markdown, "md"), "csv": (comma_separated, "csv")}
FORMATS |= {"html": (html_table, "html")}
