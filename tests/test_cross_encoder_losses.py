"""The losses against straightforward references, values and gradients; and what a model that knows nothing has."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from tiny_pairs import folder_of, make, nothing, words_of
from tiny_passages import folded, generated
from torch.nn import functional as F

from data.dataset import Dataset
from data.splits import Split
from data.text_retrievers import BM25
from rerankers.cross_encoder import trainer as module
from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker
from rerankers.cross_encoder.losses import chance_loss


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Split]:
    dataset = generated()
    return dataset, replace(folded(dataset), retriever=BM25())


@pytest.fixture(scope="module")
def folder(data: tuple[Dataset, Split], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of("bert", words_of(data[0]), tmp_path_factory.mktemp("bert"))


def trainer_of(reranker: CrossEncoderReranker) -> Any:
    """The reranker's own trainer, which does not train."""
    caught: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train", lambda trainer, *a: caught.append(trainer) or 0.0)
        module.train_pairs(reranker, None, nothing)
    return caught[0]


def gradients(reranker: CrossEncoderReranker, loss: torch.Tensor) -> torch.Tensor:
    reranker.network.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in reranker.network.parameters() if p.grad is not None])


def bce(logits: torch.Tensor, weight: float) -> torch.Tensor:
    """Of groups [G, size], the relevant text first."""
    each = torch.log1p(torch.exp(logits))
    each[:, 0] = weight * torch.log1p(torch.exp(-logits[:, 0]))
    return each.mean()


def listwise(logits: torch.Tensor, weight: float) -> torch.Tensor:
    return -(logits[:, 0] - torch.logsumexp(logits, dim=1)).mean()


def lambda_loss(logits: torch.Tensor, weight: float) -> torch.Tensor:
    """NDCGLoss2++ of Wang et al. (2018), eq. 14-18, with mu = 10 as in sentence-transformers: the mean over all pairs
    of a relevant text and another of its group."""
    total, n = torch.zeros(()), 0
    for row in logits:
        rank = torch.argsort(torch.argsort(-row)) + 1
        for j in range(1, len(row)):
            far = int((rank[0] - rank[j]).abs())
            rho = abs(1 / math.log2(1 + far) - 1 / math.log2(2 + far))
            by_rank = abs(1 / math.log2(1 + int(rank[0])) - 1 / math.log2(1 + int(rank[j])))
            delta = (10 * rho + by_rank) * 1.0  # the gain's difference is 1, and the best DCG is 1
            total, n = total - delta * F.logsigmoid(row[0] - row[j]) / math.log(2), n + 1
    return total / n


@pytest.mark.parametrize(
    ("name", "reference", "pos_weight"),
    [("bce", bce, None), ("bce", bce, 7.5), ("listwise", listwise, None), ("lambda", lambda_loss, None)],
)
def test_values_and_gradients(
    name: str,
    reference: Callable[[torch.Tensor, float], torch.Tensor],
    pos_weight: float | None,
    data: tuple[Dataset, Split],
    folder: Path,
    tmp_path: Path,
) -> None:
    reranker = make(tmp_path, folder, loss=name, pos_weight=pos_weight)
    reranker.build(*data)
    trainer, rows = trainer_of(reranker), reranker.rows
    size, groups = rows.size, 5
    examples = [{"row": row} for row in range(groups * size if name == "bce" else groups)]
    reranker.network.eval()
    loss = trainer.compute_loss(reranker.network, rows(examples))
    got = gradients(reranker, loss)
    queries, items = rows.groups(np.arange(groups))
    pairs = [(query, rows.texts[item]) for query, row in zip(queries, items, strict=True) for item in row]
    first, second = map(list, zip(*pairs, strict=True))
    tokenizer = reranker.network.tokenizer
    batch = tokenizer(first, second, truncation=True, max_length=32, padding=True, return_tensors="pt")
    logits = reranker.network[0].model(**batch).logits.view(groups, size)
    assert size == 4 and logits.std() > 0.1
    expected = reference(logits, reranker.positive_weight)
    assert reranker.positive_weight == (7.5 if pos_weight else 3)
    assert torch.allclose(loss, expected, atol=1e-5)
    assert torch.allclose(got, gradients(reranker, expected), atol=1e-5) and got.abs().max() > 1e-3


@pytest.mark.parametrize("size", [2, 3, 4, 6, 21])
@pytest.mark.parametrize("weight", [0.3, 1.0, 3.0, 5.0, 20.0])
def test_chance_is_the_loss_of_the_best_constant(size: int, weight: float) -> None:
    best = minimize_scalar(lambda constant: float(bce(torch.full((1, size), constant, dtype=torch.float64), weight)))
    assert chance_loss("bce", size, weight) == pytest.approx(best.fun, abs=1e-6)
    assert chance_loss("listwise", size, weight) == pytest.approx(math.log(size))
    constant = torch.full((1, size), 1.7)
    assert float(listwise(constant, weight)) == pytest.approx(math.log(size), abs=1e-5)
    assert chance_loss("lambda", size, weight) is None
    if weight == size - 1:
        assert chance_loss("bce", size, weight) == pytest.approx(2 * (size - 1) / size * math.log(2))


def test_chance_of_a_reranker_is_that_of_its_groups(folder: Path, tmp_path: Path) -> None:
    assert make(tmp_path, folder).chance_loss(None) == pytest.approx(1.5 * math.log(2))
    settings = {"loss": "listwise", "hard_negatives": 3, "random_negatives": 2}
    assert make(tmp_path, folder, **settings).chance_loss(None) == pytest.approx(math.log(6))
