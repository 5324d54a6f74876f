"""SASRec: each position predicts the next item from what came before; its loss, rows, windows, empty histories."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.dataset import Catalog, Dataset, Ragged, Requests
from data.splits import Split
from rerankers import item_transformer
from rerankers.base import TrainerConfig
from rerankers.item_transformer import PAD, SPECIAL, ItemTransformer
from rerankers.sasrec import SASRec
from rerankers.sequence_reranker import SequenceRows
from rerankers.training import seed_everything


def tiny(**settings: Any) -> SASRec:
    return SASRec(
        name="sasrec", **{"hidden_size": 16, "max_length": 8, "dropout": 0.0, "intermediate_size": 32} | settings
    )


def model(reranker: SASRec, n_items: int) -> ItemTransformer:
    seed_everything(0)
    return ItemTransformer(reranker._config(n_items)).eval()


def test_every_position_is_asked_for_the_item_after_it() -> None:
    rows = SequenceRows(Ragged.from_rows([[1, 2, 3], list(range(9)), [5, 6]]), tiny(random_crop=0.0))
    batch = rows.__getitems__([0, 1, 2])
    tokens, labels = batch["tokens"].numpy(), batch["labels"].numpy()
    assert tokens.shape == (3, 8)
    assert tokens[0].tolist() == [PAD] * 6 + [1 + SPECIAL, 2 + SPECIAL]
    assert labels[0].tolist() == [-100] * 6 + [2, 3]
    assert labels[1].tolist() == list(range(1, 9)) and tokens[1].tolist() == [i + SPECIAL for i in range(8)]
    assert labels[2].tolist() == [-100] * 7 + [6]


def test_windows_of_long_sequences_move_and_short_ones_stay_whole() -> None:
    sequences = Ragged.from_rows([list(range(30)), [1, 2, 3]])
    rows = SequenceRows(sequences, tiny(random_crop=1.0))
    seen = set()
    for rows.epoch in range(60):
        batch = rows.__getitems__([0, 1])
        assert (batch["labels"][0] >= 0).all(), "a window is always full"
        assert batch["labels"][1][-2:].tolist() == [2, 3]
        seen.add(int(batch["labels"][0, -1]))
    assert min(seen) == 8 and max(seen) == 29 and len(seen) > 15


def test_no_position_sees_what_comes_after_it() -> None:
    net = model(tiny(), 20)
    tokens = torch.tensor([[PAD, PAD, 5, 6, 7, 8], [3, 4, 5, 6, 7, 8]])
    changed = tokens.clone()
    changed[:, -2] = 15
    before, after = net.encode(tokens), net.encode(changed)
    assert torch.isfinite(before).all()
    assert torch.allclose(before[0, 2:-2], after[0, 2:-2]) and torch.allclose(before[1, :-2], after[1, :-2])
    assert not torch.allclose(before[:, -2:], after[:, -2:])


@pytest.mark.parametrize("strip", [1, 2, 32])
def test_loss_is_the_mean_next_item_cross_entropy(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_transformer, "STRIP", strip)
    reranker = tiny()
    net = model(reranker, 12)
    sequences = [[1, 2, 3, 4], [7, 8], [5, 6, 9, 10, 11, 0]]
    batch = SequenceRows(Ragged.from_rows(sequences), reranker).__getitems__([0, 1, 2])
    losses = []
    for row in sequences:
        for end in range(1, len(row)):  # each prefix of its own, moved to where it stood in its row
            whole = torch.tensor([[item + SPECIAL for item in row[:-1]]])
            logits = net.logits(net.encode(whole))[0, end - 1]
            losses.append(-torch.log_softmax(logits, dim=0)[row[end]])
    assert net(**batch)["loss"].item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)


def test_a_request_without_history_gets_finite_scores(demo: Dataset, split: Split) -> None:
    reranker = tiny(trainer=TrainerConfig(num_train_epochs=0))
    reranker.fit(demo, split, None, lambda values, step: None)
    histories = Ragged.from_rows([[], [3, 4, 5], list(range(20))])
    requests = Requests(demo.catalog, np.arange(3), histories)
    scores = reranker.score(requests)
    assert isinstance(demo.catalog, Catalog) and scores.shape == (3, len(demo.catalog)) and np.isfinite(scores).all()
    alone = np.concatenate([reranker.score(requests.take(slice(r, r + 1))) for r in range(3)])
    assert np.allclose(scores, alone, atol=1e-5)
    newest = reranker.score(Requests(demo.catalog, np.arange(1), Ragged.from_rows([list(range(12, 20))])))
    assert np.allclose(scores[2], newest[0], atol=1e-5), "the newest max_length items count"
    fewer = reranker.score(Requests(demo.catalog, np.arange(1), Ragged.from_rows([list(range(13, 20))])))
    assert not np.allclose(scores[2], fewer[0], atol=1e-5), "and all of them do"


def test_it_learns_a_cycle(demo: Dataset, split: Split, tmp_path: Path) -> None:
    """Item i is always followed by i + 1: after training the next item is first."""
    n = len(demo.catalog)
    rng = np.random.default_rng(0)
    sequences = Ragged.from_rows([(s + np.arange(6)) % n for s in rng.integers(0, n, 300)])
    trainer = TrainerConfig(num_train_epochs=15, learning_rate=1e-2, eval_strategy="no")
    reranker = tiny(trainer=trainer, checkpoints=tmp_path)
    train = type(split.train)(np.arange(300), sequences, Ragged.empty(300))
    reranker.fit(demo, type(split)(train, train, train, train), None, lambda values, step: None)
    histories = Ragged.from_rows([[(s + i) % n for i in range(4)] for s in range(n)])
    best = reranker.score(Requests(demo.catalog, np.arange(n), histories)).argmax(axis=1)
    assert (best == (np.arange(n) + 4) % n).mean() > 0.95
