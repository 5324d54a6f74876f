"""The page of a comparison: everything in one file, nothing from outside it."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from tiny_runs import hits, make_run

from data.files import write_json
from experiments.launch import ROOT

VOID = {"meta", "br", "img", "link", "hr", "input"}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("report")
    for seed in range(3):
        make_run(root, "bert4rec", seed, hits(0.6, 300, seed))
    broken = make_run(root, "vip5", 0, hits(0.2, 300, 5), labels=("synthetic data", "features <random> & alike"))
    finding = {
        "check": "weights",
        "verdict": "fail",
        "evidence": "moved by 1e-9 of <their> size",
        "advice": "try more",
    }
    write_json(broken / "diagnosis.json", {"verdict": "fail", "findings": [finding], "tag": "fail: weights"})
    line = [sys.executable, "-m", "experiments.report", f"paths.root={root}", "runs=demo-*"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (root / "reports" / "runs.html").read_text(encoding="utf-8")


def test_nothing_is_read_from_elsewhere(page: str) -> None:
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>', "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!#)|@import|url\((?!#)|<script', without_names)


def test_it_is_well_formed_and_has_its_parts(page: str) -> None:
    open_tags: list[str] = []
    ids: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            open_tags.extend([tag] * (tag not in VOID))
            ids.extend(str(value) for name, value in attrs if name == "id")

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Checker(convert_charrefs=True).feed(page)
    assert not open_tags
    assert {"result", "figures", "diagnosis", "protocol", "runs", "how-to-reproduce", "environment"} <= set(ids)
    anchors = set(re.findall(r'href="#([^"]+)"', page))
    assert anchors <= set(ids) and len(ids) == len(set(ids))
    assert page.count("<svg") >= 2


def test_a_failed_diagnosis_and_labels_stand_there_escaped(page: str) -> None:
    assert '<td class="fail">fail</td>' in page
    assert "moved by 1e-9 of &lt;their&gt; size" in page
    assert "features &lt;random&gt; &amp; alike" in page


def test_how_to_reproduce_names_every_run(page: str) -> None:
    commands = re.findall(r"python train\.py .*", page)
    assert len(commands) == 4
    assert any("reranker=vip5 seed=0" in command for command in commands)
