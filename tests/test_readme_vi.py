"""README.vi.md: its example files are read, its errors are the true ones, its numbers stand in README.md."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from guides import VIETNAMESE, commands
from hydra import compose
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from data.dataset import Dataset
from data.errors import UserError
from data.sources.amazon import AmazonReviews
from data.sources.passage_files import PassageFiles
from data.sources.sequences import Sequences
from data.splits import LeaveOneOut, Temporal
from data.text_lists import read_texts
from experiments.launch import ROOT, sentence

pytestmark = pytest.mark.usefixtures("composing")


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The guide's files, written where the commands are given."""
    for block in VIETNAMESE:
        if block.file is not None:
            path = tmp_path / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(folder: Path) -> None:
    scripts = sorted(folder.glob("*.py"))
    assert len(scripts) == 1
    spec = importlib.util.spec_from_file_location("converted", scripts[0])
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def taken(dataset: Dataset, user: str) -> list[str]:
    """The items of a user, oldest first."""
    events = dataset.interactions
    mine = [row for row in range(len(events.user)) if dataset.user_id[events.user[row]] == user]
    return [str(dataset.catalog.id[events.item[row]]) for row in mine]


def test_the_passages_of_the_guide_are_read(at_home: Path) -> None:
    dataset = PassageFiles(name="passages", path="clb").load(at_home)
    assert len(dataset.catalog) == 6 and dataset.queries is not None and len(dataset.queries) == 6
    several = [row for row in range(6) if (dataset.interactions.user == row).sum() > 1]
    assert [dataset.queries[row] for row in several] == ["Sinh viên năm nhất nên học lớp nào?"]
    assert all(unicodedata.is_normalized("NFC", text) for text in dataset.catalog.description)
    assert len(read_texts(Path("clb/corpus.csv"), "passages")) == 6, "experiments.rank finds the column"


def test_the_guides_conversion_is_read_by_both_sources(at_home: Path) -> None:
    convert(at_home)
    plain = Sequences(name="sequences", path="shop", missing_titles="keep").load(at_home)
    timed = AmazonReviews(name="amazon_reviews", path="shop_timed").load(at_home)
    for dataset in (plain, timed):
        assert taken(dataset, "an") == ["sp_1", "sp_2", "sp_3", "sp_4"], "by time, not by line"
        assert sorted(dataset.user_id) == ["an", "bình", "chi"]
        title = dict(zip(dataset.catalog.id, dataset.catalog.title, strict=True))
        assert title["sp_1"] == "Áo dài lụa Hà Đông"
        assert len(LeaveOneOut().split(dataset).test.histories) == 3
    assert not plain.timed and timed.timed
    assert sorted(set(timed.interactions.rating)) == [3.0, 4.0, 5.0]
    first = timed.interactions.timestamp.min()
    assert first == 1735720200, "2025-01-01 08:30 as UTC"
    assert len(
        AmazonReviews(name="amazon_reviews", path="shop_timed", min_rating=4).load(at_home).interactions.user
    ) < len(timed.interactions.user)
    Temporal(validation_share=0.2, test_share=0.2).split(timed)


def provoked() -> list[tuple[str, str]]:
    """Command and error of the blocks that show both."""
    out = []
    for block in VIETNAMESE:
        lines = block.text.splitlines()
        for command, answer in itertools.pairwise(lines):
            if block.language == "console" and command.startswith("$ ") and answer.startswith("error: "):
                out.append((command[2:], answer.removeprefix("error: ")))
    return out


@pytest.mark.parametrize(("command", "says"), provoked())
def test_the_guides_errors_are_the_true_ones(
    command: str, says: str, at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train import train

    convert(at_home)
    [[program, script, *words]] = commands(command)
    assert (program, script) == ("python", "train.py")
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises((UserError, HydraException, OmegaConfBaseException)) as caught:
        train(compose("train", [f"paths.root={at_home}", "tracking=none", *words]))
    assert sentence(caught.value) == says


def test_every_error_of_the_guide_is_provoked() -> None:
    shown = sum(line.startswith("error: ") for block in VIETNAMESE for line in block.text.splitlines())
    assert shown == len(provoked()) > 5


def test_the_guides_numbers_stand_in_the_readme() -> None:
    """Output that is quoted (blocks without a language) is quoted line by line."""
    english = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    quoted = [line for block in VIETNAMESE if not block.language for line in block.text.splitlines()]
    assert quoted
    assert not [line for line in quoted if line.strip() not in ("", "...") and line not in english]


def test_the_guide_is_composed_vietnamese() -> None:
    text = (ROOT / "README.vi.md").read_text(encoding="utf-8")
    assert unicodedata.is_normalized("NFC", text)
    assert "README.vi.md" in (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[0]


def test_links_inside_the_guide_lead_somewhere() -> None:
    text = (ROOT / "README.vi.md").read_text(encoding="utf-8")
    titles = [line.lstrip("#").strip().lower() for line in text.splitlines() if line.startswith("#")]
    anchors = {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}
    assert not [name for name in re.findall(r"\]\(#([^)]+)\)", text) if name not in anchors]
    assert not [name for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text) if not (ROOT / name).exists()]
