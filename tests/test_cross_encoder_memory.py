"""A training without the memory for its batch goes on with half of it: the same pairs make a step, the same model."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pairs import make, nothing, weights
from tiny_passages import folded, generated

from data.dataset import Dataset
from data.errors import UserError
from data.splits import Split
from data.text_retrievers import BM25
from rerankers.base import TrainerConfig
from rerankers.cross_encoder.network import PairEncoder
from rerankers.cross_encoder.trainer import PairTrainer, halved

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 15 GiB")


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Split]:
    dataset = generated()
    split = folded(dataset)
    return dataset, replace(split, train=split.train.take(slice(0, 12)), retriever=BM25())


class Memory:
    """Room for so many pairs at once in training, from a step of the training on; it counts what is trained."""

    def __init__(self, patch: pytest.MonkeyPatch, most: int, since: int = 0, error: Exception = FULL) -> None:
        self.most, self.since, self.error, self.now = most, since, error, 0
        self.steps: list[list[int]] = []  # pairs of each batch of each optimizer step that was finished
        self.queries: list[list[str]] = []
        forward, step, memory = PairEncoder.forward, PairTrainer.training_step, self

        def limited(network: Any, features: Any, **kwargs: Any) -> Any:
            if network.training and memory.now >= memory.since and len(features["input_ids"]) > memory.most:
                raise type(memory.error)(*memory.error.args)  # a new one, as an error holds on to where it was raised
            return forward(network, features, **kwargs)

        def counted(trainer: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            memory.now = trainer.state.global_step
            loss = step(trainer, model, inputs, *args, **kwargs)
            if trainer.counting != memory.now:  # the first batch of a step; what was done again counts once
                del memory.steps[memory.now :], memory.queries[memory.now :]
                memory.steps.append([])
                memory.queries.append([])
                trainer.counting = memory.now
            memory.steps[memory.now].append(len(inputs["label"]))
            memory.queries[memory.now] += inputs["query"]
            return loss

        patch.setattr(PairTrainer, "counting", -1, raising=False)
        patch.setattr(PairEncoder, "forward", limited)
        patch.setattr(PairTrainer, "training_step", counted)


def trained(tmp_path: Path, data: tuple[Dataset, Split], batch: int, steps: int = 1, **settings: Any) -> Any:
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
    reranker = make(tmp_path, epochs=2, **(sizes | settings))
    reranker.fit(*data, None, nothing)
    return reranker


@pytest.mark.parametrize("since", [0, 6, 14], ids=["at once", "after a checkpoint", "in the second epoch"])
def test_a_batch_that_does_not_fit_is_halved(
    since: int, data: tuple[Dataset, Split], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"eval_strategy": "steps", "eval_steps": 4}
    with pytest.MonkeyPatch.context() as patch:
        plenty = Memory(patch, most=1000)
        small = trained(tmp_path / "small", data, 2, 4, **settings)
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        little = Memory(patch, most=3, since=since)
        reranker = trained(tmp_path / "large", data, 8, **settings)
    assert (
        "out of memory with a batch of 8: going on with batches of 4, 2 of them accumulated, 8 a step as"
        in caplog.text
    )
    assert (
        "out of memory with a batch of 4: going on with batches of 2, 4 of them accumulated, 8 a step as"
        in caplog.text
    )
    assert ("continuing from" in caplog.text) == (since > 4)
    assert [sum(step) for step in little.steps] == [sum(step) for step in plenty.steps] == [*[8] * 10, 4] * 2
    assert all(max(step) == 2 for step in little.steps[since // 4 * 4 :])
    assert little.queries == plenty.queries, "the same pairs, in the same order"
    end = weights(small)
    start = make(tmp_path / "start", epochs=0)
    start.build(*data)
    assert (weights(reranker) - end).norm() < 0.02 * (end - weights(start)).norm()
    info = reranker.reports()["training_info.json"]
    assert info["batch_that_fitted"] == {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    assert info["effective_batch_size"] == 8 and info["trainer"]["per_device_train_batch_size"] == 8
    state = (tmp_path / "large/checkpoints/checkpoint-20/trainer_state.json").read_text()
    assert '"global_step": 20' in state


def test_groups_are_halved_too(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Memory(patch, most=8)  # pairs: two groups of four
        reranker = trained(tmp_path, data, 4, loss="listwise", max_steps=2)
    assert reranker.used.per_device_train_batch_size == 2


def test_an_odd_batch_is_divided_evenly() -> None:
    for batch, steps, expected in ((6, 2, (3, 4)), (9, 1, (3, 3)), (7, 2, (1, 14)), (2, 8, (1, 16))):
        config = TrainerConfig(per_device_train_batch_size=batch, gradient_accumulation_steps=steps)
        used = halved(config, FULL)
        assert (used.per_device_train_batch_size, used.gradient_accumulation_steps) == expected


def test_a_single_pair_that_does_not_fit_is_one_sentence(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Memory(patch, most=0)
        with pytest.raises(UserError) as caught:
            trained(tmp_path, data, 2)
    said = str(caught.value)
    assert said.startswith("out of memory with a batch of 1 (CUDA out of memory. Tried to allocate 2.00 GiB.); give a")
    assert "trainer.gradient_checkpointing=true" in said and "\n" not in said


@pytest.mark.parametrize(
    "words", ["DefaultCPUAllocator: can't allocate memory: you tried", "CUBLAS_STATUS_ALLOC_FAILED when calling"]
)
def test_other_words_for_it(words: str, data: tuple[Dataset, Split], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Memory(patch, most=4, error=RuntimeError(words))
        assert trained(tmp_path, data, 8, max_steps=1).used.per_device_train_batch_size == 4


def test_another_error_is_not_taken_for_it(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Memory(patch, most=4, error=RuntimeError("expected scalar type Float but found Half"))
        with pytest.raises(RuntimeError, match="expected scalar type"):
            trained(tmp_path, data, 8)


def test_one_model_at_a_time(data: tuple[Dataset, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening the second beside the first would need the memory that there is not."""
    import gc
    import weakref

    from rerankers.cross_encoder import cross_encoder as module

    opened: list[Any] = []
    load = module.load

    def watched(*args: Any) -> PairEncoder:
        gc.collect()
        assert not any(network() is not None for network in opened), "the one before is gone"
        network = load(*args)
        opened.append(weakref.ref(network))
        return network

    monkeypatch.setattr(module, "load", watched)
    Memory(monkeypatch, most=3)
    trained(tmp_path, data, 8, max_steps=1)
    assert len(opened) == 3
