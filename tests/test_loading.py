"""load_reranker: what is found and refused, and scores as in the evaluation of the same run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_cross_encoders import SMALL, TEXTS, composed, finished_run, random_cross_encoder

from data.errors import UserError
from data.texts import item_texts
from experiments import stages
from experiments.config import configure
from experiments.launch import ROOT
from rerankers import load_reranker
from train import train

QUERY = "câu lạc bộ được thành lập khi nào"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_cross_encoder(tmp_path_factory.mktemp("model"))


def test_a_run_scores_as_in_its_evaluation(run: Path) -> None:
    experiment = configure(composed(run.parent.parent, "reranker=viranker", *SMALL))
    test = stages.open_data(experiment, stages.load(experiment)).test.requests
    texts = dict(zip(test.catalog.id, item_texts(test.catalog), strict=True))
    predictions = pd.read_parquet(run / "predictions.parquet")
    r = load_reranker(run)
    assert test.names is not None and test.queries is not None
    for name, query in zip(test.names, test.queries, strict=True):
        own = predictions[predictions["request"] == name].sort_values("candidate")
        ranking = r.rank(query, [texts[item] for item in own["candidate"]])
        scores = np.empty(len(own), dtype=np.float32)
        scores[ranking.order] = ranking.scores
        assert np.abs(scores - own["score"]).max() < 1e-5
        best = own["candidate"].iloc[int(ranking.order[0])]
        assert own.sort_values("rank")["candidate"].iloc[0] == best


def test_a_run_is_found_by_name_and_its_checkpoint_takes_the_runs_settings(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_reranker(run).rank(QUERY, TEXTS).scores
    assert np.array_equal(load_reranker(run.name, root=run.parent.parent).rank(QUERY, TEXTS).scores, whole)
    assert np.array_equal(load_reranker(run / "model").rank(QUERY, TEXTS).scores, whole)
    (checkpoint,) = run.glob("checkpoint-*")
    r = load_reranker(checkpoint)
    assert r.reranker.max_length == 64 and np.isfinite(r.rank(QUERY, TEXTS).scores).all()
    monkeypatch.chdir(run.parent)
    assert np.array_equal(load_reranker(run.name).rank(QUERY, TEXTS).scores, whole)


def test_what_cannot_be_loaded_ends_in_one_sentence(run: Path, folder: Path, tmp_path: Path) -> None:
    def said(name: Any, **settings: Any) -> str:
        with pytest.raises(UserError) as caught:
            load_reranker(name, root=tmp_path, **settings)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is neither a run" in said(tmp_path)
    assert "/no/such/folder is no folder, no run in" in said("/no/such/folder")
    assert "no/such-model is no run, and no model that can be loaded" in said("no/such-model")
    assert "unknown key dtpye of CrossEncoderReranker" in said(run, dtpye="bfloat16")
    assert "reranker.dtype=int4 is not allowed" in said(run, dtype="int4")
    assert "reranker.max_length=5000 exceeds the 64 positions" in said(folder, max_length=5000)
    several = random_cross_encoder(tmp_path / "several", num_labels=3)
    assert "with 3 labels, not a cross-encoder with one logit" in said(several)
    config = json.loads((folder / "config.json").read_text())
    encoder = shutil.copytree(folder, tmp_path / "encoder")
    (encoder / "config.json").write_text(json.dumps(config | {"architectures": ["XLMRobertaModel"]}))
    assert "is a XLMRobertaModel, neither a cross-encoder" in said(encoder)
    headless = shutil.copytree(folder, tmp_path / "headless")
    weights = {name: x for name, x in load_file(folder / "model.safetensors").items() if "classifier" not in name}
    save_file(weights, headless / "model.safetensors")
    assert "has no head" in said(headless)


def test_a_run_without_a_model_names_what_to_load(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "runs" / "other"
    other.mkdir(parents=True)
    shutil.copy(run / "config.yaml", other)
    with pytest.raises(UserError, match="is not a finished run"):
        load_reranker("other", root=tmp_path)
    (other / "manifest.json").write_text(json.dumps({"folds": {"tiny-viranker-a": "1", "tiny-viranker-b": "2"}}))
    with pytest.raises(UserError, match=r"pools 2 folds .* load one of tiny-viranker-a, tiny-viranker-b"):
        load_reranker("other", root=tmp_path)
    (other / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="has no model/"):
        load_reranker("other", root=tmp_path)
    (other / "model").mkdir()
    text = (other / "config.yaml").read_text()
    for target, said in (("os.path.join", "is not a class of this project"), ("rerankers.base.Log", "not a reranker")):
        changed = text.replace("rerankers.cross_encoder.cross_encoder.CrossEncoderReranker", target)
        (other / "config.yaml").write_text(changed)
        with pytest.raises(UserError, match=said):
            load_reranker("other", root=tmp_path)


@pytest.mark.parametrize(
    ("reranker", "said"),
    [
        ("bert4rec", "ranks items by their ids and reads no text"),
        ("vip5", "ranks items by their ids and reads no text"),
        ("popularity", "has scores for its own items alone"),
    ],
)
def test_rerankers_of_ids_are_refused(tmp_path: Path, config: Any, reranker: str, said: str) -> None:
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    resolved = configure(config(f"reranker={reranker}")).resolved
    (run / "config.yaml").write_text(json.dumps(resolved))
    with pytest.raises(UserError, match=said):
        load_reranker(run)


@pytest.mark.parametrize(
    "settings",
    [
        ["trainer.num_train_epochs=0"],
        ["trainer.num_train_epochs=0", "reranker.order=invariant"],
        ["trainer.per_device_train_batch_size=4", "trainer.learning_rate=1e-2"],
    ],
)
def test_a_letter_run_scores_as_in_its_evaluation(checkpoint: Path, tmp_path: Path, settings: list[str]) -> None:
    """Zero-shot and with trained adapters, also where prompts are too long and every passage is cut."""
    words = ["reranker=qwen_letter", f"reranker.model={checkpoint}", "reranker.max_length=130", *settings]
    cfg = composed(tmp_path, *words)
    train(cfg)
    (run,) = (tmp_path / "runs").iterdir()
    experiment = configure(composed(tmp_path, *words))
    test = stages.open_data(experiment, stages.load(experiment)).test.requests
    assert test.names is not None and test.queries is not None and test.candidates is not None
    texts, ids = item_texts(test.catalog), test.catalog.id
    predictions = pd.read_parquet(run / "predictions.parquet")
    r = load_reranker(run)
    for name, query, row in zip(test.names, test.queries, test.candidates, strict=True):
        shown = row[row >= 0]
        ranking = r.rank(query, [texts[item] for item in shown])
        expected = predictions[predictions["request"] == name].set_index("candidate")["score"]
        ours = {ids[shown[place]]: score for place, score in zip(ranking.order, ranking.scores, strict=True)}
        assert max(abs(ours[item] - expected[item]) for item in ours) < 1e-4


def test_half_precision_is_converted_once_and_its_logits_stay_apart(folder: Path) -> None:
    whole, half = load_reranker(folder), load_reranker(folder, dtype="bfloat16")
    model = half.reranker.network[0].model
    weight = model.roberta.embeddings.word_embeddings.weight
    place = weight.data_ptr()
    a, b = whole.rank(QUERY, TEXTS), half.rank(QUERY, TEXTS)
    assert weight.dtype == torch.bfloat16 and weight.data_ptr() == place
    assert model.classifier.out_proj.weight.dtype == torch.float32
    difference = np.abs(a.scores - b.scores[np.argsort(b.order)][a.order]).max()
    assert 0 < difference < 0.2 * np.ptp(a.scores)


def test_importing_rerankers_is_light() -> None:
    code = "import sys, rerankers; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
