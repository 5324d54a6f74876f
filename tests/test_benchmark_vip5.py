"""The benchmark of VIP5: every way is timed and gives the same scores."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_vip5 import TOKENIZER, network_of

from experiments import benchmark_vip5
from experiments.benchmark import benchmark
from experiments.benchmark_vip5 import some_tokenizer


def test_every_way_is_timed_and_scores_agree(
    config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"ITEMS": 200, "CANDIDATES": 12, "some_tokenizer": lambda: TOKENIZER}
    small["t5_small"] = lambda placeholder, seed: network_of(seed, n_items=200, reduction_factor=4)
    for name, value in small.items():
        monkeypatch.setattr(benchmark_vip5, name, value)
    words = ["target=vip5", "generated.rounds=1", "generated.requests=3"]
    speed = benchmark(config(*words, small=False, name="benchmark"))
    assert len(speed) == 3 and all(value > 0 for value in speed.values())
    shown = capsys.readouterr().out
    assert "12 candidates, a prompt of " in shown
    (difference,) = re.findall(r"two ways: (\d\.\de[-+]\d\d)", shown)
    assert float(difference) < 1e-4


def test_numbers_are_split_as_t5s_tokenizer_splits_them(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = {}
    for place in (shared_data, tmp_path):
        monkeypatch.setenv("RERANK_SHARED_DATA", str(place))
        tokenizer = some_tokenizer()
        assert len(tokenizer) <= benchmark_vip5.VOCABULARY
        pieces[place] = [len(tokenizer.tokenize(str(number))) for number in range(1, benchmark_vip5.ITEMS + 1)]
    means = [float(np.mean(counts)) for counts in pieces.values()]
    assert means == pytest.approx([2.3, 2.1], abs=0.05) and max(map(max, pieces.values())) == 3
