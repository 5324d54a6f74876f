"""Models that can be had, and those that cannot: one sentence each, before anything is trained."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_letters import SMALL as SMALL_LETTERS
from tiny_pairs import folder_of, make, nothing, tokenizer_of
from tiny_passages import folded, generated
from transformers import BertConfig, BertForMaskedLM, BertModel, MPNetConfig, MPNetForSequenceClassification

from data.dataset import Dataset
from data.errors import UserError
from data.splits import Split
from data.text_retrievers import BM25
from experiments.config import configure
from rerankers import load_reranker
from rerankers.cross_encoder.network import load

TOKENIZER = tokenizer_of("scratch", None)
SIZES: dict[str, Any] = {"vocab_size": len(TOKENIZER), "hidden_size": 16, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 66}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of("bert", TOKENIZER, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Split]:
    dataset = generated()
    return dataset, replace(folded(dataset), retriever=BM25())


def saved(model: Any, folder: Path, tokenizer: Any = TOKENIZER) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def without(folder: Path, part: str, to: Path) -> Path:
    """A copy of the model without those tensors."""
    shutil.copytree(folder, to)
    left = {name: x for name, x in load_file(to / "model.safetensors").items() if part not in name}
    save_file(left, to / "model.safetensors", {"format": "pt"})
    return to


def torn(folder: Path, tmp_path: Path) -> Path:
    copy = shutil.copytree(folder, tmp_path / "torn")
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500])
    return copy


def no_tokenizer(folder: Path, tmp_path: Path) -> Path:
    copy = shutil.copytree(folder, tmp_path / "bare")
    for path in copy.glob("token*"):
        path.unlink()
    return copy


def pickled(folder: Path, tmp_path: Path) -> Path:
    copy = shutil.copytree(folder, tmp_path / "pickled")
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    return copy


def larger_vocabulary(folder: Path, tmp_path: Path) -> Path:
    copy = shutil.copytree(folder, tmp_path / "larger")
    tokenizer = tokenizer_of("scratch", None)
    tokenizer.add_tokens(["entirely", "new"])
    tokenizer.save_pretrained(copy)
    return copy


def causal(folder: Path, tmp_path: Path) -> Path:
    return saved(SMALL_LETTERS.model(len(TOKENIZER), 64).cpu(), tmp_path / "causal")


MISTAKES: list[tuple[Callable[[Path, Path], Path], str]] = [
    (lambda folder, tmp: tmp / "nowhere", "nowhere: there is no such folder; give one that holds a model"),
    (lambda folder, tmp: tmp, "cannot be loaded .* give a Hugging Face name that this machine can reach, a folder"),
    (lambda folder, tmp: Path("nobody/nothing"), "reranker.model=nobody/nothing cannot be loaded"),
    (torn, "torn cannot be loaded .* a folder that holds the model"),
    (pickled, "holds pytorch_model.bin, a pickle, and is not opened"),
    (no_tokenizer, "bare has no tokenizer; give a folder with tokenizer.json"),
    (larger_vocabulary, "has a tokenizer of 29 tokens, and the model knows 27; give the tokenizer"),
    (causal, "is a Qwen3ForCausalLM, not a cross-encoder with one logit; give one like BAAI"),
    (
        lambda folder, tmp: folder_of("bert", TOKENIZER, tmp / "three", num_labels=3),
        "is a BertForSequenceClassification with 3 labels, not a cross-encoder with one logit",
    ),
    (
        lambda folder, tmp: without(folder, "layer.1.attention", tmp / "body"),
        r"lacks weights \(bert\.encoder\.layer\.1\.attention.* which would be random; give a whole one",
    ),
]


@pytest.mark.parametrize(("change", "says"), MISTAKES)
def test_a_model_that_cannot_be_had_says_what_to_do(
    change: Callable[[Path, Path], Path], says: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load(str(change(folder, tmp_path)), 32)
    assert "\n" not in str(caught.value)


def test_weights_in_several_files_are_counted_together(folder: Path, tmp_path: Path) -> None:
    network = load(str(folder), 32)
    network[0].model.save_pretrained(tmp_path, max_shard_size="20KB")
    TOKENIZER.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert not load(str(tmp_path), 32).new_head


def test_a_text_longer_than_the_models_positions_is_refused(folder: Path, tmp_path: Path) -> None:
    xlmr = folder_of("xlmr", TOKENIZER, tmp_path / "xlmr")
    mpnet = saved(MPNetForSequenceClassification(MPNetConfig(num_labels=1, **SIZES)), tmp_path / "mpnet")
    for model, most in ((folder, 66), (xlmr, 64), (mpnet, 64)):  # the last two count from the padding's number
        with pytest.raises(UserError, match=f"reranker.max_length={most + 1} exceeds the {most} positions"):
            load(str(model), most + 1)
        network = load(str(model), most).eval()
        ids = torch.full((1, most), 5)
        assert torch.isfinite(network[0].model(input_ids=ids).logits).all()


def test_a_head_that_is_random_is_said(folder: Path, tmp_path: Path, data: tuple[Dataset, Split]) -> None:
    assert not load(str(folder), 32).new_head
    config = BertConfig(**SIZES)
    base = saved(BertModel(config), tmp_path / "base")
    masked = saved(BertForMaskedLM(config), tmp_path / "masked")
    headless = without(folder, "classifier", tmp_path / "headless")
    unpooled = without(folder, "pooler", tmp_path / "unpooled")
    for model in (base, masked, headless, unpooled):
        assert load(str(model), 32).new_head, model.name
    untuned = make(tmp_path, base, epochs=0)
    untuned.build(*data)
    assert untuned.labels(None) == ["untuned, its head is random"]  # type: ignore[arg-type]
    other = make(tmp_path, base, epochs=0)
    other.build(*data)
    pairs = [("a", "b c")]
    assert (untuned.score_pairs(pairs) == other.score_pairs(pairs)).all(), "but the same for a seed"


def test_a_random_head_that_was_saved_is_still_random(tmp_path: Path, data: tuple[Dataset, Split]) -> None:
    """Its folder has a whole model; what it was trained into, has too."""
    untuned = make(tmp_path, saved(BertModel(BertConfig(**SIZES)), tmp_path / "base"), epochs=0)
    untuned.build(*data)
    untuned.save(kept := tmp_path / "kept")
    again = make(tmp_path, kept, epochs=0)
    again.build(*data)
    assert again.labels(None) == ["untuned, its head is random"]  # type: ignore[arg-type]
    with pytest.raises(UserError, match="kept has no head, and a random one ranks nothing"):
        load_reranker(kept)
    trained = make(tmp_path, kept, max_steps=1)
    trained.fit(*data, None, nothing)
    trained.save(done := tmp_path / "done")
    load_reranker(done)
    after = make(tmp_path, done, epochs=0)
    after.build(*data)
    assert after.labels(None) == ["untuned"]  # type: ignore[arg-type]


def test_labels_and_rows_of_their_own(folder: Path, tmp_path: Path, data: tuple[Dataset, Split]) -> None:
    untuned = make(tmp_path, folder).untuned()
    assert untuned is not None and untuned.trainer.num_train_epochs == 0
    untuned.fit(*data, None, nothing)
    requests: Any = None
    assert untuned.labels(requests) == ["untuned"] and untuned.untuned() is None and untuned.reports() == {}
    assert make(tmp_path, folder).labels(requests) == []
    assert make(tmp_path).labels(requests) == ["model from nothing, all weights trained"]
    assert make(tmp_path, epochs=0).labels(requests) == ["untrained"] and make(tmp_path).untuned() is None


@pytest.mark.parametrize(
    ("name", "batch", "accumulation", "epochs", "rate", "hard", "random", "length"),
    [
        ("viranker", 4, 8, 5, 2e-5, 2, 1, 512),
        ("viranker_quick", 4, 4, 1, 2e-5, 1, 1, 512),
        ("viranker_low_memory", 2, 16, 5, 2e-5, 2, 1, 384),
        ("viranker_max_quality", 8, 4, 10, 1e-5, 3, 2, 512),
    ],
)
def test_presets(
    name: str, batch: int, accumulation: int, epochs: int, rate: float, hard: int, random: int, length: int,
    config: Callable[..., Any],
) -> None:  # fmt: skip
    words = ["dataset=demo_passages", "protocol=query_folds", "candidates/retriever=bm25", f"reranker={name}"]
    experiment = configure(config(*words, small=False))
    reranker: Any = experiment.reranker
    trainer = reranker.trainer
    assert (trainer.per_device_train_batch_size, trainer.gradient_accumulation_steps) == (batch, accumulation)
    assert (trainer.num_train_epochs, trainer.learning_rate) == (epochs, rate)
    assert (reranker.name, reranker.hard_negatives, reranker.random_negatives) == (name, hard, random)
    assert (reranker.max_length, reranker.model) == (length, "namdp-ptit/ViRanker")
    assert trainer.max_steps == (50 if name == "viranker_quick" else -1)
    assert trainer.gradient_checkpointing == (name != "viranker_quick")
    assert trainer.eval_strategy == "steps" and trainer.eval_steps == (25 if name == "viranker_quick" else 100)
    assert reranker.hard_neg_top_k == (100 if name == "viranker_max_quality" else 50)
    assert experiment.protocol.split.dev_ratio == (0.1 if name == "viranker_quick" else 0.2)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("reranker.loss=mse", "reranker.loss=mse is not allowed; choose bce or listwise or lambda"),
        ("reranker.hard_negatives=0 reranker.random_negatives=0", "leave nothing to learn; give one of them"),
        ("reranker.hard_negatives=60", "reranker.hard_negatives=60 exceeds reranker.hard_neg_top_k=50"),
        ("reranker.hard_neg_retriever=ease", "choose bm25 or tfidf or first_stage"),
        ("reranker.backend=flag reranker.dtype=bfloat16", "scores in float32; leave out reranker.dtype"),
        ("reranker.max_length=8", "reranker.max_length=8 is out of range"),
        ("reranker.augment.min_words=20", "reranker.augment.max_words=12 is out of range; it must be in [20, 1000]"),
        ("reranker.scratch.num_attention_heads=3", "must be a multiple of reranker.scratch.num_attention_heads=3"),
        ("reranker.augment.snippets=many", "reranker.augment.snippets=many has the wrong type"),
    ],
)
def test_mistakes_are_one_sentence(override: str, says: str, config: Callable[..., Any]) -> None:
    with pytest.raises(UserError) as caught:
        configure(config("reranker=viranker", *override.split()))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_the_identity_of_a_run_is_the_models_content_not_its_place(
    folder: Path, data: tuple[Dataset, Split], tmp_path: Path, config: Callable[..., Any]
) -> None:
    def identity(model: Path) -> str:
        return configure(config("reranker=viranker", f"reranker.model={model}")).identity(data[0])

    moved = shutil.copytree(folder, tmp_path / "moved")
    assert identity(moved) == identity(folder)
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    assert identity(moved) != identity(folder)
