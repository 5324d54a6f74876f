"""MLflow after a kill: a database whose tables were half made, points that were sent and not noted."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from data.files import read_json, write_json
from experiments.mlflow_database import make_database
from experiments.runs import Run
from experiments.tracking import MLflowTracker


def test_a_database_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mlflow.db"

    def killed(uri: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_text("half the tables")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_database(f"sqlite:///{path}", killed)
    assert not path.exists()
    path.with_name("mlflow.db.partial").write_text("half the tables, of a process that could not tidy up")

    def client(uri: str) -> SimpleNamespace:
        partial = Path(uri.removeprefix("sqlite:///"))
        assert not partial.exists()
        return SimpleNamespace(get_experiment=lambda number: partial.write_text("tables"))

    make_database(f"sqlite:///{path}", client)
    make_database(f"sqlite:///{path}", killed)  # it is there
    make_database("http://127.0.0.1:9", killed)  # a server makes its own
    assert [(left.name, left.read_text()) for left in path.parent.iterdir()] == [("mlflow.db", "tables")]


def test_points_that_were_sent_before_a_kill_are_not_sent_again_with_another_time(uri: str, tmp_path: Path) -> None:
    run, tracker = Run(tmp_path / "run"), MLflowTracker(uri)
    config = {"protocol": {"split": {"_target_": "X"}}, "dataset": {"name": "d"}, "candidates": {"mode": "m"}}
    with run.start(config | {"reranker": {"name": "r"}, "seed": 0}, False, tracker):
        run.begin_training()
        for step in (1, 2):
            tracker.points(run.log({"epoch": 0.1, "train_loss": 1.0 / step}, step))
        tracker._flush()
        tracker.points(run.log({"train_loss": 0.4, "epoch": 0.2}, 3))  # in the buffer when the kill comes
        write_json(run.folder / "mlflow.json", read_json(run.folder / "mlflow.json") | {"sent": {}})  # as if killed
        tracker.start(run.folder)
        for step in (1, 2, 4):  # trained again from nothing, at other times
            tracker.points(run.log({"epoch": 0.1, "train_loss": 1.0 / step}, step))
        tracker._flush()
        for name, steps in (("curve/train_loss", [1, 2, 3, 4]), ("curve/epoch", [1, 2, 3, 4])):
            history = tracker._client().get_metric_history(tracker.state["run_id"], name)
            assert sorted(point.step for point in history) == steps
