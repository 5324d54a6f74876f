"""MLflow read back through its client; a server that is down; sending later."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICK

from data.errors import UserError
from experiments.curves import read_curves
from experiments.sync import sync
from experiments.tracking import MLflowTracker, send
from train import train


def test_run_is_mirrored(config: Callable[..., Any], uri: str, tmp_path: Path) -> None:
    import mlflow

    metrics = train(config(*QUICK, "tracking=mlflow"))
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("rerankers")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    (folder,) = (tmp_path / "runs").iterdir()
    assert run.info.status == "FINISHED" and run.info.run_name == "bert4rec seed=0"
    assert (run.data.tags["run"], run.data.tags["row"], run.data.tags["kind"]) == (folder.name, "bert4rec", "run")
    assert run.data.params["reranker.hidden_size"] == "16" and run.data.params["trainer.logging_steps"] == "1.0"
    assert not {name for name in run.data.params if name.startswith(("diagnose", "check", "force", "paths"))}, (
        "they may change when a run is continued, MLflow's parameters may not"
    )
    assert run.data.tags["reranker"] == "bert4rec" and "synthetic data" in run.data.tags["labels"]
    assert run.data.metrics["test/recall_at_10"] == pytest.approx(metrics["test/recall_at_10"])
    assert run.data.metrics["test/chance/recall_at_10"] == pytest.approx(metrics["test/chance/recall_at_10"])
    assert run.data.tags["diagnosis"] == json.loads((folder / "diagnosis.json").read_text())["tag"] != ""
    points = read_curves(folder)
    for name in ("train_loss", "valid_recall_at_10"):
        sent = client.get_metric_history(run.info.run_id, f"curve/{name}")
        wanted = [(p["step"], pytest.approx(p["value"])) for p in points if p["name"] == name]
        assert sorted((m.step, m.value) for m in sent) == wanted and len(wanted) >= 2
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {
        "config.yaml",
        "metrics.json",
        "diagnosis.json",
    }


def test_a_server_that_is_down_never_stops_training(
    config: Callable[..., Any], uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow

    metrics = train(config(*QUICK, "tracking=mlflow", "tracking.uri=http://127.0.0.1:9"))
    assert metrics["test/n_requests"] == 120
    assert sum("send it later" in record.message for record in caplog.records) == 1, "it is told once"

    (folder,) = (tmp_path / "runs").iterdir()
    tracker = MLflowTracker(uri)
    assert send(folder, tracker)
    assert json.loads((folder / "mlflow.json").read_text())["finished"]
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([tracker.experiment_id()])
    assert run.data.tags["diagnosis"] == json.loads((folder / "diagnosis.json").read_text())["tag"]
    before = len(client.get_metric_history(run.info.run_id, "curve/train_loss"))
    assert before == sum(p["name"] == "train_loss" for p in read_curves(folder))
    assert send(folder, tracker), "a second time sends no point again"
    assert len(client.get_metric_history(run.info.run_id, "curve/train_loss")) == before
    assert len(client.search_runs([tracker.experiment_id()])) == 1


def test_a_run_that_fails_is_marked_and_a_later_try_takes_the_same_mirror(
    config: Callable[..., Any], uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from experiments import conclude

    monkeypatch.setattr(conclude, "conclude", lambda *a: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError):
        train(config(*QUICK, "tracking=mlflow"))
    client, tracker = mlflow.MlflowClient(uri), MLflowTracker(uri)
    assert [run.info.status for run in client.search_runs([tracker.experiment_id()])] == ["FAILED"]
    monkeypatch.undo()
    train(config(*QUICK, "tracking=mlflow"))
    assert [run.info.status for run in client.search_runs([tracker.experiment_id()])] == ["FINISHED"]


def test_sync_goes_on_after_a_run_that_is_refused(
    config: Callable[..., Any], uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    words = ["reranker=random", "tracking=mlflow", "tracking.uri=http://127.0.0.1:9"]
    for seed in range(3):
        train(config(*words, f"seed={seed}"))
    names = sorted(folder.name for folder in (tmp_path / "runs").iterdir())
    asked = config("tracking=mlflow", f"tracking.uri={uri}", small=False, name="sync")
    log_artifact = mlflow.MlflowClient.log_artifact

    def refuses(self: Any, run_id: str, path: str, *more: Any) -> None:
        if names[1] in path:
            raise RuntimeError("too large")
        log_artifact(self, run_id, path, *more)

    monkeypatch.setattr(mlflow.MlflowClient, "log_artifact", refuses)
    with pytest.raises(UserError, match=rf"2 runs sent to .*, 1 failed, each for the reason above: {names[1]};"):
        sync(asked)
    monkeypatch.undo()
    tracker, client = MLflowTracker(uri), mlflow.MlflowClient(uri)
    states = [json.loads((tmp_path / "runs" / name / "mlflow.json").read_text()) for name in names]
    assert [state["finished"] for state in states] == [True, False, True]
    sync(asked)
    runs = client.search_runs([tracker.experiment_id()])
    assert sorted(run.data.tags["run"] for run in runs) == names, "each is there once"
    for run in runs:
        assert len(client.get_metric_history(run.info.run_id, "test/recall_at_10")) == 1


def test_sync_stops_at_a_server_that_does_not_answer(config: Callable[..., Any], tmp_path: Path) -> None:
    words = ["reranker=random", "tracking=mlflow", "tracking.uri=http://127.0.0.1:9"]
    for seed in range(2):
        train(config(*words, f"seed={seed}"))
    with pytest.raises(UserError, match=r"0 runs sent, then .* did not answer at demo-random-.*, 1 runs not tried"):
        sync(config(*words[1:], small=False, name="sync"))
