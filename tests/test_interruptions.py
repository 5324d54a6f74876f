"""A training that was interrupted anywhere ends like an unbroken one; early stopping; accumulation."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, TINY, command, only_run

from experiments.curves import read_curves
from experiments.launch import ROOT
from experiments.runs import Run
from train import train


def test_two_roots_give_identical_bytes_and_a_killed_run_continues(tmp_path: Path) -> None:
    words = ["train.py", "tracking=none", *TINY, "trainer.num_train_epochs=24", "trainer.eval_strategy=steps"]
    words += ["trainer.eval_steps=3", "trainer.logging_steps=1", "trainer.per_device_train_batch_size=16"]
    unbroken = command(*words, f"paths.root={tmp_path / 'a'}")
    assert unbroken.returncode == 0, unbroken.stderr
    expected = (only_run(tmp_path / "a") / "metrics.json").read_bytes()

    root = tmp_path / "b"
    process = subprocess.Popen(
        [sys.executable, *words, f"paths.root={root}"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        steps = [int(path.parent.name.split("-")[1]) for path in root.glob("runs/*/checkpoints/*/complete")]
        if max(steps, default=0) >= 60:  # in the middle of 192 steps, and of an epoch of 8
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was killed while it trained"
    folder = only_run(root)
    assert not (folder / "manifest.json").exists()
    again = command(*words, f"paths.root={root}")
    assert again.returncode == 0, again.stderr
    assert "continuing from" in again.stderr
    assert (folder / "metrics.json").read_bytes() == expected
    a, b = (pd.DataFrame(read_curves(path)) for path in (only_run(tmp_path / "a"), folder))
    same = ["name", "step", "epoch", "value"]
    pd.testing.assert_frame_equal(a[same], b[same])


def test_a_kill_between_training_and_results_only_evaluates_again(
    config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments import conclude

    written = conclude.conclude
    monkeypatch.setattr(conclude, "conclude", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(config(*QUICK))
    assert (only_run(tmp_path) / "model").exists()
    monkeypatch.setattr(conclude, "conclude", written)
    monkeypatch.setattr("rerankers.bert4rec.BERT4Rec.fit", lambda *a: pytest.fail("trained again"))
    resumed = train(config(*QUICK))
    monkeypatch.undo()
    assert resumed == train(config(*QUICK, f"paths.root={tmp_path / 'fresh'}"))


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.max_steps=25", "trainer.eval_strategy=no"],
        ["trainer.max_steps=25", "trainer.eval_strategy=epoch"],
        ["trainer.num_train_epochs=40", "trainer.eval_strategy=epoch", "trainer.early_stopping_patience=2"],
        ["trainer.num_train_epochs=6", "trainer.eval_strategy=steps", "trainer.eval_steps=3",
         "protocol.refit_on_validation=true"],
    ],
    ids=["no evaluation", "in the middle of an epoch", "early stop", "refit"],
)  # fmt: skip
def test_a_kill_after_the_last_step_trains_no_further(
    overrides: list[str], config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, "trainer.logging_steps=1", "trainer.per_device_train_batch_size=16", *overrides]
    expected = train(config(*words, f"paths.root={tmp_path / 'a'}"))
    save = Run.save_model
    monkeypatch.setattr(Run, "save_model", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(config(*words, f"paths.root={tmp_path / 'b'}"))
    monkeypatch.setattr(Run, "save_model", save)
    assert train(config(*words, f"paths.root={tmp_path / 'b'}")) == expected
    a, b = (read_curves(only_run(tmp_path / root)) for root in "ab")
    assert [(p["name"], p["step"], p["value"]) for p in a] == [(p["name"], p["step"], p["value"]) for p in b]


def test_a_training_that_begins_again_drops_the_points_it_passes_again(tmp_path: Path) -> None:
    """As after an out-of-memory: from nothing, or from a checkpoint, with half the batch."""
    run = Run(tmp_path)
    run.begin_training()
    for step, loss in ((1, 5.0), (2, 4.0), (3, 3.0), (2, 9.0), (2, 8.0), (3, 7.0)):
        run.log({"epoch": step / 3, "train_loss": loss}, step)
    kept = [(point["step"], point["value"]) for point in read_curves(tmp_path)]
    assert kept == [(1, 5.0), (2, 9.0), (2, 8.0), (3, 7.0)], "each step once, but for what is logged beside it"
    run.log({"train_loss": 6.0}, 1)
    assert [point["value"] for point in read_curves(tmp_path)] == [6.0]


def test_gradient_accumulation_is_the_same_training_in_parts(config: Callable[..., Any], tmp_path: Path) -> None:
    still = [
        "trainer.learning_rate=1e-9",
        "trainer.num_train_epochs=4",
        "trainer.logging_steps=1",
        "reranker.dropout=0",
    ]
    for parts in (1, 8):
        batch = f"trainer.per_device_train_batch_size={64 // parts}"
        accumulation = f"trainer.gradient_accumulation_steps={parts}"
        train(config(*TINY, *still, batch, accumulation, f"paths.root={tmp_path / str(parts)}"))
    for name in ("train_loss", "grad_norm"):
        whole, accumulated = (
            np.mean([p["value"] for p in read_curves(only_run(tmp_path / str(parts))) if p["name"] == name])
            for parts in (1, 8)
        )
        assert accumulated == pytest.approx(whole, rel=0.25), name


def test_early_stopping_keeps_the_best_model(config: Callable[..., Any], tmp_path: Path) -> None:
    metrics = train(config(*TINY, "trainer.num_train_epochs=200", "trainer.eval_strategy=epoch",
                           "trainer.early_stopping_patience=3", "trainer.learning_rate=0.02"))  # fmt: skip
    values = [p["value"] for p in read_curves(only_run(tmp_path)) if p["name"] == "valid_recall_at_10"]
    assert len(values) < 200
    assert len(values) - 1 - int(np.argmax(values)) == 3
    assert metrics["valid/recall_at_10"] == pytest.approx(max(values))


def test_loading_workers_change_no_number(config: Callable[..., Any], tmp_path: Path) -> None:
    metrics = [
        train(config(*QUICK, f"trainer.dataloader_num_workers={workers}", f"paths.root={tmp_path / str(workers)}"))
        for workers in (0, 2)
    ]
    assert metrics[0] == metrics[1]
