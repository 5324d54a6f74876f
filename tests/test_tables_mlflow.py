"""Tables of MLflow's copies: the same as from run folders, without them too; runs that older versions sent."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import mirrored_run

from data.errors import UserError
from data.files import write_json
from experiments.collect import select
from experiments.tables import tables
from experiments.tracking import MLflowTracker, send


def sent_run(root: Path, tracker: MLflowTracker, reranker: str, seed: int, rate: float, **config: Any) -> Path:
    """A run folder that MLflow has a copy of."""
    folder = mirrored_run(root, reranker, seed, rate, **config)
    assert send(folder, tracker)
    return folder


def test_tables_from_mlflow_are_those_of_the_run_folders(
    config: Callable[..., Any], uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = MLflowTracker(uri)
    chosen = [("bert4rec", 0, 0.5), ("bert4rec", 1, 0.6), ("sasrec", 0, 0.7), ("random", 0, 0.2)]
    runs = [sent_run(tmp_path, tracker, *each) for each in chosen]
    jobs = [{"overrides": [f"seed={run.name}"], "run": run.name, "error": None} for run in runs]
    jobs.append({"overrides": ["seed=9"], "run": None, "error": "it failed"})
    record = {"name": "one", "experiment": None, "swept": ["reranker", "seed"], "jobs": jobs, "table": None}
    write_json(tmp_path / "sweeps" / "one.json", record)

    def table(*words: str) -> str:
        tables(config("format=markdown", "sweep=one", *words, small=False, name="tables"))
        return capsys.readouterr().out

    of_mlflow = ["source=mlflow", "tracking=mlflow", f"tracking.uri={uri}"]
    of_folders = table()
    assert "sasrec" in of_folders and table(*of_mlflow) == of_folders
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert table(*of_mlflow) == of_folders


def test_the_newest_finished_copy_counts(uri: str, tmp_path: Path) -> None:
    tracker = MLflowTracker(uri)
    first = sent_run(tmp_path, tracker, "bert4rec", 0, 0.5)
    (first / "mlflow.json").unlink()  # force=true makes the folder anew
    metrics = json.loads((first / "metrics.json").read_text())
    write_json(first / "metrics.json", metrics | {"test/recall_at_10": 0.75})
    assert send(first, tracker)
    (run,) = select(tmp_path, None, [str(first)], tracker).runs
    assert run.metrics["test/recall_at_10"] == 0.75 and run.folder != first


def test_runs_of_older_versions_are_one_sentence(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = MLflowTracker(uri)
    monkeypatch.setattr("experiments.run_mirror.ARTIFACTS", ["config.yaml", "metrics.json"])
    folder = sent_run(tmp_path, tracker, "bert4rec", 0, 0.5)
    with pytest.raises(UserError, match=rf"lacks a file of {folder.name} .*read the run folders instead"):
        select(tmp_path, None, [str(folder)], tracker)
