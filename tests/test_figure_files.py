"""python -m experiments.figures: its files, the same bytes for the same runs, SVG for a page, MLflow, refusals."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import command
from drawn_figures import only, selection
from omegaconf import DictConfig
from run_folders import write_run

from data.errors import UserError
from data.files import write_json
from experiments.figure_style import FORMATS, inline_svg, rendered
from experiments.figures import draw, figures


def test_the_same_runs_give_the_same_bytes(tmp_path: Path, two_rerankers: dict[str, list[Path]]) -> None:
    once, again = (
        [rendered(f, form) for f in draw(selection(tmp_path), ["curves", "cost"])[0] for form in FORMATS]
        for _ in range(2)
    )
    assert once == again and len(set(once)) == 6


def test_embedding_the_fonts_of_a_pdf_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_run(tmp_path, "bert4rec")
    caplog.set_level("INFO")  # Hydra's level of the root logger
    rendered(only(tmp_path, "recall_at_k"), "pdf")
    assert caplog.records == []


def test_svg_for_a_page_has_its_caption_text_as_text_and_ids_of_its_own(
    tmp_path: Path, two_rerankers: dict[str, list[Path]]
) -> None:
    drawn, _ = draw(selection(tmp_path), ["recall_at_k", "cost"])
    elements = [inline_svg(figure) for figure in drawn]
    for figure, element in zip(drawn, elements, strict=True):
        assert element.startswith('<svg role="img" aria-label="') and element.rstrip().endswith("</svg>")
        assert figure.caption[:20] in element and ">chance</text>" in element
    first, second = (set(re.findall(r' id="([^"]+)"', element)) for element in elements)
    assert first and second and not first & second
    for element, ids in zip(elements, (first, second), strict=True):
        assert set(re.findall(r"(?:url\(|href=\")#([\w-]+)", element)) <= ids


def test_the_command_writes_files_and_says_what_each_shows(
    tmp_path: Path,
    two_rerankers: dict[str, list[Path]],
    config: Callable[..., DictConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ask(*words: str) -> DictConfig:
        return config("runs=[tiny-*]", *words, small=False, name="figures")

    figures(ask("figures=[cost,wins,sweep]", "formats=[svg,png]"))
    out = capsys.readouterr().out
    folder = tmp_path / "figures" / "runs"
    assert sorted(path.name for path in folder.iterdir()) == ["cost.png", "cost.svg", "wins.png", "wins.svg"]
    assert f"{folder / 'cost.png'}\n" in out and "  Test Recall@5" in out and "Not drawn: sweep, no number" in out
    with pytest.raises(UserError, match="figures=pie is not allowed; choose curves or recall_at_k"):
        figures(ask("figures=[pie]"))
    with pytest.raises(UserError, match="formats=gif is not allowed"):
        figures(ask("formats=gif"))
    with pytest.raises(UserError, match="metric=recall_at_3 is not a metric of these runs; choose of recall_at_1"):
        figures(ask("metric=recall_at_3"))
    with pytest.raises(UserError, match="no figure can be drawn of runs: sweep, no number was swept"):
        figures(ask("figures=sweep"))
    with pytest.raises(UserError, match=r"unknown key figure; did you mean figures\?"):
        figures(ask("+figure=1"))


def test_figures_go_to_the_sweeps_run_in_mlflow_and_its_failure_is_a_warning(
    tmp_path: Path,
    two_rerankers: dict[str, list[Path]],
    config: Callable[..., DictConfig],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent = []

    class Client:
        def log_artifact(self, run: str, path: str, folder: str) -> None:
            sent.append((run, Path(path).name, folder))

    jobs = [
        {"overrides": [], "run": folder.name, "error": None}
        for folders in two_rerankers.values()
        for folder in folders
    ]
    record = {"name": "one", "experiment": None, "swept": ["seed"], "jobs": jobs, "table": None}
    write_json(tmp_path / "sweeps" / "one.json", record | {"mlflow": {"uri": "u", "run_id": "r"}})
    monkeypatch.setattr("experiments.tracking.MLflowTracker.client", lambda self: Client())
    cfg = config("figures=wins", "formats=[pdf]", "tracking=mlflow", small=False, name="figures")
    figures(cfg)
    assert sent == [("r", "wins.png", "figures")]
    assert [path.name for path in (tmp_path / "figures" / "one").iterdir()] == ["wins.pdf"]

    def down(self: Any) -> Any:
        raise ConnectionError("no server")

    monkeypatch.setattr("experiments.tracking.MLflowTracker.client", down)
    figures(cfg)
    assert "MLflow at u did not take the figures (no server)" in caplog.text
    figures(config("figures=wins", "formats=[pdf]", small=False, name="figures"))  # tracking=none
    assert len(sent) == 1


def test_mixed_protocols_end_in_one_sentence(tmp_path: Path) -> None:
    for size in (10, 20):
        write_run(tmp_path, "bert4rec", candidates__size=size)
    out = command("-m", "experiments.figures", f"paths.root={tmp_path}", "runs=tiny-*", "tracking=none")
    assert out.returncode == 2 and "Traceback" not in out.stderr
    assert out.stderr.count("\n") == 1 and "these runs do not share one protocol" in out.stderr
