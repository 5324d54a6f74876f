"""check=true: one batch learned by heart, one prompt shown, what the run will take; and nothing under runs/."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL, TINY, command
from fake_letters import FakeLetters

from experiments import stages
from experiments.config import configure
from experiments.findings import DiagnosisFailed
from experiments.preflight import Pilot, learned_by_heart, preflight, projected
from experiments.training_checks import Rate
from train import train


@pytest.mark.parametrize("reranker", ["bert4rec", "sasrec"])
def test_a_healthy_setting_passes(
    reranker: str, config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, f"reranker={reranker}", "trainer.learning_rate=0.01", "trainer.per_device_train_batch_size=32"]
    assert train(config(*words, "check=true")) == {}
    shown = capsys.readouterr().out
    assert "Preflight: ok" in shown or "Preflight: warn" in shown
    for text in ("one batch", "parameters", "Time:", "Memory:", "validations"):
        assert text in shown
    assert not (tmp_path / "runs").exists()


def test_a_learning_rate_that_cannot_work_is_told_before(config: Callable[..., Any], tmp_path: Path) -> None:
    done = command("train.py", f"paths.root={tmp_path}", *TINY, "trainer.learning_rate=1e-9", "check=true")
    assert done.returncode == 1, done.stderr
    assert "is too small" in " ".join(done.stdout.replace("│", " ").split())
    assert "trainer.learning_rate=1e-3" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: 1 of") and "one batch" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_what_does_not_train_has_its_data_checked(
    config: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    train(config(*SMALL, "reranker=popularity", "check=true"))
    shown = capsys.readouterr().out
    assert "nothing to train" in shown and "target listed" in shown


def letters(config: Callable[..., Any], **broken: Any) -> tuple[Any, Any]:
    experiment = configure(config("reranker=popularity", "trainer.num_train_epochs=4", "candidates=sampled"))
    trainer = replace(experiment.reranker.trainer, learning_rate=1e-4)
    experiment.reranker = FakeLetters(name="letters", trainer=trainer, **broken)
    return experiment, stages.open_data(experiment, stages.load(experiment))


def test_one_prompt_is_shown_whole(config: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    experiment, data = letters(config)
    preflight(experiment, data)
    shown = capsys.readouterr().out
    assert f"user {data.validation.requests.names[0]}, which of the candidates is next?" in shown
    assert "20 of 20 labels" in shown


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ({"label_ids": np.zeros(20, int)}, "labels"),
        ({"other_prompts": 1}, "prompt"),
        ({"curve": [3.0] * 30}, "one batch"),
    ],
)
def test_what_is_broken_fails(broken: Any, check: str, config: Callable[..., Any]) -> None:
    experiment, data = letters(config, **broken)
    with pytest.raises(DiagnosisFailed, match=f"checks failed: {check};"):
        preflight(experiment, data)


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ([4.0, 3.9, 3.0, 2.0, 1.0], "ok"),
        ([4.0, 4.0, 4.0, 4.0, 4.0], "fail"),
        ([4.0, 40.0, 400.0, 500.0, 600.0], "fail"),
        ([4.0, float("nan")], "fail"),
        ([0.0] * 5, "fail"),
        ([], "fail"),
    ],
)
def test_learning_by_heart(losses: list[float], verdict: str) -> None:
    found = learned_by_heart(Pilot(losses, []), np.log(50), Rate(1e-4, False))
    assert found.verdict == verdict and bool(found.advice) == (verdict == "fail")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["trainer.eval_strategy=epoch"], ["8 steps of 500 ms", "(5 validations, the test)", "720 requests"]),
        (["trainer.eval_strategy=no"], ["8 steps", "(1 validations, the test)"]),
        (
            ["trainer.max_steps=5", "trainer.eval_strategy=steps", "trainer.eval_steps=2"],
            ["5 steps", "(4 validations"],
        ),
    ],
)
def test_projected_time(overrides: list[str], says: list[str], config: Callable[..., Any]) -> None:
    words = ["trainer.num_train_epochs=4", "trainer.per_device_train_batch_size=60"]
    experiment = configure(config(*TINY, *words, "trainer.early_stopping_patience=null", *overrides))
    data = stages.open_data(experiment, stages.load(experiment))
    text = " ".join(projected(experiment, data, 120, 0.5, 0.01))
    assert all(said in text for said in says), text


def test_a_model_from_nothing_may_be_slow_but_must_move() -> None:
    flat = Pilot([1.61] * 30, [])
    small = Rate(2e-3, True)
    assert learned_by_heart(flat, np.log(5), small, moved=0.05).verdict == "warn"
    assert learned_by_heart(flat, np.log(5), small, moved=1e-7).verdict == "fail"
