"""The letter reranker on disk and in the config: adapters, bases, zero-shot, identity, mistakes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_letters import SMALL, make, nothing

from data.candidates import Prepared
from data.dataset import Dataset
from data.errors import UserError
from data.splits import Split
from data.texts import item_texts
from experiments.config import configure
from rerankers.letter.language_model import Lora
from rerankers.letter.letter import LetterReranker


def reranker_requests(demo: Dataset) -> Any:
    from conftest import random_requests

    requests, _ = random_requests(np.random.default_rng(0), 4, 10, len(demo.catalog))
    return replace(requests, catalog=demo.catalog)


@pytest.mark.parametrize(
    "lora", [Lora(), Lora(r=4, use_rslora=True), Lora(use_dora=True), Lora(target_modules="q_proj")]
)
def test_adapters_are_saved_without_the_base_and_score_the_same(
    lora: Lora, demo: Dataset, split: Split, candidates: Prepared, checkpoint: Path, tmp_path: Path
) -> None:
    reranker = make(checkpoint, tmp_path, lora=lora, learning_rate=1e-2)
    before = make(checkpoint, tmp_path, epochs=0)
    for model in (reranker, before):
        model.fit(demo, split, None, nothing)
    requests = candidates.test.take(slice(0, 20))
    scores = reranker.score(requests)
    assert not np.allclose(scores, before.score(requests), atol=1e-3), "training changed it"
    (folder := tmp_path / "saved").mkdir()
    reranker.save(folder)
    assert not (folder / "model.safetensors").exists() and (folder / "adapter_model.safetensors").exists()
    again = make(checkpoint, tmp_path, lora=lora)
    again.load(folder, requests)
    assert np.array_equal(scores, again.score(requests))
    trainable, total = reranker.facts(requests)["parameters"]
    assert 0 < trainable < total / 2 and float(reranker.facts(requests)["weight_change"][0]) > 1e-3


def test_an_adapter_refuses_another_base(demo: Dataset, split: Split, checkpoint: Path, tmp_path: Path) -> None:
    reranker = make(checkpoint, tmp_path)
    reranker.fit(demo, split, None, nothing)
    (folder := tmp_path / "saved").mkdir()
    reranker.save(folder)
    torch.manual_seed(9)
    SMALL.model(len(reranker.tokenizer), 512).save_pretrained(other := tmp_path / "other")
    reranker.tokenizer.save_pretrained(other)
    with pytest.raises(UserError, match="is not the model that"):
        make(other, tmp_path).load(folder, reranker_requests(demo))


def test_zero_shot_is_a_run_of_its_own(
    demo: Dataset, split: Split, candidates: Prepared, checkpoint: Path, tmp_path: Path
) -> None:
    reranker = make(checkpoint, tmp_path, epochs=0)
    reranker.fit(demo, split, None, nothing)
    assert reranker.labels(candidates.test) == ["zero-shot"]
    assert reranker.facts(candidates.test)["parameters"][0] == 0
    (folder := tmp_path / "saved").mkdir()
    reranker.save(folder)
    again = make(checkpoint, tmp_path, epochs=0)
    again.load(folder, candidates.test)
    assert np.array_equal(reranker.score(candidates.test), again.score(candidates.test))
    assert make(None, tmp_path, epochs=0).labels(candidates.test) == ["untrained"]


def test_item_texts_come_from_the_catalogue_or_say_what_is_missing(demo: Dataset) -> None:
    with pytest.raises(UserError, match="item_text=caption needs items with a caption"):
        item_texts(demo.catalog, "caption")
    captions = demo.catalog.caption.copy()
    captions[0] = "a red teapot"
    texts = item_texts(replace(demo.catalog, caption=captions), "caption")
    assert texts[0] == f"{demo.catalog.title[0]}: a red teapot" and texts[1] == demo.catalog.title[1]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("reranker.order=any", "reranker.order=any is not allowed; choose letters or invariant"),
        ("reranker.item_text=plot", "choose text_only or caption or semantic_summary"),
        ("reranker.lora.r=0", "reranker.lora.r=0 is out of range"),
        ("reranker.lora.rank=4", "Could not override 'reranker.lora.rank'"),
        ("+reranker.lora.rank=4", "unknown key reranker.lora.rank"),
        ("reranker.lora.r=abc", "reranker.lora.r=abc has the wrong type; it must be int"),
        ("reranker.lora=8", "reranker.lora=8 is not a mapping"),
        ("candidates.size=53", "53 candidates need 53 labels"),
        ("reranker.permutations=3 reranker.order=invariant", "reranker.order=invariant has no letters"),
    ],
)
def test_mistakes_are_one_sentence(override: str, says: str, config: Callable[..., Any]) -> None:
    with pytest.raises(Exception) as caught:
        configure(config("reranker=qwen_letter", "candidates.size=20", *override.split(), small=False))
    assert says in str(caught.value)


def test_a_model_that_cannot_be_had_says_what_to_do(
    demo: Dataset, split: Split, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        make(tmp_path / "nowhere", tmp_path).build(demo, split)
    with pytest.raises(UserError, match="give a Hugging Face name that this machine can reach, a folder"):
        make(tmp_path, tmp_path).build(demo, split)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        make(checkpoint, tmp_path, load_in_4bit=True).build(demo, split)


def test_the_identity_of_a_run_is_the_models_content_not_its_place(
    demo: Dataset, checkpoint: Path, tmp_path: Path, config: Callable[..., Any]
) -> None:
    import shutil

    def identity(folder: Path) -> str:
        return configure(config("reranker=qwen_letter", f"reranker.model={folder}")).identity(demo)

    moved = shutil.copytree(checkpoint, tmp_path / "moved")
    assert identity(moved) == identity(checkpoint)
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    assert identity(moved) != identity(checkpoint)
    assert identity(tmp_path / "not a folder") != identity(checkpoint)


def test_a_model_that_lacks_weights_is_refused(demo: Dataset, split: Split, checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    torn = shutil.copytree(checkpoint, tmp_path / "torn")
    weights = load_file(torn / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layers.1" not in k}, torn / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights \(model\.layers\.1"):
        make(torn, tmp_path).build(demo, split)
    (torn / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:500])
    with pytest.raises(UserError, match="cannot be loaded"):
        make(torn, tmp_path).build(demo, split)


@pytest.mark.parametrize("name", ["candidates_sweep", "lora_rank_sweep"])
def test_a_sweep_trains_the_model_it_is_given(name: str, config: Callable[..., Any]) -> None:
    reranker = configure(config(f"experiment={name}", "reranker.model=/my/model", small=False)).reranker
    assert isinstance(reranker, LetterReranker)
    assert (reranker.init, reranker.model, reranker.training_candidates) == (
        "pretrained",
        "/my/model",
        {"candidates_sweep": 50, "lora_rank_sweep": 20}[name],
    )


def test_sweeps_compose_their_jobs(config: Callable[..., Any]) -> None:
    for size in (5, 10, 20, 50):
        configure(config("experiment=candidates_sweep", f"candidates.size={size}", small=False))
