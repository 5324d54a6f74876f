"""The forms of a table: a golden LaTeX file that a real TeX compiles, Markdown, HTML, CSV, a terminal; the command."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from tiny_runs import hits, make_run

from experiments.collect import select
from experiments.launch import ROOT
from experiments.table import Table
from experiments.table_building import build
from experiments.table_formats import comma_separated, html_table, latex, markdown, text

GOLDEN = Path(__file__).parent / "golden" / "table.tex"
N = 200


@pytest.fixture()
def table(tmp_path: Path) -> Table:
    """Two blocks, three seeds of one method, one of another that has a label of its own and signs that TeX reads."""
    for mode in ("retrieved", "sampled"):
        for seed in range(3):
            make_run(tmp_path, "bert4rec", seed, hits(0.6, N, seed), mode=mode)
        make_run(
            tmp_path, "vip5_100%", 0, hits(0.2, N, 5), mode=mode, labels=("synthetic data", "a_b & {c} ~ 5 % of $d")
        )
    return build(select(tmp_path, None, "demo-*"), metrics=["recall_at_10", "ndcg_at_10"], columns=["candidates.mode"])


def test_latex_is_as_it_was(table: Table) -> None:
    found = latex(table)
    if os.environ.get("RERANK_WRITE_GOLDEN"):
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(table: Table, tmp_path: Path) -> None:
    document = (
        r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}" + latex(table) + r"\end{document}"
    )
    (tmp_path / "paper.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and "Warning: Missing" not in done.stdout


def test_markdown_has_a_line_a_row_and_bold_the_best(table: Table) -> None:
    lines = [line for line in markdown(table).split("\n") if line.startswith("|")]
    assert len({line.count(" | ") for line in lines}) == 1
    assert len(lines) == 2 + len(table.rows)
    best = next(line for line in lines if line.startswith("| bert4rec"))
    assert re.search(r"\*\*0\.\d{4} ± 0\.\d{4}▲\*\*", best)


def test_html_is_well_formed(table: Table) -> None:
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    found = html_table(table)
    Checker(convert_charrefs=True).feed(found)
    assert not open_tags
    assert "a_b &amp; {c}" in found and found.count("<tr") == 2 + len(table.rows)


def test_csv_has_the_exact_values(table: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(comma_separated(table))))
    cell = next(
        x for x in lines if (x["row"], x["column"], x["block"]) == ("bert4rec", "recall_at_10", "mode=sampled")
    )
    shown = next(row for row in table.rows if row.label == "bert4rec")
    column = next(c for c in table.columns if (c.block, c.key) == (1, "recall_at_10"))
    assert float(cell["mean"]) == shown.cells[column].mean
    assert len(cell["runs"].split()) == 3


@pytest.mark.parametrize("width", [60, 100, 140, 300])
def test_a_terminal_shows_the_primary_metric_whole_at_any_width(table: Table, width: int) -> None:
    console = Console(width=max(width, 80), file=io.StringIO(), highlight=False)
    console.print(text(table, width))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "Recall@10" in shown
    assert ("too wide for this terminal" in re.sub(r"\s+", " ", shown)) == (width < 300)


def command(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "experiments.tables", f"paths.root={root}", *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


def test_the_command_writes_the_table_and_where_its_cells_come_from(tmp_path: Path) -> None:
    make_run(tmp_path, "bert4rec", 0, hits(0.6, N, 1))
    done = command(tmp_path, "runs=demo-*", "format=latex")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tables" / "runs.tex").read_text() == done.stdout
    assert json.loads((tmp_path / "tables" / "runs.tex.cells.json").read_text())["cells"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs=demo-*", "format=docx"], "format=docx"),
        (["runs=demo-*", "costs=[money]"], "costs has money, which is not recorded"),
        (["runs=nothing"], "runs=nothing is no run in"),
        (["experiment=compare_dmo"], "did you mean compare_demo?"),
        (["experiment=compare_demo"], "no run of experiment=compare_demo"),
        (["runs=demo-*", "untrained=perhaps"], "untrained=perhaps has the wrong type"),
        (["runs=demo-*", "source=paper"], "source=paper"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, words: list[str], said: str) -> None:
    make_run(tmp_path, "bert4rec", 0, hits(0.6, N, 1))
    done = command(tmp_path, *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "tables").exists()
