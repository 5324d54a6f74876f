"""Answers that are lost, processes that end between two calls, servers that come back: MLflow has everything once."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import mirrored_run, write_curve

from data.errors import UserError
from data.files import read_json, write_json
from experiments.curves import read_curves
from experiments.endurance.mirrored_once import differences
from experiments.patience import Patience
from experiments.run_mirror import RunMirror, mirrored
from experiments.sweep_mirror import SweepMirror
from experiments.sync import sync, unsent
from experiments.tracking import DOWN, PARENT, MLflowTracker, send

LIMIT = 60  # seconds after which a broken product fails instead of hanging


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.run_mirror.AT_ONCE", 0.0)


def loses(monkeypatch: pytest.MonkeyPatch, method: str, times: int = 99, done: bool = True) -> list[str]:
    """`MlflowClient.method` raises the first `times`, after it was `done` or instead; what was called."""
    from mlflow import MlflowClient

    original, calls = getattr(MlflowClient, method), []

    def broken(self: Any, *given: Any, **named: Any) -> Any:
        calls.append(method)
        answer = original(self, *given, **named) if done or len(calls) > times else None
        if len(calls) <= times:
            raise ConnectionError("the answer was lost")
        return answer

    monkeypatch.setattr(MlflowClient, method, broken)
    return calls


@pytest.mark.parametrize("times", [1, 99])
@pytest.mark.parametrize("method", ["create_experiment", "create_run", "log_batch", "log_artifact", "set_terminated"])
def test_an_answer_that_is_lost_makes_nothing_twice(
    method: str, times: int, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tracker = mirrored_run(tmp_path, "bert4rec", 0, 0.5), MLflowTracker(uri, f"with {times} {method}")
    monkeypatch.setattr("experiments.endurance.mirrored_once.EXPERIMENT", tracker.experiment)
    calls = loses(monkeypatch, method, times)
    assert send(folder, tracker) == (times == 1 or method in ("create_experiment", "create_run"))
    assert len(calls) >= 1 and (method != "create_run" or len(calls) == 1), "the first is found again"
    monkeypatch.undo()
    monkeypatch.setattr("experiments.endurance.mirrored_once.EXPERIMENT", tracker.experiment)
    assert send(folder, tracker) and differences(uri, tmp_path) == []


def test_a_process_that_ends_before_it_knows_its_run_finds_it_again(uri: str, tmp_path: Path) -> None:
    folder, tracker = mirrored_run(tmp_path, "bert4rec", 0, 0.5), MLflowTracker(uri)
    assert send(folder, tracker)
    state = read_json(folder / "mlflow.json")
    write_json(folder / "mlflow.json", {"uri": uri, "key": state["key"], "finished": False})
    assert send(folder, tracker) and differences(uri, tmp_path) == []
    assert read_json(folder / "mlflow.json")["run_id"] == state["run_id"]


def test_two_servers_in_turn_have_the_run_once_each(database: Path, uri: str, tmp_path: Path) -> None:
    folder, other = mirrored_run(tmp_path, "bert4rec", 0, 0.5), f"sqlite:///{tmp_path / 'other.db'}"
    shutil.copy(database, tmp_path / "other.db")
    for _ in range(2):
        for server in (uri, other):
            if folder in unsent(tmp_path, server):
                assert send(folder, MLflowTracker(server))
            assert mirrored(folder, server)["finished"] and differences(server, tmp_path) == []
    assert mirrored(folder, uri)["run_id"] != mirrored(folder, other)["run_id"]


def test_points_of_a_continued_training_are_not_sent_again(uri: str, tmp_path: Path) -> None:
    """After an interruption the steps since the last checkpoint are logged again, later."""
    folder, tracker = mirrored_run(tmp_path, "bert4rec", 0, 0.5), MLflowTracker(uri)
    write_curve(folder, 1, 2, 3)
    tracker.start(folder)
    tracker.finish(failed=True)
    write_curve(folder, 1, 2, 3, 4, timestamp=2)
    assert send(folder, tracker) and differences(uri, tmp_path) == []


def test_a_server_that_comes_back_is_sent_everything_while_training_goes_on(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("experiments.run_mirror.SECONDS", -1.0)
    monkeypatch.setattr("experiments.run_mirror.LATER", -1.0)
    folder, tracker = mirrored_run(tmp_path, "bert4rec", 0, 0.5), MLflowTracker(uri)
    with monkeypatch.context() as patch:
        loses(patch, "get_experiment_by_name", done=False)
        (folder / "curves.jsonl").unlink()
        tracker.start(folder)
        for step in range(5):
            write_curve(folder, *range(step + 1))
            tracker.points(read_curves(folder)[-1:])
        finished(tracker)
        assert tracker.mirror.down and "run_id" not in tracker.mirror.state
    write_curve(folder, *range(6))
    tracker.points(read_curves(folder)[-1:])
    finished(tracker)
    assert not tracker.mirror.down and tracker.mirror.sent["train_loss"] == 5
    tracker.finish()
    assert differences(uri, tmp_path) == []
    assert sum("send it later" in record.message for record in caplog.records) == 1, "it is told once"


def finished(tracker: MLflowTracker) -> None:
    """Waits for the steps that were given so far."""
    done = threading.Event()
    tracker.mirror.courier.give(done.set)
    assert done.wait(LIMIT)


def test_a_run_that_is_made_after_it_was_given_up_is_deleted(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own goes on to hang at the server while another process sends the folder."""
    from mlflow import MlflowClient

    folder, tracker = mirrored_run(tmp_path, "bert4rec", 0, 0.5), MLflowTracker(uri)
    reached, release, made = threading.Event(), threading.Event(), threading.Event()
    with monkeypatch.context() as patch:
        create = MlflowClient.create_run

        def hangs(self: Any, *given: Any, **named: Any) -> Any:
            reached.set()
            release.wait(LIMIT)
            return create(self, *given, **named)

        patch.setattr(MlflowClient, "create_run", hangs)
        patch.setattr("experiments.patience.DATABASE", Patience(0, 0, 1e9))
        tracker.start(folder)
        assert reached.wait(LIMIT)
        tracker.finish()
        thread = tracker.mirror.courier.thread
        assert thread and thread.is_alive(), "it was given up while it hung"
    log_artifact = MlflowClient.log_artifact

    def in_the_middle(self: Any, *given: Any) -> None:
        release.set()
        thread.join(LIMIT)
        made.set()
        log_artifact(self, *given)

    monkeypatch.setattr(MlflowClient, "log_artifact", in_the_middle)
    assert send(folder, MLflowTracker(uri)) and made.is_set()
    assert differences(uri, tmp_path) == []


def test_a_run_that_is_refused_does_not_look_as_if_it_were_at_work(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    folder, tracker = mirrored_run(tmp_path, "bert4rec", 0, 0.5), MLflowTracker(uri)
    loses(monkeypatch, "log_artifact", done=False)
    assert not send(folder, tracker)
    assert MlflowClient(uri).get_run(read_json(folder / "mlflow.json")["run_id"]).info.status == "FAILED"
    monkeypatch.undo()
    assert send(folder, tracker) and differences(uri, tmp_path) == []


def test_sync_makes_the_sweeps_run_and_sends_nothing_twice(
    config: Callable[..., Any], uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    words = ["tracking=mlflow", f"tracking.uri={uri}"]
    folders = [mirrored_run(tmp_path, "bert4rec", seed, 0.5) for seed in range(3)]
    for folder in folders[:2]:
        write_json(folder / "mlflow.json", {"uri": uri, "key": folder.name, "sweep": "one", "finished": False})
    jobs = [{"overrides": [], "run": folder.name, "error": None} for folder in folders[:2]]
    whole = {"name": "one", "experiment": None, "command": ["train.py"], "swept": ["seed"], "table": {}}
    write_json(tmp_path / "sweeps" / "one.json", whole | {"jobs": jobs, "mlflow": None})
    sync(config(*words, small=False, name="sync"))
    assert "3 runs sent" in capsys.readouterr().out
    client = MlflowClient(uri)
    runs = client.search_runs([MLflowTracker(uri).experiment_id()])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "sweep"]
    above = {run.data.tags["run"]: run.data.tags.get("mlflow.parentRunId") for run in runs if run is not parent}
    assert above == {folders[0].name: parent.info.run_id, folders[1].name: parent.info.run_id, folders[2].name: None}
    assert {run.info.status for run in runs} == {"FINISHED"}
    record = json.loads((tmp_path / "sweeps" / "one.json").read_text())
    assert record["mlflow"] == {"uri": uri, "run_id": parent.info.run_id, "finished": True}
    assert unsent(tmp_path, uri) == []
    sync(config(*words, small=False, name="sync"))
    assert "0 runs sent" in capsys.readouterr().out
    assert len(client.search_runs([MLflowTracker(uri).experiment_id()])) == 4


def test_sync_ends_at_a_server_that_hangs(
    config: Callable[..., Any], uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    for seed in range(2):
        mirrored_run(tmp_path, "bert4rec", seed, 0.5)
    release = threading.Event()
    monkeypatch.setattr("experiments.patience.SENDING", Patience(0, 0, 1e9))
    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", lambda *_: release.wait(LIMIT))
    with pytest.raises(UserError, match=r"0 runs sent, then .* did not answer at demo-bert4rec-.*, 1 runs not tried"):
        sync(config("tracking=mlflow", f"tracking.uri={uri}", small=False, name="sync"))
    release.set()


def test_a_sweep_whose_job_waited_in_vain_asks_no_more_until_it_is_called_again(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record = mirrored_run(tmp_path, "bert4rec", 0, 0.5), tmp_path / "sweeps" / "one.json"
    mirror = SweepMirror(MLflowTracker(uri), record)
    monkeypatch.setenv(DOWN, uri)
    monkeypatch.setenv(PARENT, "")  # and as they were, at the end
    with monkeypatch.context() as patch:
        calls = loses(patch, "search_runs"), loses(patch, "get_experiment_by_name")
        mirror.complete([folder])
        assert not mirror.close(True) and calls == ([], [])
    again = SweepMirror(MLflowTracker(uri), record)
    assert again.open(None, {}) == {"uri": uri, "run_id": again.run_id} and DOWN not in os.environ
    again.complete([folder])
    assert again.close(True) and differences(uri, tmp_path) == []


def test_points_beyond_what_is_held_are_read_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call hangs while training goes on fast; what comes meanwhile and after is sent, each point once."""
    from mlflow import MlflowClient

    monkeypatch.setattr("experiments.run_mirror.HELD", 30)
    monkeypatch.setattr("experiments.run_mirror.BATCH", 10)
    monkeypatch.setattr("experiments.run_mirror.SECONDS", 0.0)
    hangs, begun, sent = threading.Event(), threading.Event(), []

    def log_batch(self: Any, run_id: str, metrics: Any = (), **named: Any) -> None:
        begun.set()
        hangs.wait(LIMIT)
        sent.extend((metric.key, metric.step) for metric in metrics)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    mirror = RunMirror(MLflowTracker(f"sqlite:///{tmp_path}/none.db"), tmp_path, Patience(60, 60, 1e7), None, None)
    mirror.opened, mirror.state["run_id"] = True, "r"
    curve = tmp_path / "curves.jsonl"

    def log(step: int) -> None:
        point = {"name": "train_loss", "step": step, "epoch": 0.0, "value": 1.0, "timestamp": step}
        with curve.open("a") as file:
            file.write(json.dumps(point) + "\n")
        mirror.points([point])

    log(0)
    assert begun.wait(LIMIT)
    for step in range(1, 200):
        log(step)
        if step == 150:
            hangs.set()
    mirror._give(mirror._catch_up)
    assert mirror._wait()
    assert [step for name, step in sent if name == "curve/train_loss"] == list(range(200))


def test_a_sweep_ends_jobs_that_died_here_and_no_others(uri: str, tmp_path: Path) -> None:
    tracker, record = MLflowTracker(uri), tmp_path / "sweeps" / "one.json"
    mirror = SweepMirror(tracker, record)
    mirror.open(None, {})
    (tmp_path / "runs").mkdir()
    places = {"KILLED": tmp_path / "runs" / "died", "RUNNING": tmp_path / "elsewhere" / "runs" / "lives"}
    made = {}
    for wanted, folder in places.items():
        tags = {"mlflow.parentRunId": mirror.run_id, "run_folder": str(folder)}
        made[wanted] = tracker.client().create_run(tracker.experiment_id(), tags=tags).info.run_id
    assert mirror.close(finished=False)
    for wanted, run in made.items():
        assert tracker.client().get_run(run).info.status == wanted
    assert not (tmp_path / "elsewhere").exists()
