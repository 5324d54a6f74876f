"""Parallel jobs: joblib and submitit_local under one parent on a new database, one GPU each, processes that die."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SMALL
from sweeping import finished, made, parent_and_children, record, results, runs_of, started, sweep, wait_for

from data.files import read_json
from experiments import gpus
from experiments.launchers import Patient, prepare

pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
HOLD = "import sys; from experiments import gpus; print(gpus.take(), flush=True); sys.stdin.read()"


@pytest.mark.parametrize("launcher", ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow)])
def test_parallel_jobs_have_one_parent_on_a_new_database(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "71,72")  # no job here starts CUDA
    done = sweep(tmp_path, f"hydra/launcher={launcher}", "reranker=random", "seed=0,1", *SMALL, tracking=True)
    assert done.returncode == 0, done.stderr
    parent, children = parent_and_children(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert len(children) == 2 and {run.info.status for run in (parent, *children)} == {"FINISHED"}
    for number in (1, 2):
        assert f"{number}/2 demo-random-" in done.stdout
    seen = [read_json(path)["cuda_visible_devices"] for path in tmp_path.glob("runs/*/environment.json")]
    assert len(seen) == 2 and set(seen) <= {"71", "72"}, "each job sees one GPU"
    again = sweep(tmp_path, f"hydra/launcher={launcher}", "reranker=random", "seed=0,1", *SMALL, tracking=True)
    assert again.returncode == 0 and "2 jobs: 2 finished" in again.stdout, "no job is left for the launcher"


def test_a_job_that_fails_in_another_process_is_told(tmp_path: Path) -> None:
    words = ["hydra/launcher=joblib", "reranker=random", "candidates.size=20,2000", *SMALL[:3]]
    done = sweep(tmp_path, *words)
    assert done.returncode == 2 and len(finished(tmp_path)) == 1
    assert "error: 1 jobs of the sweep failed; the first: candidates.size=2000 exceeds" in done.stderr


def test_processes_side_by_side_take_different_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(gpus.GPUS, "73,GPU-a/b")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    start = [sys.executable, "-c", HOLD]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first, second = (subprocess.Popen(start, **pipes) for _ in range(2))  # type: ignore[call-overload]
    assert {first.stdout.readline(), second.stdout.readline()} == {"73\n", "GPU-a/b\n"}
    third = subprocess.Popen(start, **pipes)  # type: ignore[call-overload]
    assert "this one waits" in third.stderr.readline()
    first.kill()
    given = third.stdout.readline()
    second.communicate("")
    third.communicate("")
    assert given in ("73\n", "GPU-a/b\n"), "a process that dies gives its GPU back"


@pytest.mark.parametrize(("chosen", "names"), [("0,1", ["0", "1"]), ("", []), ("-1", []), ("GPU-x", ["GPU-x"])])
def test_visible_gpus_are_those_of_the_environment(
    chosen: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert gpus.visible() == names


def test_visible_gpus_are_those_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def driver(listed: str) -> list[str]:
        answer = SimpleNamespace(returncode=0, stdout=listed)
        monkeypatch.setattr(gpus.subprocess, "run", lambda *a, **k: answer)
        return gpus.visible()

    whole = "GPU 0: NVIDIA A100 (UUID: GPU-1)\nGPU 1: NVIDIA A100 (UUID: GPU-2)\n"
    assert driver(whole) == ["0", "1"]
    assert driver("GPU 0: NVIDIA A100 (UUID: GPU-1)\n  MIG 1g.5gb Device 0: (UUID: MIG-a)\n") == ["MIG-a"]
    assert driver("") == []


class JoblibLauncher:
    """As far as `prepare` looks at it."""

    def __init__(self, n_jobs: int) -> None:
        self.joblib: dict[str, Any] = {"n_jobs": n_jobs, "pre_dispatch": "2*n_jobs"}


@pytest.mark.parametrize(
    ("visible", "given", "n_jobs"), [("", -1, 2), ("", 3, 3), ("0,1,2", -1, 3), ("0,1,2", 2, 2), ("0", 4, 1)]
)
def test_no_more_jobs_than_gpus(visible: str, given: int, n_jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv(gpus.GPUS, "")
    monkeypatch.setenv("PYTHONPATH", "")
    launcher = JoblibLauncher(given)
    prepare(launcher, 10, "" if given == -1 else f"hydra.launcher.n_jobs={given}")
    assert launcher.joblib["n_jobs"] == n_jobs


def test_a_process_that_dies_takes_its_own_job_alone() -> None:
    """One job kills its process, and with it the one beside; the others are done all the same."""
    failed, done, calls = [], [], []

    class Launcher:
        def launch(self, jobs: list[list[str]], initial_job_idx: int) -> list[Any]:
            calls.append([job[0] for job in jobs])
            if ["b"] in jobs:
                raise RuntimeError("a worker was killed")
            done.extend(job[0] for job in jobs)
            return [SimpleNamespace(_return_value={}) for _ in jobs]

    def state(job: list[str]) -> str:
        return "finished" if job[0] in done else "died" if job[0] in "bc" else "waiting"

    done.append("a")
    patient = Patient(Launcher(), lambda job, error: failed.append((job[0], str(error))), state)  # type: ignore[arg-type]
    assert len(patient.launch([["a"], ["b"], ["c"], ["d"]], 0)) == 2
    assert failed == [("b", "a worker was killed")] and sorted(done) == ["a", "c", "d"]
    assert calls == [["a", "b", "c", "d"], ["d"], ["b"], ["c"]]
    assert patient.launch([], 0) == []


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_twelve_jobs_killed_in_the_middle(launcher: str, tmp_path: Path) -> None:
    words = ["reranker=random,popularity,bert4rec", "seed=0,1,2,3", *SMALL, "trainer.num_train_epochs=1"]
    words += [f"hydra/launcher={launcher}", "hydra.sweeper.max_batch_size=4"]
    unbroken, root = tmp_path / "unbroken", tmp_path / "killed"
    assert sweep(unbroken, *words).returncode == 0
    process = started(root, *words, tracking=True)
    wait_for(process, lambda: len(finished(root)) >= 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = made(root)
    again = sweep(root, *words, tracking=True)
    assert again.returncode == 0, again.stderr
    assert {name: made(root)[name] for name in before} == before, "no job runs twice"
    assert results(root) == results(unbroken) and len(results(root)) == 12
    uri = f"sqlite:///{root / 'mlflow.db'}"
    _parent, children = parent_and_children(uri)
    assert len(children) == 12 and {run.info.status for run in runs_of(uri)} == {"FINISHED"}
    assert [job["error"] for job in record(root)["jobs"]] == [None] * 12
