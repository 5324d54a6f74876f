"""Sweeps of tiny jobs as commands, and what they leave: folders, the record, MLflow."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import SMALL, command

from experiments.launch import ROOT

TRAINED = [*SMALL, "reranker.hidden_size=16", "reranker.num_attention_heads=2", "reranker.max_length=12"]
TRAINED += ["trainer.num_train_epochs=2", "trainer.logging_steps=4"]


def sweep(root: Path, *words: str, tracking: bool = False) -> subprocess.CompletedProcess[str]:
    return command("train.py", "-m", *words_of(root, *words, tracking=tracking), timeout=300)


def words_of(root: Path, *words: str, tracking: bool = False) -> list[str]:
    return [f"paths.root={root}", *([] if tracking else ["tracking=none"]), *words]


def started(root: Path, *words: str, tracking: bool = False) -> subprocess.Popen[str]:
    """A sweep in a session of its own, for tests that end it."""
    command = [sys.executable, "train.py", "-m", *words_of(root, *words, tracking=tracking)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def record(root: Path) -> dict[str, Any]:
    (path,) = (root / "sweeps").iterdir()
    return json.loads(path.read_text())


def finished(root: Path) -> set[str]:
    return {path.parent.name for path in root.glob("runs/*/manifest.json")}


def results(root: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in root.glob("runs/*/metrics.json")}


def made(root: Path) -> dict[str, int]:
    """Run folder -> when its results were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in root.glob("runs/*/metrics.json")}


def runs_of(uri: str) -> list[Any]:
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("rerankers")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def parent_and_children(uri: str) -> tuple[Any, list[Any]]:
    """Fails unless there is one parent, and no run but it and its children."""
    runs = runs_of(uri)
    (parent,) = [run for run in runs if run.data.tags["kind"] == "sweep"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1
    return parent, children


def wait_for(process: subprocess.Popen[str], what: Callable[[], bool]) -> None:
    """Until something has happened while the process runs."""
    deadline = time.monotonic() + 200
    while not what():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
