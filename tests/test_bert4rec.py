"""BERT4Rec: its loss against a plain full computation, its rows, golden numbers, learning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.dataset import Dataset, Ragged, Requests
from data.errors import UserError
from data.splits import Split
from rerankers.base import TrainerConfig
from rerankers.bert4rec import BERT4Rec
from rerankers.item_transformer import MASK, PAD, SPECIAL, ItemTransformer
from rerankers.sequence_reranker import SequenceRows
from rerankers.training import seed_everything


def tiny(**settings: Any) -> BERT4Rec:
    return BERT4Rec(
        name="bert4rec", **{"hidden_size": 16, "max_length": 8, "dropout": 0.0, "intermediate_size": 32} | settings
    )


def model(reranker: BERT4Rec, n_items: int, negatives: int | None = None) -> ItemTransformer:
    seed_everything(0)
    return ItemTransformer(reranker._config(n_items), reranker.label_smoothing, negatives)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_masked_loss_equals_the_full_computation_in_value_and_gradient(label_smoothing: float) -> None:
    reranker = tiny(label_smoothing=label_smoothing)
    rows = SequenceRows(Ragged.from_rows([[1, 2, 3, 4, 5], [6, 7], [8, 9, 0, 3, 2, 1, 4, 5, 6, 7]]), reranker)
    batch = rows.__getitems__([0, 1, 2])
    ours = model(reranker, 10)
    loss = ours(**batch)["loss"]
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in ours.named_parameters() if p.grad is not None}

    plain = model(reranker, 10)
    logits = plain.logits(plain.encode(batch["tokens"]))  # [B, T, I], every position
    total, count = torch.zeros(()), 0
    for b, t in batch["labels"].ge(0).nonzero().tolist():
        log_p = torch.log_softmax(logits[b, t], dim=0)
        target = log_p[batch["labels"][b, t]]
        total = total - (1 - label_smoothing) * target - label_smoothing * log_p.mean()
        count += 1
    reference = total / count
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), abs=1e-6)
    for name, p in plain.named_parameters():
        if name in gradients:
            assert torch.allclose(gradients[name], p.grad, atol=1e-6), name
    assert "bias" in gradients and "bert.embeddings.word_embeddings.weight" in gradients


def test_golden_loss() -> None:
    """Three steps on fixed data; a refactoring that changes a number shows here."""
    reranker = tiny()
    net = model(reranker, 10)
    rows = SequenceRows(Ragged.from_rows([[1, 2, 3, 4, 5], [6, 7, 8], [8, 9, 0, 3, 2, 1, 4, 5, 6, 7]]), reranker)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    losses = []
    for epoch in range(3):
        rows.epoch = epoch
        loss = net(**rows.__getitems__([0, 1, 2]))["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == pytest.approx(GOLDEN, abs=1e-4)


GOLDEN = [2.5525312, 2.3358836, 2.2730165]


def test_sampled_softmax_estimates_the_full_loss() -> None:
    reranker = tiny()
    rows = SequenceRows(Ragged.from_rows([list(range(i, i + 8)) for i in range(40)]), reranker)
    batch = rows.__getitems__(list(range(40)))
    full = model(reranker, 50)
    sampled = model(reranker, 50, negatives=20_000)
    for net in (full, sampled):
        with torch.no_grad():
            net.bias.copy_(torch.randn(50, generator=torch.Generator().manual_seed(1)))
    assert sampled(**batch)["loss"].item() == pytest.approx(full(**batch)["loss"].item(), abs=0.05)


def test_label_smoothing_needs_the_full_softmax(demo: Dataset, split: Split) -> None:
    with pytest.raises(UserError, match="label_smoothing"):
        tiny(label_smoothing=0.1, sampled_softmax_above=10).fit(demo, split, None, lambda values, step: None)


def test_rows_are_masked_as_configured_and_depend_on_seed_epoch_and_rows_alone() -> None:
    sequences = Ragged.from_rows([[(u + i) % 30 for i in range(12)] for u in range(200)] + [[1]])
    rows = SequenceRows(sequences, tiny(mask_probability=0.3, last_only=0.0, random_crop=0.0))
    assert len(rows) == 200  # a single interaction cannot be learned from
    batch = rows.__getitems__(list(range(200)))
    masked = batch["labels"] >= 0
    assert batch["tokens"].shape == (200, 8)
    assert masked.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert (batch["tokens"][masked] == MASK).all()
    assert masked.any(dim=1).all(), "no row without a target"
    assert torch.equal(batch["tokens"], rows.__getitems__(list(range(200)))["tokens"])
    rows.epoch = 1
    assert not torch.equal(batch["tokens"], rows.__getitems__(list(range(200)))["tokens"])

    last = SequenceRows(sequences, tiny(last_only=1.0)).__getitems__(list(range(200)))
    assert (last["labels"][:, -1] >= 0).all() and (last["labels"][:, :-1] == -100).all()
    cropped = SequenceRows(sequences, tiny(random_crop=1.0)).__getitems__(list(range(200)))
    lengths = (cropped["tokens"] != PAD).sum(dim=1)
    assert lengths.min() < 5 and lengths.max() == 8
    assert ((cropped["tokens"] == PAD).long().diff(dim=1) <= 0).all(), "padding is on the left"


def test_padding_changes_nothing() -> None:
    net = model(tiny(), 10).eval()
    short = torch.tensor([[SPECIAL + 1, SPECIAL + 2, MASK]])
    padded = torch.tensor([[PAD, PAD, SPECIAL + 1, SPECIAL + 2, MASK]])
    assert torch.allclose(net.encode(short)[:, -1], net.encode(padded)[:, -1], atol=1e-6)


def test_scoring_reads_the_last_items_of_a_history_alone(demo: Dataset, split: Split) -> None:
    reranker = tiny()
    reranker.item_ids, reranker.model = demo.catalog.id, model(reranker, len(demo.catalog))
    requests = Requests(demo.catalog, split.test.ids, split.test.histories)
    longer = Ragged.from_rows([[5, 5, 5, *split.test.histories.row(r)[-7:]] for r in range(len(requests))])
    whole = Requests(demo.catalog, split.test.ids, longer)
    a, b = reranker.score(requests), reranker.score(whole)
    long_enough = split.test.histories.lengths >= 7  # only the last max_length - 1 items count
    assert np.allclose(a[long_enough], b[long_enough], atol=1e-6)


def test_fit_sees_the_training_part_alone(
    demo: Dataset, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(SequenceRows, "__init__", lambda self, sequences, config: seen.append(sequences) or exit())
    reranker = tiny(checkpoints=tmp_path)
    with pytest.raises(SystemExit):
        reranker.fit(demo, split, None, lambda values, step: None)
    assert seen == [split.train.histories]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"hidden_size": 15, "num_attention_heads": 2}, "multiple"),
        ({"dropout": 1.5}, r"reranker.dropout=1.5 is out of range; it must be in \[0, 0.9\]"),
        ({"max_length": 1}, "max_length"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        BERT4Rec(name="bert4rec", **settings)


def test_it_learns_a_rule_that_only_the_order_tells(config: Callable[..., Any], tmp_path: Path) -> None:
    """Item i is followed by i + 1: a model that learned it finds the next one of 40."""
    rng = np.random.default_rng(0)
    walks = Ragged.from_rows([[(s + i) % 40 for i in range(8)] for s in rng.integers(0, 40, 300)])
    trainer = TrainerConfig(max_steps=300, learning_rate=1e-2, logging_steps=100, warmup_steps=20)
    reranker = tiny(hidden_size=32, trainer=trainer)
    reranker.trainer.per_device_train_batch_size, reranker.checkpoints = 64, tmp_path
    ids = np.array([str(i) for i in range(40)], dtype=object)
    catalog: Any = type("C", (), {"id": ids, "__len__": lambda self: 40})()
    dataset: Any = type("D", (), {"catalog": catalog})()
    phase: Any = type("P", (), {"histories": walks})()
    curve: list[float] = []
    reranker.fit(
        dataset,
        type("S", (), {"train": phase})(),  # type: ignore[arg-type]
        None,
        lambda values, step: curve.append(values["train_loss"]) if "train_loss" in values else None,
    )
    requests = Requests(catalog, np.arange(300), walks)
    expected = (walks.last(1)[:, 0] + 1) % 40
    assert (reranker.score(requests).argmax(axis=1) == expected).mean() > 0.9
    assert curve[0] > curve[-1] and curve[-1] < reranker.chance_loss(requests) / 2
