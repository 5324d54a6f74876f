"""Sweeps: the plan, what is skipped, what a kill, Ctrl-C or a failed job leaves, the record, one parent in MLflow."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SMALL, command
from omegaconf import OmegaConf
from sweeping import TRAINED, finished, made, parent_and_children, record, results, runs_of, started, sweep, wait_for
from tiny_runs import hits, make_run

from data.errors import UserError
from experiments.planning import Planner
from experiments.run_names import labels, matters, shown
from experiments.search import Search
from experiments.sweep_record import record_path
from experiments.sweeps import after_sweep


def trains(root: Path) -> bool:
    """Whether the first training has begun."""
    return any(path.parent.name.startswith("demo-bert4rec") for path in root.glob("runs/*/environment.json"))


def test_a_sweep_that_is_killed_continues_like_an_unbroken_one(uri: str, tmp_path: Path) -> None:
    unbroken = tmp_path / "unbroken"
    words = ["reranker=random,bert4rec", "seed=0,1", *SMALL, "trainer.num_train_epochs=1"]
    assert sweep(unbroken, *words).returncode == 0

    process = started(tmp_path, *words, tracking=True)
    wait_for(process, lambda: trains(tmp_path))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before, parents = made(tmp_path), [run.info.run_id for run in runs_of(uri) if run.data.tags["kind"] == "sweep"]
    assert 2 <= len(before) < 4 and "RUNNING" in {run.info.status for run in runs_of(uri)}

    again = sweep(tmp_path, *words, tracking=True)
    assert again.returncode == 0, again.stderr
    assert f"4 jobs: {len(before)} finished, {4 - len(before)} to do" in again.stdout
    assert {name: made(tmp_path)[name] for name in before} == before, "no job runs twice"
    assert results(tmp_path) == results(unbroken)
    parent, children = parent_and_children(uri)
    assert [parent.info.run_id] == parents and len(children) == 4
    assert {run.info.status for run in runs_of(uri)} == {"FINISHED"}
    assert record(tmp_path)["mlflow"] == {"uri": uri, "run_id": parents[0], "finished": True}

    stamps = made(tmp_path)
    third = sweep(tmp_path, *words, tracking=True)
    assert third.returncode == 0 and "4 jobs: 4 finished" in third.stdout and "Launching" not in third.stdout
    assert "4 of 4 jobs finished" in third.stdout and made(tmp_path) == stamps


def test_ctrl_c_leaves_what_the_next_call_continues(uri: str, tmp_path: Path) -> None:
    words = ["seed=0,1", "reranker=bert4rec", *TRAINED, "trainer.num_train_epochs=30"]
    process = started(tmp_path, *words, tracking=True)
    wait_for(process, lambda: trains(tmp_path))
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate()
    assert process.returncode == 130 and "interrupted; the same command continues" in errors
    assert "0 of 2 jobs finished" in said and "(seed=1): not begun" in errors
    assert {run.info.status for run in runs_of(uri)} == {"FAILED"}
    again = sweep(tmp_path, *words, tracking=True)
    assert again.returncode == 0 and "continues: demo-bert4rec" in again.stdout
    children = parent_and_children(uri)[1]
    assert len(children) == 2 and {run.info.status for run in runs_of(uri)} == {"FINISHED"}


def test_jobs_that_fail_or_cannot_run_are_told_and_tried_again(tmp_path: Path) -> None:
    words = ["reranker=random", "candidates.size=20,2000", "seed=0,-1", *SMALL[:3]]
    first = sweep(tmp_path, *words)
    assert first.returncode == 2 and "Traceback" not in first.stderr
    left_out = "2 jobs cannot run (candidates.size=20 seed=-1; candidates.size=2000 seed=-1): seed=-1 is out of range"
    assert left_out in first.stdout and "seed=-1 is out of range" not in first.stderr
    assert "4 jobs: 2 to do, 2 left out" in first.stdout and "1 of 4 jobs finished" in first.stdout
    assert "not finished: job 3 (candidates.size=2000 seed=0): candidates.size=2000 exceeds" in first.stderr
    assert "error: 1 jobs of the sweep failed; the first: candidates.size=2000 exceeds" in first.stderr
    jobs, stamps = record(tmp_path)["jobs"], made(tmp_path)
    assert [job["run"] in finished(tmp_path) for job in jobs] == [True, False, False, False]
    assert [(job["error"] or "")[:20] for job in jobs] == [
        "",
        "seed=-1 is out of ra",
        "candidates.size=2000",
        "seed=-1 is out of ra",
    ]
    second = sweep(tmp_path, *words)
    assert second.returncode == 2 and "again; it failed: candidates.size=2000 exceeds" in second.stdout
    assert "4 jobs: 1 finished, 1 to do, 2 left out" in second.stdout and made(tmp_path) == stamps


MISTAKES: list[Any] = ["sed=0,1", "check=maybe"]
MISTAKES += [
    pytest.param(words, marks=pytest.mark.slow) for words in ("seed=-1", "dataset=ml_100k dataset.path=/nope")
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistaken_command_hides_no_good_sweep(mistake: str, tmp_path: Path, uri: str) -> None:
    words = [f"paths.root={tmp_path}", "experiment=compare_demo", "reranker=random,first_stage"]
    assert command("train.py", *words, *SMALL).returncode == 0
    good, n_runs = record(tmp_path), len(runs_of(uri))
    mistaken = command("train.py", *words, *mistake.split())
    assert mistaken.returncode == 2 and "Launching" not in mistaken.stdout and "Executing" not in mistaken.stderr
    assert mistaken.stderr.count("\n") == 1 and "left out; see above" in mistaken.stderr
    assert len(mistaken.stdout.splitlines()) == 3, "each reason once"
    assert record(tmp_path) == good and len(runs_of(uri)) == n_runs == 3


def test_runs_made_one_by_one_come_under_the_sweep(uri: str, tmp_path: Path) -> None:
    single = command("train.py", f"paths.root={tmp_path}", *SMALL, "reranker=random")
    assert single.returncode == 0, single.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    elsewhere = ["reranker=first_stage,popularity", "seed=0", *SMALL]
    assert sweep(tmp_path, *elsewhere, tracking=True).returncode == 0
    (first,) = [run for run in runs_of(uri) if run.data.tags["kind"] == "sweep"]
    mirror = json.loads((folder / "mlflow.json").read_text())
    (folder / "mlflow.json").write_text(json.dumps(mirror | {"finished": False}))  # killed after the manifest

    words = ["seed=0,0", "reranker=random,first_stage", *SMALL]
    done = sweep(tmp_path, *words, tracking=True)
    assert done.returncode == 0 and "the same run as job 1" in done.stdout
    runs = {run.data.tags["run"]: run for run in runs_of(uri) if run.data.tags["kind"] == "run"}
    (second,) = [
        run for run in runs_of(uri) if run.data.tags["kind"] == "sweep" and run.info.run_id != first.info.run_id
    ]
    own = runs[folder.name]
    assert own.info.run_id == mirror["run_id"] and own.info.status == "FINISHED"
    assert own.data.tags["mlflow.parentRunId"] == second.info.run_id
    assert own.data.tags["sweep"] == second.data.tags["sweep"]
    others = {run.data.tags["mlflow.parentRunId"] for name, run in runs.items() if name != folder.name}
    assert others == {first.info.run_id}, "those of another sweep stay there"


def test_a_server_that_is_down_is_told_once(tmp_path: Path) -> None:
    words = ["reranker=random,first_stage", *SMALL, "tracking.uri=http://127.0.0.1:9"]
    done = sweep(tmp_path, *words, tracking=True)
    assert done.returncode == 0 and len(finished(tmp_path)) == 2
    assert (done.stdout + done.stderr).count("send it later") == 1
    assert record(tmp_path)["mlflow"] is None


def test_a_record_is_of_the_jobs_not_of_how_they_are_run(tmp_path: Path) -> None:
    jobs = [["reranker=random", "seed=0"], ["reranker=random", "seed=1"]]
    path = record_path(tmp_path, None, jobs)
    assert path.parent == tmp_path / "sweeps" and path.name.startswith("sweep-")
    other = [["tracking.uri=x", "seed=1", "reranker=random", "force=true"], ["paths.root=/x", *jobs[0]]]
    assert record_path(tmp_path, None, other) == path
    assert record_path(tmp_path, None, jobs[:1]) != path
    assert record_path(tmp_path, "beauty", jobs).name.startswith("beauty-")
    assert matters("dataset.path=x") and not matters("+tracking.experiment=x")


@pytest.mark.parametrize(
    ("overrides", "row"),
    [
        ([], "bert4rec"),
        (["seed=3", "reranker=bert4rec", "paths.root=/x", "force=true", "dataset.path=/y"], "bert4rec"),
        (["trainer.learning_rate=1e-3", "seed=3"], "bert4rec learning_rate=0.001"),
        (["dataset=ml_100k", "+reranker.hidden_size=8"], "bert4rec dataset=ml_100k hidden_size=8"),
        (["reranker.model=/models/Qwen3", "protocol.fold=2"], "bert4rec model=Qwen3"),
        (["candidates.size=20", "trainer.max_steps=5"], "bert4rec max_steps=5 candidates.size=20"),
        (["trainer.eval_strategy=no", "trainer.num_train_epochs=6"], "bert4rec num_train_epochs=6 eval_strategy=no"),
    ],
)
def test_names_of_runs(overrides: list[str], row: str) -> None:
    """Runs that differ in seed or fold alone share their row."""
    fold = 2 if "protocol.fold=2" in overrides else None
    config = {"reranker": {"name": "bert4rec"}, "protocol": {"fold": fold}, "seed": 3, "dataset": {"name": "x"}}
    config |= {"trainer": {"learning_rate": 0.001, "num_train_epochs": 6.0}}
    name = row.replace("bert4rec", "bert4rec fold=2 seed=3" if fold else "bert4rec seed=3")
    assert labels(config, overrides) == {"name": name, "row": row, "experiment": "none"}


def test_what_a_sweep_varies_comes_first_in_names() -> None:
    config = {"reranker": {"name": "sasrec"}, "protocol": {}, "seed": 0, "trainer": {"learning_rate": 1e12}}
    words = ["trainer.learning_rate=1e12", "candidates.size=20", "reranker.dropout=0.2"]
    named = labels(config, words, ["candidates.size", "seed"])
    assert named["name"] == "sasrec seed=0 candidates.size=20 dropout=0.2 learning_rate=1e+12"
    assert named["row"] == "sasrec dropout=0.2 learning_rate=1e+12 candidates.size=20", "the same in every sweep"


def test_numbers_that_mlflow_shows() -> None:
    of_test = "recall_at_10 ndcg_at_10 chance/ndcg_at_10 first_stage/ndcg_at_10 ceiling/recall_at_10 vs_chance/p_holm"
    hidden = (
        "ceiling/ndcg_at_10 conditional/ndcg_at_10 conditional/chance/ndcg_at_10 chance_low/ndcg_at_10 vs_chance/p_t"
    )
    metrics = {f"test/{name}": 0.5 for name in [*of_test.split(), *hidden.split(), "conditional/recall_at_10"]}
    cost = {"training_seconds": 2.0, "device": "cpu", "made_elsewhere": False}
    kept = {f"test/{name}" for name in [*of_test.split(), "conditional/recall_at_10"]} | {"cost/training_seconds"}
    assert set(shown(metrics, cost, "recall_at_10")) == kept


def test_after_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = make_run(tmp_path, "bert4rec", 0, hits(0.5, 50, 1)).name
    (tmp_path / "runs" / "b").mkdir()
    jobs = [{"overrides": [f"seed={i}"], "run": run, "error": error} for i, (run, error) in
            enumerate([(done, None), ("b", None), ("c", None), (None, "no such thing")])]  # fmt: skip
    path = tmp_path / "sweeps" / "x.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"name": "x", "experiment": None, "swept": ["seed"], "jobs": jobs}))
    after_sweep(path, told=[4])
    said, errors = capsys.readouterr()
    assert "Sweep x: 1 of 4 jobs finished" in said
    assert "INCOMPLETE, 3 jobs have no finished run" in said and (tmp_path / "tables" / "x.md").exists()
    assert [line.split("): ")[1] for line in errors.splitlines()] == [
        "interrupted; the same command continues", "not begun",
    ]  # fmt: skip


@pytest.mark.parametrize("ended", ["well", "interrupted", "all failed"])
def test_a_search_ends_as_its_trials_did(ended: str, tmp_path: Path) -> None:
    closed = []
    search = Search()
    search.root, search.record = tmp_path, tmp_path / "sweeps" / "x.json"
    search.mirror = SimpleNamespace(close=closed.append)  # type: ignore[assignment]
    run = make_run(tmp_path, "bert4rec", 0, hits(0.5, 50, 1)).name
    jobs = [] if ended == "all failed" else [{"overrides": ["seed=0"], "run": run, "error": None}]
    search.record.parent.mkdir()
    search.record.write_text(json.dumps({"name": "x", "experiment": None, "swept": [], "jobs": jobs}))
    if ended == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            try:
                raise KeyboardInterrupt
            finally:
                search.end()
    else:
        search.end()
    assert closed == [ended == "well"]
    if ended == "all failed":
        with pytest.raises(UserError, match="no trial of the search"):
            search.raise_failed()
    else:
        search.raise_failed()


def test_a_finished_sweep_is_known_by_config_and_code_without_building_anything(tmp_path: Path) -> None:
    words = ["-m", "reranker=random,bert4rec", *SMALL, "trainer.num_train_epochs=1", f"paths.root={tmp_path}"]
    words += ["tracking=none", "diagnose=off"]
    assert command("train.py", *words).returncode == 0
    before = results(tmp_path)
    again = command("-X", "importtime", "train.py", *words)
    assert again.returncode == 0 and "2 jobs: 2 finished" in again.stdout
    assert "transformers" not in again.stderr and results(tmp_path) == before
    (path,) = (tmp_path / "sweeps").glob("*.json")
    content = json.loads(path.read_text())
    for job in content["jobs"]:
        job["key"] = "of other code"
    path.write_text(json.dumps(content))
    again = command("-X", "importtime", "train.py", *words)
    assert "2 jobs: 2 finished" in again.stdout and "transformers" in again.stderr


def test_no_job_is_known_by_its_config_alone_where_a_file_decides_too(tmp_path: Path) -> None:
    planner = Planner(None, tmp_path, {})
    config = {"dataset": {"_target_": "data.sources.demo.Demo", "item_fields": []}, "force": False}
    config |= {"check": False, "diagnose": "warn"}
    assert planner._key(OmegaConf.create(config))
    (file := tmp_path / "captions.jsonl").touch()
    config["dataset"]["item_fields"] = [str(file)]  # type: ignore[index]
    assert planner._key(OmegaConf.create(config)) is None
