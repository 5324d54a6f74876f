"""Seconds and peak memory of the stages of a run."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.files import read_json
from experiments.benchmark import stages
from experiments.clock import Clock, peak_memory_mb
from train import train


def test_stages_add_up_and_a_peak_is_of_its_own_stage() -> None:
    peak_memory_mb()  # imports torch, which is not to be measured
    clock = Clock()
    with clock("large"):
        assert np.ones(40_000_000).sum() > 0  # 320 MB, freed at the end
    with clock("small"):
        time.sleep(0.02)
    with clock("small"):
        time.sleep(0.02)
    assert list(clock.stages) == ["large", "small"]
    assert clock.stages["small"]["seconds"] >= 0.04
    assert clock.peak_memory_mb == clock.stages["large"]["peak_memory_mb"]
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux can start a peak again")
    assert clock.stages["large"]["peak_memory_mb"] > clock.stages["small"]["peak_memory_mb"] + 200


def test_a_run_records_its_stages(config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(config("reranker=popularity"))
    (cost,) = (read_json(path) for path in tmp_path.glob("runs/*/cost.json"))
    names = ["load", "split", "first stage and candidates", "train", "validate", "diagnose", "score and rank"]
    assert list(cost["stages"]) == [*names, "references and tests", "write"]
    assert cost["peak_memory_mb"] == max(stage["peak_memory_mb"] for stage in cost["stages"].values())
    seconds = stages(config("reranker=popularity", name="benchmark"))
    assert list(seconds) == list(cost["stages"]) and "peak memory" in capsys.readouterr().out
