"""Whole runs: what stands in the folder, its checkpoints as models, the untuned row, recommendation requests."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import only_run
from sentence_transformers import CrossEncoder
from tiny_pairs import folder_of, words_of
from tiny_queries import TinyPassages
from transformers import BertModel

from experiments.config import configure
from rerankers.base import TrainerConfig
from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker
from train import train

SMALL = ["reranker=viranker", "reranker.max_length=40", "trainer.per_device_train_batch_size=16"]
SMALL += [
    "trainer.gradient_accumulation_steps=1",
    "trainer.gradient_checkpointing=false",
    "trainer.learning_rate=1e-3",
]
SCRATCH = [*SMALL, "reranker.init=scratch", "reranker.scratch.hidden_size=16", "reranker.scratch.intermediate_size=32"]
STEPS = ["trainer.max_steps=6", "trainer.eval_strategy=steps", "trainer.eval_steps=2", "trainer.logging_steps=2"]


def test_a_run_of_passages(passages: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny: Any = TinyPassages(name="tiny").load(Path())
    given = folder_of("bert", words_of(tiny), tmp_path / "given")
    words = [*SMALL, *STEPS, f"reranker.model={given}", "candidates/retriever=bm25"]
    metrics = train(passages(*words, "reranker.augment.snippets=1", "protocol.fold=0"))
    shown = capsys.readouterr().out
    assert "untuned" in shown and "viranker" in shown
    assert {"test/untuned/recall_at_10", "test/recall_at_10", "valid/recall_at_10"} <= set(metrics)
    folder = only_run(tmp_path)
    model = {path.name for path in (folder / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= model
    pickles = [path.name for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]
    assert not pickles and not (folder / "checkpoints").exists()

    info = json.loads((folder / "training_info.json").read_text())
    assert set(info["trainer"]) == {field.name for field in fields(TrainerConfig)}
    own = {field.name for field in fields(CrossEncoderReranker)}
    assert set(info["reranker"]) == own - {"trainer", "checkpoints", "cache"}
    assert info["reranker"]["augment"]["snippets"] == 1 and info["reranker"]["model"] == str(given)
    dev = json.loads((folder / "dev_metrics.json").read_text())
    assert list(dev) == ["accuracy", "avg_pos_score", "avg_neg_score", "margin"]

    checkpoints = sorted(path.name for path in folder.glob("checkpoint-*"))
    assert checkpoints and set(checkpoints) <= {"checkpoint-2", "checkpoint-4", "checkpoint-6"}
    taken = folder / checkpoints[-1]
    assert CrossEncoder(str(taken), device="cpu", trust_remote_code=False).predict([("w1 w2", "w3")]).shape == (1,)
    zero = [word for word in words if not word.startswith(("reranker.model", "trainer.max_steps"))]
    zero += [f"reranker.model={taken}", "trainer.num_train_epochs=0", f"paths.root={tmp_path / 'zero'}"]
    again = train(passages(*zero, "protocol.fold=0"))
    assert "test/recall_at_10" in again and "test/untuned/recall_at_10" not in again
    assert "untuned" in capsys.readouterr().out


def test_the_rows_untuned_and_tuned_are_of_the_same_model(passages: Callable[..., Any], tmp_path: Path) -> None:
    """A learning rate of nearly nothing: both rows have the same metrics. The model has no head, which is said."""
    tiny: Any = TinyPassages(name="tiny").load(Path())
    given = folder_of("bert", words_of(tiny), tmp_path / "given")
    BertModel.from_pretrained(given).save_pretrained(given)
    still = [*SMALL, *STEPS, f"reranker.model={given}", "trainer.learning_rate=1e-12", "trainer.weight_decay=0"]
    metrics = train(passages(*still, "protocol.fold=0", "candidates/retriever=bm25"))
    names = [name.removeprefix("test/untuned/") for name in metrics if name.startswith("test/untuned/")]
    assert {"recall_at_10", "ndcg_at_10"} <= set(names)
    assert all(metrics[f"test/untuned/{name}"] == pytest.approx(metrics[f"test/{name}"]) for name in names)
    labels = json.loads((only_run(tmp_path) / "manifest.json").read_text())["labels"]
    assert [label for label in labels if "head" in label] == ["the row untuned: untuned, its head is random"]


def test_recommendation_requests_end_to_end(config: Callable[..., Any], tmp_path: Path) -> None:
    cfg = config(*SCRATCH, "trainer.max_steps=20", "trainer.eval_strategy=epoch", "reranker.max_history=4")
    metrics = train(cfg)
    folder = only_run(tmp_path)
    assert metrics["test/n_requests"] == 120 and "valid/recall_at_10" in metrics
    assert (folder / "training_info.json").exists() and (folder / "dev_metrics.json").exists()
    scores = pd.read_parquet(folder / "predictions.parquet")["score"]
    assert np.isfinite(scores).all() and scores.nunique() > 1000
    experiment = configure(cfg)
    experiment.reranker.load(folder / "model", None)  # type: ignore[arg-type]


def test_refit_leaves_the_development_numbers_of_the_model_that_had_not_seen_them(
    passages: Callable[..., Any], tmp_path: Path
) -> None:
    words = [*SCRATCH, *STEPS, "protocol.fold=0", "candidates/retriever=bm25"]
    train(passages(*words, f"paths.root={tmp_path / 'a'}"))
    train(passages(*words, "protocol.refit_on_validation=true", f"paths.root={tmp_path / 'b'}"))
    a, b = (only_run(tmp_path / root) for root in "ab")
    assert (a / "dev_metrics.json").read_bytes() == (b / "dev_metrics.json").read_bytes()
    rows = [json.loads((run / "training_info.json").read_text())["training_groups"] for run in (a, b)]
    assert rows[1] > rows[0], "what is written of the training is of the refit"


def test_the_preflight_overfits_it(
    passages: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.preflight.SECONDS", 2)
    words = [*SCRATCH, "check=true", "protocol.fold=0", "candidates/retriever=bm25", "trainer.learning_rate=3e-3"]
    train(passages(*words))
    shown = capsys.readouterr().out
    assert "What viranker reads of the first validation request" in shown and "Preflight" in shown
