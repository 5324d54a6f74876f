"""The diagnosis on real trainings of the letter reranker: the complaint replayed, and what is broken on purpose."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import only_run

from experiments.findings import Finding, read_diagnosis
from rerankers.letter.asking import Asking
from rerankers.letter.letter import LetterReranker
from rerankers.letter.rows import LetterRows
from train import train

LETTER = ["reranker=qwen_letter", "candidates=sampled", "reranker.negatives=random", "reranker.max_history=2"]
TINY = [f"reranker.scratch.{key}" for key in ("hidden_size=16", "num_attention_heads=2", "head_dim=8")]
ONCE = ["trainer.num_train_epochs=1", "trainer.logging_steps=1", "trainer.gradient_accumulation_steps=1"]


@pytest.fixture
def diagnosed(config: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    def run(*overrides: str) -> dict[str, Finding]:
        train(config(*LETTER, "candidates.size=20", "reranker.init=scratch", *TINY, *ONCE, *overrides))
        return {finding.check: finding for finding in read_diagnosis(only_run(tmp_path))}

    return run


def test_the_complaint_that_started_this_project(diagnosed: Callable[..., dict[str, Finding]], capsys: Any) -> None:
    found = diagnosed(
        "dataset.n_users=120", "dataset.n_items=120", "candidates.size=50", "trainer.learning_rate=1e-9",
        "trainer.num_train_epochs=4", "trainer.per_device_train_batch_size=32", "trainer.eval_strategy=no",
    )  # fmt: skip
    failed = {check for check, finding in found.items() if finding.verdict == "fail"}
    assert {"loss level", "loss curve", "weights", "predictions", "chance"} <= failed
    assert "ln 50 = 3.91" in found["loss level"].evidence and "3.9 at random" in found["loss level"].evidence
    assert "is flat at 3.9" in found["loss curve"].evidence
    assert "try trainer.learning_rate=5e-4" in found["loss curve"].advice
    assert "uniform" in found["predictions"].evidence
    assert "is what chance gives with 50 candidates" in found["chance"].evidence
    assert "50 of 50 labels" in found["labels"].evidence
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "diagnosis failed: loss level, loss curve, weights" in shown and "what to do" in shown
    last = shown.rpartition("In short: ")[2]
    assert last.startswith("the trained weights moved by") and "(now 1e-9)" in last, "the cause is the last word"


def test_a_target_that_is_always_first_is_found(
    diagnosed: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = LetterRows.draw

    def first(rows: LetterRows, numbers: list[int]) -> Any:
        drawn = draw(rows, numbers)
        order = np.argsort(np.arange(drawn.candidates.shape[1]) != drawn.target[:, None], axis=1, kind="stable")
        listed = np.take_along_axis(drawn.candidates, order, axis=1)
        return replace(drawn, candidates=listed, target=np.zeros_like(drawn.target))

    monkeypatch.setattr(LetterRows, "draw", first)
    found = diagnosed()["trained position"]
    assert found.verdict == "fail" and "most often at A, in 100.0%" in found.evidence and "order leak" in found.advice


def test_a_prompt_that_is_not_the_trained_one_is_found(
    diagnosed: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = Asking.prompt

    def backwards(asking: Asking, requests: Any, row: int, columns: np.ndarray) -> Any:
        return prompt(asking, requests, row, columns[::-1])

    monkeypatch.setattr(Asking, "prompt", backwards)
    found = diagnosed()["prompt"]
    assert found.verdict == "fail" and "0 of 8" in found.evidence


def test_a_loss_mask_that_hides_the_answer_is_found(
    diagnosed: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = LetterRows.__call__

    def masked(rows: LetterRows, examples: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        batch = call(rows, examples)
        return batch | {"shift_labels": torch.full_like(batch["shift_labels"], -100)}

    monkeypatch.setattr(LetterRows, "__call__", masked)
    found = diagnosed("reranker.scratch.line_loss=0")
    assert found["loss curve"].verdict == "fail" and "mask" in found["loss curve"].advice


def test_an_adapter_that_is_not_saved_is_found(
    diagnosed: Callable[..., dict[str, Finding]], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = LetterReranker.save

    def forgets(reranker: LetterReranker, folder: Path) -> None:
        kept = {name: p.detach().clone() for name, p in reranker.network.named_parameters() if "lora" in name}
        with torch.no_grad():
            for name, p in reranker.network.named_parameters():
                p.mul_(0 if "lora_B" in name else 1)
        save(reranker, folder)
        reranker.network.load_state_dict(kept, strict=False)

    monkeypatch.setattr(LetterReranker, "save", forgets)
    found = diagnosed("reranker.init=pretrained", f"reranker.model={checkpoint}", "trainer.learning_rate=1e-2")
    assert found["reload"].verdict == "fail" and found["weights"].verdict == "ok"


def test_dropout_left_on_is_found(
    diagnosed: Callable[..., dict[str, Finding]], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = Asking.logits

    def noisy(asking: Asking, *args: Any) -> np.ndarray:
        asking.reranker.network.train()
        return logits(asking, *args)

    monkeypatch.setattr(Asking, "logits", noisy)
    found = diagnosed(
        "reranker.init=pretrained", f"reranker.model={checkpoint}", "trainer.learning_rate=1e-2",
        "reranker.lora.lora_dropout=0.5",
    )  # fmt: skip
    assert found["determinism"].verdict == "fail"


@pytest.mark.slow
def test_a_healthy_letter_run_is_clean(config: Callable[..., Any], tmp_path: Path) -> None:
    """The demo preset, four minutes: nothing fails; what stands worse than the first stage is only told."""
    metrics = train(config("experiment=letter_demo", small=False))
    found = {finding.check: finding for finding in read_diagnosis(only_run(tmp_path))}
    assert not [f for f in found.values() if f.verdict == "fail"], found
    assert {check for check, f in found.items() if f.verdict == "warn"} <= {"first stage"}
    assert metrics["test/recall_at_1"] > 0.4 > metrics["test/popularity/recall_at_1"]


def test_zero_shot_is_no_failed_training(diagnosed: Callable[..., dict[str, Finding]], checkpoint: Path) -> None:
    found = diagnosed("reranker.init=pretrained", f"reranker.model={checkpoint}", "trainer.num_train_epochs=0")
    assert not [finding for finding in found.values() if finding.verdict == "fail"], found


def test_fewer_candidates_in_training_than_in_scoring_are_no_leak(
    diagnosed: Callable[..., dict[str, Finding]],
) -> None:
    found = diagnosed("reranker.training_candidates=10", "dataset.n_users=400")["trained position"]
    assert found.verdict == "ok", found


def test_the_label_of_a_failed_diagnosis_stays_in_evaluations(
    config: Callable[..., Any], tmp_path: Path, checkpoint: Path
) -> None:
    from data.errors import UserError
    from data.files import read_json
    from evaluate import evaluate
    from experiments.recompose import with_overrides_of_the_run

    words = [*LETTER, "candidates.size=20", f"reranker.model={checkpoint}", *ONCE, "trainer.learning_rate=0"]
    train(config(*words))
    folder = only_run(tmp_path)
    evaluate(config(*words, "reranker.permutations=2", f"run={folder}", name="evaluate"))
    (manifest,) = (read_json(path) for path in folder.glob("evaluations/*/manifest.json"))
    assert any(label.startswith("diagnosis failed") for label in manifest["labels"])
    assert "mean of 2 permutations" in manifest["labels"]
    (evaluated,) = (read_json(path) for path in folder.glob("evaluations/*/cost.json"))
    trained = read_json(folder / "cost.json")
    assert evaluated["trainable_parameters"] == trained["trainable_parameters"] > 0, (
        "of the training, not of a loaded adapter"
    )
    with pytest.raises(UserError, match=r"reranker\.order= belongs to the training"):
        with_overrides_of_the_run([f"run={folder}", "reranker.order=invariant"])
