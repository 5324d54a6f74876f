"""The diagnosis of passages: it speaks of queries, knows the targets of development pairs, and sees a collapse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import only_run

from experiments.findings import Finding, read_diagnosis
from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker
from train import train


@pytest.fixture
def diagnosed(passages: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    def run(*overrides: str, **reranker: Any) -> dict[str, Finding]:
        train(passages("protocol.fold=0", "trainer.learning_rate=1e-4", *overrides, **reranker))
        return {finding.check: finding for finding in read_diagnosis(only_run(tmp_path))}

    return run


def test_it_speaks_of_queries(diagnosed: Callable[..., dict[str, Finding]]) -> None:
    found = diagnosed()
    assert "of 27 queries" in found["samples"].evidence and "each query" in found["samples"].advice
    assert "of 25 passages" in found["candidates"].evidence
    assert "generalisation" not in found and "collapse" not in found
    assert not [f for f in found.values() if "user" in f.evidence + f.advice or "histor" in f.evidence + f.advice]


@pytest.mark.parametrize(
    ("accuracy", "margin", "verdict", "advice"),
    [(0.81, 0.41, "ok", ""), (0.81, 0.39, "warn", "scores are close"), (0.79, 0.41, "warn", "num_train_epochs")],
)
def test_development_pairs_have_targets(
    accuracy: float, margin: float, verdict: str, advice: str, diagnosed: Callable[..., dict[str, Finding]]
) -> None:
    found = diagnosed(accuracy=accuracy, margin=margin)["dev pairs"]
    assert found.verdict == verdict and advice in found.advice
    assert f"accuracy {accuracy:.3f}" in found.evidence and f"margin {margin:.3f}" in found.evidence


def test_a_collapse_is_one_finding(
    diagnosed: Callable[..., dict[str, Finding]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = diagnosed(skill=1e-6, chance=1.3862943611198906, loss=1.3862943611198906)
    collapse = found["collapse"]
    assert collapse.verdict == "fail"
    assert "pinned at 1.386, where ln 4 = 1.39 is chance" in collapse.evidence and "identical" in collapse.evidence
    assert "trainer.learning_rate=1e-5 (now 1e-4)" in collapse.advice, "lower"
    for said in ("base model", "negatives"):
        assert said in collapse.advice
    assert {found[check].advice for check in ("loss level", "loss curve")} == {collapse.advice}, "one advice, not two"
    assert "In short: the loss is pinned" in capsys.readouterr().out


def test_a_loss_without_chance_collapses_by_its_scores(
    passages: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["reranker=viranker", "reranker.init=scratch", "reranker.scratch.hidden_size=16", "reranker.max_length=40"]
    words += ["reranker.loss=lambda", "reranker.hard_negatives=0", "trainer.max_steps=2", "protocol.fold=0"]
    monkeypatch.setattr(CrossEncoderReranker, "score_pairs", lambda self, pairs: np.ones(len(pairs), np.float32))
    train(passages(*words))
    found = {finding.check: finding for finding in read_diagnosis(only_run(tmp_path))}
    assert found["collapse"].verdict == "fail" and "loss level" not in found
    assert found["collapse"].evidence == "the scores of a request are identical (standard deviation 0)"


@pytest.mark.parametrize("broken", [{"skill": 1e-6}, {"loss": 1.0}], ids=["falls", "spread"])
def test_half_of_it_is_no_collapse(broken: dict[str, float], diagnosed: Callable[..., dict[str, Finding]]) -> None:
    assert "collapse" not in diagnosed(**broken)
