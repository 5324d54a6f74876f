"""One page of a comparison that opens offline: python -m experiments.report experiment=compare_demo

Table and verdict, figures, the diagnosis of each run, protocol, environment, and how to get it all again. Text, tables
and figures (SVG) stand in the one HTML file, <root>/reports/<name>.html.
"""

from __future__ import annotations

import html
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.tables import command, read_settings, root_of, selected

if TYPE_CHECKING:
    from experiments.collect import Finished, Selection
    from experiments.table import Table

STYLE = """
:root { color-scheme: light; --ink: #1a1a1a; --quiet: #5c5c5c; --line: #d8d8d8; --bad: #a3000b; --odd: #8a5a00; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; margin: 0 auto; max-width: 75rem;
  padding: 1rem 1.25rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
.wide { overflow-x: auto; } p { margin: .4rem 0; max-width: 60rem; } nav a { margin-right: 1rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
.caption, figcaption { color: var(--quiet); font-size: .85rem; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; } td.words { white-space: normal; }
th:first-child, td.words { text-align: left; } td.words { min-width: 16rem; }
thead th { border-bottom: 2px solid var(--ink); }
th[scope=row] { font-weight: normal; text-align: left; position: sticky; left: 0; background: #fff; }
 tr.rule > * { border-bottom: 1px solid var(--line); }
td.best { font-weight: 700; } td.second { text-decoration: underline; } tr.chance, tr.bound { color: var(--quiet); }
.fail { color: var(--bad); font-weight: 700; } .warn { color: var(--odd); font-weight: 700; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; overflow-x: auto; } figure svg { width: 100%; min-width: 30rem; height: auto; }
pre { background: #f4f4f4; padding: .75rem; overflow-x: auto; white-space: pre-wrap; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; }
.labels { border-left: 4px solid var(--odd); padding-left: .75rem; }
@media print { nav { display: none; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""


def report(cfg: DictConfig) -> None:
    """Writes the page; the table is that of experiments.tables with the same keys."""
    from data.files import write_atomically
    from experiments.table_building import build

    settings = read_settings(cfg)
    selection = selected(cfg)
    table = build(
        selection, **{name: settings[name] for name in "metrics rows columns against costs untrained".split()}
    )
    out = settings["out"]
    path = Path(out).expanduser() if out else root_of(cfg) / "reports" / f"{table.name}.html"
    shape = {name: settings[name] for name in ("rows", "columns", "untrained")}
    write_atomically(path, page(table, selection, drawn(selection, shape)))
    print(f"Written: {path} ({path.stat().st_size / 1e6:.1f} MB; it needs no network)")


def page(table: Table, selection: Selection, figures: list[tuple[str, str, str]]) -> str:
    """`figures`: name, caption, SVG."""
    from experiments.table_formats import html_table

    parts = {
        "Result": warnings(table) + html_table(table),
        "Figures": '<div class="figures">'
        + "".join(
            f'<figure id="{html.escape(name)}"><div role="img" aria-label="{html.escape(words)}">{svg}</div>'
            f"<figcaption>{html.escape(words)}</figcaption></figure>"
            for name, words, svg in figures
        )
        + "</div>",
        "Diagnosis": diagnosis(table.runs),
        "Protocol": protocol(table),
        "Runs": runs_table(table),
        "How to reproduce": reproduce(table, selection),
        "Environment": environment(table.runs),
    }
    parts = {name: content for name, content in parts.items() if content}
    links = "".join(f'<a href="#{anchor(name)}">{name}</a>' for name in parts)
    body = "".join(f'<h2 id="{anchor(name)}">{name}</h2>{content}' for name, content in parts.items())
    title = html.escape(f"Comparison: {table.name}")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{title}</h1><nav>{links}</nav>{body}</body></html>\n"
    )


def anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def warnings(table: Table) -> str:
    """What a reader must know first."""
    words = [label for label in table.labels if label]
    if table.absent:
        words.append(f"incomplete: {len(table.absent)} jobs have no finished run")
    return f'<p class="labels">{html.escape("; ".join(words))}</p>' if words else ""


def drawn(selection: Selection, shape: dict[str, Any]) -> list[tuple[str, str, str]]:
    """All figures that apply: name, caption, SVG."""
    from experiments.figure_style import inline_svg
    from experiments.figures import draw

    return [(figure.name, figure.caption, inline_svg(figure)) for figure in draw(selection, **shape)[0]]


def diagnosis(runs: list[Finished]) -> str:
    """A line a run, with the checks that are not ok; a run without diagnosis.json was made with diagnose=off."""
    from experiments.findings import FAIL, WARN, read_diagnosis

    lines = []
    for run in runs:
        findings = read_diagnosis(run.folder)
        verdict = next((v for v in (FAIL, WARN) if any(f.verdict == v for f in findings)), "ok")
        verdict = verdict if findings else "not made"
        first = f'<th scope="row">{html.escape(run.name)}</th><td class="{verdict}">{verdict}</td>'
        shown = [finding for finding in findings if finding.verdict in (FAIL, WARN)]
        words = "<br>".join(
            f"<b>{html.escape(f.check)}</b>: {html.escape(f.evidence)} <i>{html.escape(f.advice)}</i>" for f in shown
        )
        lines.append(f'<tr class="rule">{first}<td class="words">{words}</td></tr>')
    head = "<thead><tr><th>run</th><th>verdict</th><th>what is not ok, and what to do</th></tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def protocol(table: Table) -> str:
    from experiments.table_text import block_title, protocol

    out = [f"<p>{html.escape(line)}.</p>" for line in protocol(table)]
    for index, block in enumerate(table.blocks):
        manifest, config = block.first.manifest, block.first.config
        title = f"{block_title(table, index)}: " if len(table.blocks) > 1 else ""
        keys = [key for key in config if key.startswith(("protocol.", "candidates."))]
        facts = {
            "data": f"{manifest['dataset']}, sha256 {manifest['data_sha256']}; licence: {manifest.get('licence', '')}",
            "candidate file": f"sha256 {manifest['candidates_sha256']}, the same for every row",
            "settings": ", ".join(f"{key}={config[key]}" for key in keys),
            "notes of the data": "; ".join(manifest["notes"]),
        }
        items = "".join(f"<dt>{name}</dt><dd>{html.escape(words)}</dd>" for name, words in facts.items() if words)
        out.append(f"<p><b>{html.escape(title)}</b></p><dl>{items}</dl>" if title else f"<dl>{items}</dl>")
    return "".join(out)


def runs_table(table: Table) -> str:
    """What each run cost and where it lies."""
    lines = []
    for run in table.runs:
        cost = run.cost
        cells = [
            f"{cost['trainable_parameters']:,} of {cost['total_parameters']:,}",
            f"{cost['training_seconds']:,.1f}",
            f"{cost['milliseconds_per_request']:.3g}",
            f"{cost['peak_memory_mb']:,.0f}",
            str(cost["device"]),
            "; ".join(run.manifest["labels"]),
        ]
        row = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells[:-1])
        row += f'<td class="words">{html.escape(cells[-1])}</td>'
        lines.append(f'<tr class="rule"><th scope="row">{html.escape(run.name)}</th>{row}</tr>')
    heads = "run,trained parameters,training s,ms/request,peak MB,device,labels".split(",")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def reproduce(table: Table, selection: Selection) -> str:
    """The sweep's own command, and one command a run."""
    from data.files import read_json

    lines = []
    if selection.record is not None:
        command = read_json(selection.record)["command"]
        lines += ["# the whole comparison", shlex.join(["python", *map(str, command)]), "", "# its runs, one by one"]
    for run in table.runs:
        words = [word for word in run.overrides if not word.startswith(("paths.", "tracking"))]
        command = str((run.environment.get("command") or ["train.py"])[0])
        lines.append(shlex.join(["python", command, *words, *(["hydra.mode=RUN"] if command == "train.py" else [])]))
    shas = sorted({str(run.environment.get("git_sha")) for run in table.runs})
    dirty = any(run.environment.get("git_dirty") for run in table.runs)
    state = f"git {', '.join(shas)}" + (
        ", with changes that were not committed: patch.diff in the run folders" if dirty else ""
    )
    return f"<p>{html.escape(state)}</p><pre>{html.escape(chr(10).join(lines))}</pre>"


def environment(runs: list[Finished]) -> str:
    facts: dict[str, dict[str, None]] = {}
    for run in runs:
        known: dict[str, Any] = {key: run.environment.get(key) for key in ("python", "platform", "cpus")}
        known |= {"device": run.cost["device"]} | run.environment.get("packages", {})
        for name, value in known.items():
            facts.setdefault(name, {})[str(value)] = None
    items = "".join(
        f"<dt>{html.escape(n)}</dt><dd>{html.escape(', '.join(values))}</dd>" for n, values in facts.items()
    )
    return f"<dl>{items}</dl>"


if __name__ == "__main__":
    command(report, "report")
