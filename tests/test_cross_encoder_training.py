"""Training: it learns, the same for a seed; interrupted or in parts it ends with the same weights."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pairs import asked, folder_of, make, nothing, weights, words_of
from tiny_passages import folded, generated

from data.dataset import Dataset
from data.errors import UserError
from data.splits import Split
from data.text_retrievers import BM25
from experiments.runs import STATE
from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker
from rerankers.cross_encoder.dev_metrics import told_apart
from rerankers.cross_encoder.network import Scratch
from rerankers.cross_encoder.trainer import PairTrainer, half_precision

LEARNING = Scratch(hidden_size=64, num_attention_heads=4, intermediate_size=64, num_hidden_layers=2)


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Split]:
    dataset = generated()
    return dataset, replace(folded(dataset), retriever=BM25())


def fitted(tmp_path: Path, data: tuple[Dataset, Split], **settings: Any) -> CrossEncoderReranker:
    reranker = make(tmp_path, **settings)
    reranker.fit(*data, None, nothing)
    return reranker


@pytest.mark.parametrize("loss", ["bce", "listwise"])
def test_it_learns(loss: str, data: tuple[Dataset, Split], tmp_path: Path) -> None:
    """What it was taught it knows: its own training pairs, against negatives that it never saw."""
    dataset, split = data
    few = replace(split, train=split.train.take(slice(0, 8)))
    settings = {"scratch": LEARNING, "learning_rate": 3e-3, "warmup_steps": 5, "max_length": 40}
    size = {"bce": 16, "listwise": 4}[loss]
    reranker = make(tmp_path, loss=loss, epochs=24, per_device_train_batch_size=size, **settings)
    curve: list[float] = []
    reranker.fit(dataset, few, None, lambda v, step: curve.append(v["train_loss"]) if "train_loss" in v else None)
    chance = reranker.chance_loss(None)
    assert chance is not None and np.mean(curve[:5]) == pytest.approx(chance, rel=0.4)
    assert np.mean(curve[-5:]) < 0.5 * chance
    reranker.rows.epoch = 999
    queries, items = reranker.rows.groups(np.arange(len(reranker.rows.owner)))
    pairs = [(query, reranker.rows.texts[item]) for query, row in zip(queries, items, strict=True) for item in row]
    logits = reranker.score_pairs(pairs).reshape(items.shape)
    assert told_apart(logits)["accuracy"] > 0.8, "chance is a half"
    assert float(reranker.facts(asked(dataset, split))["weight_change"][0]) > 0.1


def test_the_same_seed_gives_the_same_numbers(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    first, again, other = (
        fitted(tmp_path / name, data, max_steps=4, seed=seed, dropout=0.1)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert torch.equal(weights(first), weights(again))
    assert not torch.allclose(weights(first), weights(other), atol=1e-3)


def test_accumulated_batches_are_one_batch(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    """The loss keeps its size, and so do its gradients; SGD, as Adam does not see a factor."""
    ends, norms = [], []
    for parts in (1, 2, 8):
        sizes = {"per_device_train_batch_size": 8 // parts, "gradient_accumulation_steps": parts}
        reranker = make(tmp_path / str(parts), max_steps=2, optim="sgd", learning_rate=1.0, **sizes)
        logged: list[dict[str, float]] = []
        reranker.fit(*data, None, lambda values, step, logged=logged: logged.append(values))
        norms.append([(v["grad_norm"], v["train_loss"]) for v in logged if "grad_norm" in v])
        ends.append(weights(reranker))
    start = make(tmp_path / "start", epochs=0)
    start.build(*data)
    moved = (ends[0] - weights(start)).norm()
    assert moved > 0.01
    for end, norm in zip(ends[1:], norms[1:], strict=True):
        assert (end - ends[0]).norm() < 1e-4 * moved
        assert np.allclose(norm, norms[0], rtol=1e-3)


def test_activation_checkpointing_changes_no_number(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    plain, saving = (fitted(tmp_path / str(on), data, max_steps=3, gradient_checkpointing=on) for on in (False, True))
    assert torch.allclose(weights(plain), weights(saving), atol=1e-6)
    assert saving.network[0].model.is_gradient_checkpointing and not plain.network[0].model.is_gradient_checkpointing


def test_scoring_within_training_changes_no_weight(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    """Also in half precision, whose weights are put back."""
    dataset, split = data
    requests = asked(dataset, split)
    plain = fitted(tmp_path / "plain", data, max_steps=6)
    for dtype, backend in (("bfloat16", "torch"), ("float32", "flag")):
        settings = {"eval_strategy": "steps", "eval_steps": 2, "dtype": dtype, "backend": backend}
        reranker = make(tmp_path / backend, max_steps=6, **settings)
        found: list[float] = []

        def validate(score: Any, found: list[float] = found) -> dict[str, float]:
            found.append(float(score(requests)[1:].std()))
            return {"recall_at_10": float(len(found))}  # the last is the best

        reranker.fit(dataset, split, validate, nothing)
        assert len(found) == 3 and len(set(found)) == 3, "scored by the weights of the moment"
        assert torch.equal(weights(reranker), weights(plain))


def test_the_best_model_by_validation_is_kept(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    dataset, split = data
    early = fitted(tmp_path / "early", data, max_steps=8, lr_scheduler_type="constant")
    settings = {"eval_strategy": "steps", "eval_steps": 4, "lr_scheduler_type": "constant"}
    reranker = make(tmp_path / "kept", max_steps=16, **settings)
    values = iter([0.1, 0.9, 0.3, 0.2])
    reranker.fit(dataset, split, lambda score: {"recall_at_10": next(values)}, nothing)
    assert torch.equal(weights(reranker), weights(early))
    state = json.loads((tmp_path / "kept/checkpoints/checkpoint-16/trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]).name == "checkpoint-8"
    ended = make(tmp_path / "kept", max_steps=16, **settings)  # continued after its last step, it takes the best too
    ended.fit(dataset, split, lambda score: {"recall_at_10": 1.0}, nothing)
    assert torch.equal(weights(ended), weights(early))


def test_a_best_model_that_is_gone_is_not_passed_over(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    values, folder = iter([0.9, 0.1]), tmp_path / "checkpoints"

    def validate(score: Any) -> dict[str, float]:
        for weights_of_best in folder.glob("checkpoint-2/model.safetensors"):
            weights_of_best.unlink()
        return {"recall_at_10": next(values)}

    reranker = make(tmp_path, max_steps=4, eval_strategy="steps", eval_steps=2)
    with pytest.raises(RuntimeError, match="Missing key"):
        reranker.fit(*data, validate, nothing)


@pytest.mark.parametrize("at", [5, 14], ids=["in the first epoch", "in the second"])
def test_an_interrupted_training_ends_like_an_unbroken_one(
    at: int, data: tuple[Dataset, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"epochs": 2, "eval_strategy": "steps", "eval_steps": 4, "dropout": 0.1}
    settings |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "save_total_limit": None}
    dataset, split = data
    data = (dataset, replace(split, train=split.train.take(slice(0, 12))))
    unbroken = fitted(tmp_path / "a", data, **settings)
    assert unbroken.rows.epoch == 1 and len(unbroken.rows) == 84
    step, taken = PairTrainer.training_step, []

    def killed(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        taken.append(self.state.global_step)
        if self.state.global_step == at:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(PairTrainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "b", data, **settings)
    monkeypatch.setattr(PairTrainer, "training_step", step)
    assert (tmp_path / "b/checkpoints" / f"checkpoint-{at // 4 * 4}" / "complete").exists()
    continued = fitted(tmp_path / "b", data, **settings)
    assert torch.equal(weights(unbroken), weights(continued))


def test_a_checkpoint_is_a_model(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    dataset, split = data
    reranker = fitted(tmp_path, data, max_steps=4, eval_strategy="steps", eval_steps=2)
    checkpoint = tmp_path / "checkpoints/checkpoint-4"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in checkpoint.iterdir()}
    assert not {"README.md", "training_args.bin"} & {path.name for path in checkpoint.iterdir()}
    requests = asked(dataset, split)
    with pytest.raises(UserError, match=r"holds \w+\.pth?, a pickle, and is not opened"):
        make(tmp_path / "other", checkpoint, epochs=0).build(dataset, split)
    for pattern in STATE:  # as it is kept when the training ends
        for path in checkpoint.glob(pattern):
            path.unlink()
    taken = make(tmp_path / "other", checkpoint, epochs=0)
    taken.build(dataset, split)
    assert np.array_equal(taken.score(requests), reranker.score(requests))
    assert taken.labels(requests) == ["untuned"], "not with a random head"


def test_loading_workers_change_no_number(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    alone, helped = (fitted(tmp_path / str(n), data, max_steps=30, dataloader_num_workers=n) for n in (0, 2))
    assert torch.equal(weights(alone), weights(helped))


def test_a_fixed_training_draws_once(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    reranker = make(tmp_path, epochs=2, per_device_train_batch_size=64)
    reranker.redraws = False
    reranker.fit(*data, None, nothing)
    assert reranker.rows.epoch == 0
    other = fitted(tmp_path / "other", data, epochs=2, per_device_train_batch_size=64)
    assert other.rows.epoch == 1


def test_what_a_run_leaves(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    dataset, split = data
    reranker = make(tmp_path, max_steps=2, eval_strategy="no")
    assert reranker.reports() == {}
    reranker.fit(dataset, split, lambda score: {}, nothing)
    info, dev = reranker.reports()["training_info.json"], reranker.reports()["dev_metrics.json"]
    json.dumps([info, dev])
    assert set(dev) == {"accuracy", "avg_pos_score", "avg_neg_score", "margin"}
    assert all(math.isfinite(value) for value in dev.values())
    assert info["effective_batch_size"] == 8 and info["trainer"]["max_steps"] == 2
    assert info["reranker"]["hard_negatives"] == 1 and info["reranker"]["augment"]["snippets"] == 0
    assert info["training_rows"] == 4 * info["training_groups"] == len(reranker.rows)
    facts = reranker.facts(asked(dataset, split))
    assert facts["dev_metrics"].tolist() == list(dev.values())
    refit = fitted(tmp_path / "refit", (dataset, split.with_validation_in_train()), max_steps=2)
    assert set(refit.reports()) == {"training_info.json"}, "what it has seen says nothing about it"


def test_a_pretrained_model_is_trained_in_half_precision(
    data: tuple[Dataset, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU that has it: the weights stay float32, the loss is computed in bfloat16 but for its head's sum."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    folder = folder_of("bert", words_of(data[0]), tmp_path / "bert")
    plain, half = (
        fitted(tmp_path / how, data, model=folder, max_steps=3, mixed_precision=how) for how in ("none", "auto")
    )
    assert half_precision(half) == "bf16" and half_precision(plain) is None
    assert half.reports()["training_info.json"]["mixed_precision"] == "bf16"
    assert all(p.dtype == torch.float32 for p in half.network.parameters())
    assert not torch.equal(weights(plain), weights(half))
    assert torch.allclose(weights(plain), weights(half), atol=2e-2)
    own = make(tmp_path, folder, mixed_precision="auto", bf16=True)
    assert half_precision(own) is None, "the trainer's own key"
    assert half_precision(make(tmp_path, mixed_precision="auto")) is None, "a small model gains nothing"


@pytest.mark.parametrize("first", [True, False])
def test_one_of_several_processes_writes_a_checkpoint(first: bool, tmp_path: Path) -> None:
    trainer: Any = PairTrainer.__new__(PairTrainer)
    trainer.args = SimpleNamespace(should_save=first)
    trainer.model = SimpleNamespace(save_pretrained=lambda folder, **options: Path(folder).mkdir())
    trainer._save(str(tmp_path / "checkpoint"))
    assert (tmp_path / "checkpoint").exists() == first
