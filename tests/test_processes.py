"""Several processes: who writes, what is agreed, how scores are shared, and what is refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICK, command, only_run

from data.dataset import Dataset
from data.errors import UserError
from experiments import processes
from experiments.config import configure
from experiments.endurance.killed import found
from experiments.endurance.processes import (
    LOSS,
    METRIC,
    differences,
    differing,
    killed_at_a_checkpoint,
    torchrun,
    written_twice,
)
from experiments.endurance.small import command as command_line
from experiments.endurance.small import environment, words
from experiments.endurance.writers import UNSEEN, noted
from experiments.folds import fold_of
from experiments.launch import ROOT, told
from experiments.tracking import NullTracker


def two(*line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)


def test_what_c_and_rust_write_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import safetensors.numpy
    import safetensors.torch
    import torch
    from transformers import BertTokenizer

    seen: list[str] = []
    for name in UNSEEN:
        owner, last = found(name)
        monkeypatch.setattr(owner, last, getattr(owner, last))  # to have it again at the end
        noted(owner, last, lambda path: seen.append(Path(path).name))
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "torch.safetensors")
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "numpy.safetensors")
    torch.save([], tmp_path / "optimizer.pt")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    BertTokenizer({"[UNK]": 0}).save_pretrained(tmp_path / "tokenizer")
    assert seen == ["torch.safetensors", "numpy.safetensors", "optimizer.pt", "a.parquet", "tokenizer"]


def test_a_checkpoint_that_both_write_is_found(tmp_path: Path) -> None:
    one, two, notes = (tmp_path / name for name in ("one", "two", "notes"))
    for root in (one, two):
        (root / "runs" / "run-1" / "checkpoints" / "checkpoint-3").mkdir(parents=True)
        (root / "outputs" / "day" / "time").mkdir(parents=True)
    notes.mkdir()
    run = two / "runs" / "run-1"
    checkpoint = run / "checkpoints" / "checkpoint-3"
    weights, optimizer = str(checkpoint / "model.safetensors"), str(checkpoint / "optimizer.pt")

    def wrong(first: list[str], second: list[str]) -> list[str]:
        for rank, paths in enumerate((first, second)):
            (notes / f"{rank}.json").write_text(json.dumps(paths))
        return written_twice(one / "runs" / "run-1", run, notes)

    allowed = [str(two / "cache" / "a.parquet"), str(checkpoint / "rng_state_1.pth"), "/tmp/x"]
    assert wrong([weights, optimizer, *allowed[:1]], allowed[1:]) == []
    assert wrong([weights, optimizer], [weights]) == [
        f"written by both: {[weights]}",
        f"written by the second: {[weights]}",
    ]
    assert wrong([optimizer], []) == ["the first is not seen to write any of ['.safetensors']"]


def test_a_run_that_has_ended_is_no_trial_of_a_kill(tmp_path: Path) -> None:
    assert not killed_at_a_checkpoint(command_line("-c", ""), tmp_path)
    (tmp_path / "runs" / "run-1").mkdir(parents=True)
    for name in ("manifest.json", "metrics.json"):
        (tmp_path / "runs" / "run-1" / name).write_text("{}")
    assert differing(tmp_path, {"run-1": b"{}"}) == []
    assert differing(tmp_path, {"run-1": b"{1}", "run-2": b""}) == ["other numbers of run-1", "other numbers of run-2"]


def test_each_scores_its_share_and_all_get_all(tmp_path: Path) -> None:
    done = two(*torchrun("tests/two_shares.py", str(tmp_path)))
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (first["asked"], second["asked"]) == ([0, 0, 0, 2, 4], [1, 1, 3]), "of 1, 2 and 5 requests"
    for n in (1, 2, 5):
        assert first["got"][str(n)] == second["got"][str(n)] == [[10 * row, 10 * row + 1] for row in range(n)]
    assert first["agreed"] == second["agreed"] == [True, False], "what the first process found"
    assert "printed by 0" in done.stdout and "printed by 1" not in done.stdout


def test_two_processes_train_like_one_with_their_batches_together(tmp_path: Path) -> None:
    undrawn = ["reranker.dropout=0", "reranker.random_crop=0", "dataset.n_users=128", "trainer.learning_rate=3e-3"]
    given = {n: words("sasrec", tmp_path / str(n), *undrawn) for n in (1, 2)}
    alone = command("train.py", *given[1], "trainer.per_device_train_batch_size=16")
    together = two(*torchrun("train.py", *given[2]))
    assert alone.returncode == together.returncode == 0, together.stderr
    one, both = only_run(tmp_path / "1"), only_run(tmp_path / "2")
    loss, metric = differences(one, both)
    assert loss < LOSS and metric < METRIC
    assert one.name != both.name, "the number of processes is part of a run"
    assert together.stdout.count("Cost: ") == 1 and "2 processes" in together.stdout
    assert {path.name for path in one.iterdir()} == {path.name for path in both.iterdir()}
    assert len(list((tmp_path / "2" / "outputs").glob("*/*"))) == 1
    again = two(*torchrun("train.py", *given[2]))
    assert again.returncode == 0 and "is finished already" in again.stdout


def test_all_but_the_first_write_nothing(
    config: Callable[..., Any], demo: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = configure(config(*QUICK)).identity(demo)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    experiment = configure(config(*QUICK, "tracking=mlflow"))
    assert experiment.identity(demo) != alone
    processes.follow(experiment)
    assert isinstance(experiment.tracker, NullTracker) and experiment.diagnose == "off"
    run = processes.run_of(tmp_path / "run")
    with run.alone(tmp_path), run.start({}, False, experiment.tracker):
        run.begin_training()
        assert run.log({"train_loss": 1.0}, 1) == [] and run.elapsed >= 0
        run.save_model(lambda folder: folder.mkdir(), {})
        run.put_checkpoints_away(keep=True)
    assert not list(tmp_path.iterdir())
    folds = config("protocol=query_folds", "dataset=demo_passages", "tracking=mlflow", small=False)
    assert isinstance(fold_of(folds, 0).tracker, NullTracker), "each fold is configured anew"
    monkeypatch.setenv("RANK", "0")
    assert type(processes.run_of(tmp_path / "run")) is not processes.Follower


def test_what_runs_in_one_process_is_refused_in_several(
    config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = command("-m", "experiments.tables")
    assert refused.returncode == 2 and refused.stderr.startswith("error: -m experiments.tables runs in one process")
    with pytest.raises(UserError, match="check=true checks one process"):
        processes.follow(configure(config("check=true")))
    with pytest.raises(UserError, match=r"reranker\.backend=flag scores in one process"):
        configure(config("reranker=viranker", "reranker.init=scratch", "reranker.backend=flag"))


def test_a_sweep_is_refused_in_several_processes(tmp_path: Path) -> None:
    refused = two(
        *torchrun("train.py", "-m", "reranker=random", "seed=0,1", f"paths.root={tmp_path}", "tracking=none")
    )
    assert refused.returncode == 1 and "torchrun trains one run; start a sweep without it" in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_a_process_that_is_left_alone_says_so_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:4242")
    assert told(lost) is None, "of one process it is a bug"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert told(lost) == "another of the processes has ended, with an error of its own"
    assert told(RuntimeError("shapes differ")) is None
