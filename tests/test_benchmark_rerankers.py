"""target=rerankers: a row a reranker, with speed and peak memory of training and of scoring."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from experiments import benchmark_rerankers
from experiments.benchmark import benchmark


def test_each_reranker_is_trained_and_scored(
    config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(what: str, name: str, asked: str) -> dict[str, float]:
        return getattr(benchmark_rerankers, what)(name, **json.loads(asked))

    monkeypatch.setattr(benchmark_rerankers, "in_a_process", here)
    monkeypatch.setattr(benchmark_rerankers, "NAMES", ("bert4rec", "sasrec"))
    words = ["target=rerankers", "generated.rounds=1", "generated.steps=3"]
    speed = benchmark(config(*words, small=False, name="benchmark"))
    assert list(speed) == [f"{name} {what}" for name in ("bert4rec", "sasrec") for what in ("training", "scoring")]
    assert all(value > 0 for value in speed.values())
    shown = capsys.readouterr().out
    assert "peak of training" in shown and shown.count("rows/s") == 2 and shown.count("requests/s") == 2
