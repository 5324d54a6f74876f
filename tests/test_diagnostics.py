"""Each check on a fake letter reranker that is broken in that very way, and on a healthy one; the pure checks."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_letters import FALLING, FakeLetters
from transformers import TrainerState, TrainingArguments

from data.candidates import Prepared
from data.dataset import Requests
from experiments import stages, training_checks
from experiments.conclude import conclude
from experiments.config import configure
from experiments.findings import DiagnosisFailed, Finding, read_diagnosis, show_diagnosis
from experiments.runs import Run
from experiments.training_checks import Curve, Rate, loss_curve, loss_level
from rerankers.training import Progress

USERS = ["dataset.n_users=400", "candidates=sampled", "candidates.size=20"]
NOISE = np.random.default_rng(1).normal(0, 0.03, 60)


@pytest.fixture
def diagnosed(config: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    """Runs a `FakeLetters` as train.py does; check -> finding of its diagnosis.json."""

    def run(*overrides: str, **broken: Any) -> dict[str, Finding]:
        experiment = configure(config(*USERS, "reranker=popularity", "trainer.num_train_epochs=4", *overrides))
        trainer = replace(experiment.reranker.trainer, learning_rate=broken.pop("learning_rate", 1e-4))
        experiment.reranker = FakeLetters(name="letters", trainer=trainer, **broken)
        data = stages.open_data(experiment, stages.load(experiment))
        run = Run(tmp_path / "run")
        diagnosis = stages.diagnosis_of(experiment, data)
        with run.start(experiment.resolved, True, experiment.tracker):
            reranker = stages.fit(experiment, run, data, diagnosis)
            conclude(experiment, run.folder, reranker, data, run.training, [], diagnosis)
        return {finding.check: finding for finding in read_diagnosis(run.folder)}

    return run


def test_a_healthy_run_is_clean(diagnosed: Callable[..., dict[str, Finding]]) -> None:
    found = diagnosed()
    assert not [f for f in found.values() if f.verdict in ("fail", "warn")], found
    assert {"labels", "prompt", "prompt length", "predicted position", "order", "reload", "determinism"} <= set(found)
    assert "train_letter_loss" in found["loss level"].evidence, "not the loss over the whole vocabulary"
    assert all(f.advice == "" for f in found.values() if f.verdict == "ok")


def test_chance_is_of_the_curve_that_the_reranker_names(
    diagnosed: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(FakeLetters, "chance_curve", "train_answer_loss")
    assert diagnosed(curve=3.0 + NOISE)["loss level"].evidence.startswith("learned nothing: train_answer_loss 3.0")
    assert "train_answer_loss is still at chance (3.0" in caplog.text
    progress = Progress("train_answer_loss", 3.0)
    for logs in ({"loss": 9.0}, {"loss": 9.0, "answer_loss": 2.0}, {"eval_ndcg_at_10": 0.5}):
        progress.on_log(TrainingArguments(), TrainerState(), None, logs=logs)
    assert progress.loss == ", answer loss 2.000"


@pytest.mark.parametrize(
    ("broken", "check", "verdict", "says"),
    [
        ({"curve": 3.0 + NOISE}, "loss level", "fail", "a model that knows nothing has ln 20 = 3.00"),
        ({"curve": 3.0 + NOISE}, "loss curve", "fail", "is flat at 3.0"),
        ({"curve": FALLING[::-1]}, "loss curve", "fail", "diverges"),
        ({"curve": [2.9, 2.8, *[np.nan] * 9]}, "loss curve", "fail", "became NaN"),
        ({"curve": [np.nan] * 9}, "loss curve", "fail", "from the first logged value"),
        ({"curve": [0.0] * 9}, "loss curve", "fail", "is 0 throughout"),
        ({"curve": FALLING + 0.9 * np.tile([1, 1, 1, -1, -1, -1], 10)}, "loss curve", "warn", "oscillates"),
        ({"label_ids": np.r_[np.arange(19), 0]}, "labels", "fail", "19 of 20 labels"),
        ({"label_ids": np.r_[np.arange(18), -1, -1]}, "labels", "fail", "18 of 20 labels"),
        ({"skill": 1e-4}, "predictions", "info", "nearly uniform"),
        ({"skill": 0.0}, "predictions", "fail", "all alike"),
        ({"target_columns": np.zeros(200, int)}, "trained position", "fail", "most often at A, in 100.0%"),
        ({"target_columns": np.arange(200) % 20}, "trained position", "ok", "1.0 times"),
        ({"shortened": 0.6}, "prompt length", "warn", "60.0% shortened"),
        ({"trainable": 0}, "parameters", "fail", "0 of 10,000,000"),
        ({"moved": 1e-8}, "weights", "fail", "they did not learn"),
        ({"gradient": 0.0}, "gradients", "fail", "norm 0"),
        ({"gradient": float("nan")}, "gradients", "fail", "NaN"),
        ({"forgets": True}, "reload", "fail", "gives other scores"),
        ({"dropout": 0.5}, "determinism", "fail", "scoring twice differs"),
        ({"skill": -1.0}, "validation", "fail", "no better than chance"),
        ({"skill": -1.0}, "chance", "fail", "is worse than what chance gives with 20 candidates"),
        ({"skill": 0.0}, "chance", "fail", "is what chance gives with 20 candidates"),
        ({"skill": 0.1}, "first stage", "ok", "beats the first stage"),
        ({"first_letter": 50.0}, "predicted position", "fail", "A 100.0%"),
        ({"place_noise": 50.0}, "order", "warn", "the best item changes in"),
        ({"other_prompts": 30}, "prompt", "fail", "0 of 30 training prompts"),
    ],
)  # fmt: skip
def test_what_is_broken_is_found(
    broken: Any, check: str, verdict: str, says: str, diagnosed: Callable[..., dict[str, Finding]]
) -> None:
    found = diagnosed(**broken)[check]
    assert found.verdict == verdict, found
    assert says in found.evidence, found
    assert bool(found.advice) == (verdict in ("warn", "fail"))


def test_the_complaint_replayed(
    diagnosed: Callable[..., dict[str, Finding]], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: Any
) -> None:
    """50 candidates, a learning rate of 1e-9, 4 epochs."""
    settings = {"learning_rate": 1e-9, "skill": 0.0, "moved": 1e-9, "curve": 3.912 + NOISE, "label_ids": np.arange(50)}
    found = diagnosed("candidates.size=50", "dataset.n_items=120", **settings)
    assert "is flat at 3.91" in found["loss curve"].evidence and "ln 50 = 3.91" in found["loss curve"].evidence
    assert "3.9 at random" in found["loss level"].evidence
    assert "(usual for 50 candidates: 2.5-3.5)" in found["loss level"].evidence
    assert "(usual for 50 candidates: 1.5-2.5)" in found["loss level"].evidence
    assert (
        "all alike" in found["predictions"].evidence and "100.0% of the uniform 3.91" in found["predictions"].evidence
    )
    assert "is what chance gives with 50 candidates" in found["chance"].evidence
    assert found["chance"].evidence.startswith("Recall@20 = 0.")
    assert "trainer.learning_rate=1e-4" in found["loss curve"].advice
    told = [record.message for record in caplog.records if "still at chance" in record.message]
    assert len(told) == 1 and "after 40 % of the training" in told[0]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert any(label.startswith("diagnosis failed: loss level, loss curve, weights") for label in manifest["labels"])
    with pytest.raises(DiagnosisFailed, match="checks failed: loss level, loss curve, weights"):
        show_diagnosis(tmp_path / "run", "strict")
    shown = capsys.readouterr().out
    assert "what to do" in shown and "flat at 3.91" in shown and "fail" in shown


def test_untrained_is_no_failure_of_learning(diagnosed: Callable[..., dict[str, Finding]]) -> None:
    found = diagnosed("trainer.num_train_epochs=0", skill=0.0, moved=0.0)
    assert not [f for f in found.values() if f.verdict == "fail"], found
    assert "untrained" in found["training"].evidence
    assert {"labels", "target position", "predictions", "reload", "chance", "predicted position"} <= set(found)
    assert not {"loss level", "loss curve", "weights", "validation", "generalisation"} & set(found)


def ordered(prepared: Prepared, place: int) -> Prepared:
    """The same lists with the target at `place`; -2: taken out."""

    def moved(requests: Requests, relevance: Any) -> Requests:
        assert requests.candidates is not None
        lists = []
        for row, target in zip(requests.candidates.tolist(), relevance.items.values.tolist(), strict=True):
            others = [item for item in row if item != target]
            lists.append([*others[:place], target, *others[place:]] if place >= 0 else [*others, -1])
        return replace(requests, candidates=np.array(lists, dtype=np.int32))

    return replace(
        prepared,
        validation=moved(prepared.validation, prepared.validation_relevance),
        test=moved(prepared.test, prepared.test_relevance),
    )


@pytest.mark.parametrize(("place", "check"), [(0, "target position"), (7, "target position"), (-2, "target listed")])
def test_where_the_truth_stands(
    place: int, check: str, diagnosed: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = stages.prepare
    monkeypatch.setattr(stages, "prepare", lambda *a, **k: ordered(prepare(*a, **k), place))
    found = diagnosed()
    assert found[check].verdict == "fail", found[check]
    if place >= 0:
        assert f"most often at {'ABCDEFGH'[place]}, in 100.0%" in found[check].evidence
        assert "order leak" in found[check].advice


def test_learned_by_heart_is_told() -> None:
    from experiments.significance import compare

    train_, valid = np.ones(200), np.tile([0.0, 0.0, 1.0], 67)[:200]
    found = training_checks.generalisation("recall_at_10", 1.0, float(valid.mean()), compare(train_, valid, 0))
    assert found.verdict == "warn" and "by heart" in found.advice
    same = training_checks.generalisation("recall_at_10", 0.5, 0.5, compare(valid, valid, 0))
    assert same.verdict == "ok"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        (np.r_[np.full(40, 5.3), np.linspace(5.3, 4.4, 60)] + np.random.default_rng(0).normal(0, 0.02, 100), "ok"),
        (np.r_[np.full(80, 5.3), np.linspace(5.3, 5.0, 20)], "ok"),
        (np.linspace(5.3, 3, 1000) + np.random.default_rng(0).normal(0, 0.4, 1000), "ok"),
        ([5.3, 4.0], "ok"),
        ([5.3, 5.0, 4.5], "ok"),
        ([5.3, 5.29, 5.31], "fail"),
        ([5.3], "info"),
        (np.full(100, 3.0) + np.random.default_rng(0).normal(0, 0.02, 100), "warn"),
    ],
    ids=["flat, then falls", "falls late", "noisy", "two points", "three", "three flat", "one", "flat below chance"],
)  # fmt: skip
def test_shapes_that_must_not_cry_wolf(values: Any, verdict: str) -> None:
    curve = Curve("train_loss", np.linspace(0.1, 4, len(values)), np.array(values))
    assert loss_curve(curve, np.log(200), Rate(1e-3, True)).verdict == verdict


@pytest.mark.parametrize(
    ("used", "small", "faster", "says"),
    [
        (1e-9, False, True, "try trainer.learning_rate=1e-4, then trainer.learning_rate=2e-4"),
        (5e-5, False, True, "try trainer.learning_rate=1e-4"),
        (2e-4, False, True, "try trainer.learning_rate=5e-4"),
        (5e-4, False, True, "look for what the learning rate cannot mend"),
        (10, False, False, "try trainer.learning_rate=5e-4, then trainer.learning_rate=2e-4"),
        (1e-4, False, False, "try trainer.learning_rate=5e-5"),
        (1e-9, True, True, "try trainer.learning_rate=5e-4, then trainer.learning_rate=1e-3"),
        (1e-3, True, True, "try trainer.learning_rate=2e-3"),
        (10, True, False, "try trainer.learning_rate=1e-3, then trainer.learning_rate=5e-4"),
        (4e-3, True, False, "try trainer.learning_rate=2e-3"),
    ],
)
def test_the_next_learning_rate(used: float, small: bool, faster: bool, says: str) -> None:
    assert Rate(used, small).advice(faster).startswith(says)


def test_the_next_learning_rate_is_of_what_is_trained() -> None:
    """Adapters want a larger one than pretrained weights that are all trained."""
    adapters, whole, small = Rate.of(2e-5, 1_000, 10**8), Rate.of(2e-5, 10**8, 10**8), Rate.of(2e-5, 10**6, 10**6)
    wanted = ((adapters, "try trainer.learning_rate=5e-5"), (whole, "try trainer.learning_rate=5e-5, then"))
    for rate, says in (*wanted, (small, "try trainer.learning_rate=5e-4")):
        assert rate.advice(faster=True).startswith(says)
    assert "2e-4" not in whole.advice(faster=True)


def test_steps_that_fp16_skips_are_no_failure() -> None:
    rate, some = Rate(1e-4, False), np.r_[np.full(45, 0.5), np.full(45, 2.0), [0.5] * 5, [np.inf] * 5]
    found = training_checks.gradients(some, 1.0, rate)
    assert found.verdict == "ok" and found.evidence == (
        "norm 0.5 (median), at most 2; clipped at 1 in 47% of the logged steps; infinite in 5, steps that fp16 skips "
        "while it finds its scale"
    )
    many = training_checks.gradients(np.where(np.arange(100) < 11, np.inf, some), 1.0, rate)
    assert many.verdict == "fail" and many.evidence == "16 of 100 gradient norms are NaN or infinite"


def test_bands_are_scaled_to_the_number_of_candidates() -> None:
    curve = Curve("train_letter_loss", np.linspace(0.1, 4, 40), np.linspace(3.0, 1.5, 40))
    evidence = loss_level(curve, np.log(20), 20, Rate(1e-4, False)).evidence
    assert "(usual for 20 candidates: 1.9-2.7)" in evidence and "(usual for 20 candidates: 1.1-1.9)" in evidence
