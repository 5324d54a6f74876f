"""The same seed, the same numbers: every reranker of conf/reranker but `file`, which reads its scores, fitted twice in
this process, those that train once more with two loading workers; the presets of viranker with `-m slow` alone. Other
processes and interruptions: `python -m experiments.endure cases=[determinism]`. And what the endurance cases count as
equal and as grown."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.candidates import Prepared
from data.dataset import Dataset
from data.splits import Split
from experiments.config import configure
from experiments.endurance import small
from experiments.endurance.determinism import differences, stopped_in_training
from experiments.endurance.killed import found
from experiments.endurance.memory import grown
from experiments.launch import ROOT
from rerankers.checkpoints import MarkComplete

NAMES = sorted(path.stem for path in (ROOT / "conf" / "reranker").glob("*.yaml"))
STEPS = ["trainer.max_steps=3", "trainer.logging_steps=1", *small.BATCH]


PRESETS = [pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name.startswith("viranker_")]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("file", "viranker_"))] + PRESETS)
def test_a_seed_gives_the_same_losses_and_scores(
    name: str, config: Callable[..., Any], demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path
) -> None:
    own = small.SMALL.get("viranker" if name.startswith("viranker") else name, [])
    seen = []
    for workers in (0, 0, 2) if own else (0, 0):
        words = [f"reranker={name}", *own, *STEPS, f"trainer.dataloader_num_workers={workers}"]
        reranker = configure(config(*words)).reranker
        reranker.checkpoints = tmp_path / str(len(seen))
        logged: list[tuple[int, dict[str, float]]] = []

        def log(values: dict[str, float], step: int, logged: list[Any] = logged) -> None:
            logged.append((step, values))

        np.random.seed(len(seen))  # noqa: NPY002  # what was drawn before changes nothing
        reranker.fit(demo, split, None, log)
        seen.append((json.dumps(logged), reranker.score(candidates.test.take(slice(0, 16))).tobytes()))
    assert bool(own) == ("train_loss" in seen[0][0])
    assert len(set(seen)) == 1


def test_runs_that_differ_in_one_bit_are_told_apart(tmp_path: Path) -> None:
    table = pd.DataFrame({"request": ["a", "a"], "candidate": ["x", "y"], "score": np.float32([1, 2])})
    for name in "abc":
        (folder := tmp_path / name).mkdir()
        (folder / "metrics.json").write_text("{}")
        scores = table["score"] if name != "c" else np.nextafter(table["score"], np.float32(9))
        table.assign(score=scores).to_parquet(folder / "predictions.parquet")
    assert differences(tmp_path / "a", tmp_path / "b") == []
    (found,) = differences(tmp_path / "a", tmp_path / "c")
    assert found.startswith("predictions.parquet, largest difference of a score: ")
    assert differences(tmp_path / "a", "1: it broke") == ["1: it broke"]
    (tmp_path / "b" / "metrics.json").write_text("{ }")
    assert differences(tmp_path / "a", tmp_path / "b") == ["metrics.json"]


@pytest.mark.parametrize(("code", "why"), [(-9, ""), (0, "ended with 0, not by SIGKILL: late"), (1, "ended with 1, ")])
def test_a_training_that_was_not_killed_is_told(code: int, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        given.extend(words)
        return subprocess.CompletedProcess(words, code, "", "late")

    monkeypatch.setattr(small, "run", run)
    assert (why in (said := stopped_in_training(["a=b"]))) and bool(said) == bool(why)
    assert given[3:] == ["1", "train.py", "a=b"]
    owner, name = found(given[2].removeprefix("called:"))
    assert getattr(owner, name) is MarkComplete.on_save


def test_growth_is_told_from_noise() -> None:
    rng = np.random.default_rng(0)
    rounds = np.arange(200)
    noise = list(500 + rng.normal(0, 1, 200))
    assert grown(noise, [1_000_000] * 200) == []
    assert grown([200.0] * 15 + noise[15:], []) == [], "the warm-up does not count"
    leak = list(np.array(noise) + 0.1 * rounds)
    assert [what.split(" by ")[0].split(" ")[0] for what in grown(leak, [])] == ["the", "it"]
    assert grown(noise, list(1_000_000 + 20 * rounds)) == ["3,400 more blocks of Python after 170 rounds"]
    assert grown(noise, list(1_000_000 + 3 * rounds)) == []
