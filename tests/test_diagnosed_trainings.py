"""The diagnosis on real trainings of models of ids: broken on purpose, healthy, without a trace in the numbers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUICK, TINY, command, only_run

from experiments import conclude
from experiments.findings import DiagnosisFailed, Finding, names, read_diagnosis
from rerankers.bert4rec import BERT4Rec
from rerankers.item_transformer import ItemTransformer
from rerankers.sequence_reranker import SequenceReranker
from train import train

USERS = ["dataset.n_users=400", "candidates=sampled", "candidates.size=20"]
LEARNS = [*TINY, *USERS, "trainer.per_device_train_batch_size=32", "trainer.logging_steps=5"]
LEARNS += ["trainer.learning_rate=0.01", "trainer.num_train_epochs=20", "trainer.eval_steps=130"]


def verdicts(folder: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in read_diagnosis(folder)}


@pytest.mark.parametrize("reranker", ["bert4rec", "sasrec"])
def test_a_healthy_model_of_ids_is_clean(reranker: str, config: Callable[..., Any], tmp_path: Path) -> None:
    train(config(*LEARNS, f"reranker={reranker}"))
    found = verdicts(only_run(tmp_path))
    assert not [f for f in found.values() if f.verdict == "fail"], found
    assert found["loss curve"].evidence.startswith("train_loss falls")
    assert not {"labels", "prompt", "predicted position"} & set(found), "it has no letters and no prompts"


@pytest.mark.parametrize(
    ("overrides", "failed"),
    [
        (["trainer.learning_rate=0"], {"loss level", "loss curve", "weights", "validation", "predictions"}),
        (["trainer.learning_rate=1e-9"], {"loss level", "loss curve", "weights", "predictions", "chance"}),
        (["trainer.learning_rate=10", "trainer.warmup_steps=0"], {"loss level", "loss curve", "validation", "chance"}),
    ],
    ids=["0", "1e-9", "10"],
)  # fmt: skip
def test_learning_rates_that_do_not_work(
    overrides: list[str], failed: set[str], config: Callable[..., Any], tmp_path: Path
) -> None:
    train(config(*LEARNS, "trainer.num_train_epochs=4", *overrides))
    found = verdicts(only_run(tmp_path))
    assert failed <= set(names(found.values(), "fail"))
    advice = found["loss curve"].advice
    assert "trainer.learning_rate=1e-3" in advice and "trainer.learning_rate=5e-4" in advice, "up, or down"


def test_labels_that_the_loss_mask_hides(
    config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = BERT4Rec.task
    monkeypatch.setattr(BERT4Rec, "task", lambda self, items, rng: (task(self, items, rng)[0], 0 * items - 100))
    cfg = config(*LEARNS, "trainer.num_train_epochs=4")
    try:
        train(cfg)
    except Exception as error:
        assert "NaN" in str(error)
    found = verdicts(only_run(tmp_path))
    assert found["loss curve"].verdict == "fail"
    assert "mask" in found["loss curve"].advice
    assert "Diagnosis: fail" in capsys.readouterr().out


def test_labels_shifted_by_one(config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss falls as ever, and what is learned is not what is asked."""
    task = BERT4Rec.task

    def shifted(self: Any, items: np.ndarray, rng: Any) -> tuple[np.ndarray, np.ndarray]:
        tokens, labels = task(self, items, rng)
        return tokens, np.where(labels >= 0, (labels + 1) % 60, labels)

    monkeypatch.setattr(BERT4Rec, "task", shifted)
    train(config(*LEARNS))
    found = verdicts(only_run(tmp_path))
    assert found["loss curve"].verdict == "ok"
    assert found["validation"].verdict == "fail" and "shifted by one" in found["validation"].advice


def test_dropout_left_on(config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ItemTransformer, "eval", lambda self: self.train())
    train(config(*LEARNS, "trainer.num_train_epochs=4"))
    found = verdicts(only_run(tmp_path))
    assert found["determinism"].verdict == "fail" and "dropout" in found["determinism"].advice


def test_weights_that_are_not_saved(
    config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = SequenceReranker.save

    def forgetful(self: Any, folder: Path) -> None:
        fresh = replace(self)
        fresh.item_ids, fresh.model = self.item_ids, ItemTransformer(self.model.config)
        save(fresh, folder)

    monkeypatch.setattr(SequenceReranker, "save", forgetful)
    train(config(*LEARNS, "trainer.num_train_epochs=4"))
    assert verdicts(only_run(tmp_path))["reload"].verdict == "fail"


def test_first_stage_order_is_labelled_not_failed(config: Callable[..., Any], tmp_path: Path) -> None:
    train(config("reranker=first_stage", "candidates.presentation=first_stage", "dataset.n_users=400"))
    found = verdicts(only_run(tmp_path))
    assert found["target position"].verdict == "warn" and "shuffled" in found["target position"].advice


def test_numbers_are_the_same_with_and_without(config: Callable[..., Any], tmp_path: Path) -> None:
    words = [*QUICK, "protocol.refit_on_validation=true"]
    files = {}
    for diagnose in ("off", "warn"):
        root = tmp_path / diagnose
        train(config(*words, f"diagnose={diagnose}", f"paths.root={root}"))
        files[diagnose] = only_run(root)
    assert files["off"].name == files["warn"].name, "it is no part of a run's identity"
    assert not (files["off"] / "diagnosis.json").exists()
    metrics = [(folder / "metrics.json").read_bytes() for folder in files.values()]
    assert metrics[0] == metrics[1]
    first = (files["warn"] / "diagnosis.json").read_bytes()
    train(config(*words, "force=true", f"paths.root={tmp_path / 'warn'}"))
    assert (files["warn"] / "diagnosis.json").read_bytes() == first, "a repeat says the same"


def test_a_run_that_was_stopped_before_its_results_keeps_what_was_found(
    config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config(*LEARNS, "trainer.learning_rate=1e-9", "trainer.num_train_epochs=2")
    written = conclude.conclude
    monkeypatch.setattr(conclude, "conclude", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(cfg)
    monkeypatch.setattr(conclude, "conclude", written)
    train(cfg)
    found = verdicts(only_run(tmp_path))
    assert {"samples", "loss curve", "weights", "reload", "chance"} <= set(found)
    capsys.readouterr()
    train(cfg)
    assert "Diagnosis: fail" in capsys.readouterr().out, "a finished run tells again"
    cfg.diagnose = "strict"
    with pytest.raises(DiagnosisFailed):
        train(cfg)


def test_strict_is_exit_code_1_after_everything_is_written(tmp_path: Path) -> None:
    words = ["train.py", "-m", f"paths.root={tmp_path}", "tracking=none", *TINY, "diagnose=strict", "reranker=sasrec"]
    done = command(*words, "trainer.num_train_epochs=2", "trainer.learning_rate=1e-9,0", "trainer.logging_steps=1")
    assert done.returncode == 1, done.stderr
    assert "error: 2 jobs of the sweep failed; the first:" in done.stderr and "Traceback" not in done.stderr
    assert "checks failed: loss level, loss curve, weights" in done.stderr.splitlines()[-1]
    assert len(list(tmp_path.glob("runs/*/manifest.json"))) == 2
