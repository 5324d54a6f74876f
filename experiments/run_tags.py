"""What MLflow's UI groups and filters runs by: tags and parameters of a run folder."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

from data.files import read_json
from experiments.find_run import overrides_of
from experiments.run_names import NO_NUMBER, labels


def tags_of_run(folder: Path, config: dict[str, Any], record: Path | None) -> dict[str, str]:
    """Runs that differ in seed or fold alone share `row`; `record` is the sweep's file."""
    environment = read_json(folder / "environment.json")
    overrides = overrides_of(folder)
    known = read_json(record) if record and record.exists() else {}
    named = labels(config, overrides, known.get("swept", ()))
    kind = "run"
    if config["protocol"]["split"]["_target_"].endswith(".QueryFolds"):
        kind = "pool" if config["protocol"].get("fold") is None else "fold"
    if folder.parent.name == "evaluations":
        kind = "evaluation"
    return {
        "mlflow.runName": named["name"],
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": environment["command"][0],
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": str(environment["git_sha"]),
        "kind": kind,
        "dataset": config["dataset"]["name"],
        "reranker": config["reranker"]["name"],
        "candidates": config["candidates"]["mode"],
        "seed": str(config["seed"]),
        "row": named["row"],
        "experiment": named["experiment"],
        "sweep": record.stem if record else "none",
        "run": folder.name,
        "git.dirty": str(environment["git_dirty"]),
        "run_folder": str(folder),
    }


def parameters_of(config: dict[str, Any]) -> dict[str, str]:
    """Without what may change when a run is continued: MLflow's parameters never do."""
    kept = {name: node for name, node in config.items() if name not in NO_NUMBER}
    return {name: str(value)[:6000] for name, value in flatten(kept).items()}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix.rstrip("."): config}
    return {name: value for key, node in config.items() for name, value in flatten(node, f"{prefix}{key}.").items()}
