"""The losses of `reranker.loss`, and what a model that knows nothing has.

bce        binary cross-entropy of each pair (sentence-transformers), a relevant pair weighs `pos_weight`
listwise   softmax cross-entropy over a group, one relevant text among its negatives (FlagEmbedding's)
lambda     LambdaLoss with NDCGLoss2++ (Wang et al., CIKM 2018; sentence-transformers)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, LambdaLoss
from torch.nn import functional as F

LOSSES = ("bce", "listwise", "lambda")


class ListwiseSoftmaxLoss(torch.nn.Module):
    """Groups of equal size, the relevant text first."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any, labels: Any, prompt: str | None = None, task: str | None = None) -> torch.Tensor:
        queries, groups = inputs
        pairs = [(query, text) for query, texts in zip(queries, groups, strict=True) for text in texts]
        features = {name: x.to(self.model.device) for name, x in self.model.preprocess(pairs).items()}
        logits = self.model(features)["scores"].view(len(queries), -1).float()  # [B, G]
        return F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.long, device=logits.device))


def make_loss(name: str, network: Any, pos_weight: float) -> torch.nn.Module:
    if name == "listwise":
        return ListwiseSoftmaxLoss(network)
    if name == "lambda":
        return LambdaLoss(network, mini_batch_size=-1)
    return BinaryCrossEntropyLoss(network, pos_weight=torch.tensor(pos_weight))


def chance_loss(name: str, size: int, pos_weight: float) -> float | None:
    """Of groups of `size` texts, in nats. For bce: the best constant, which knows how rare relevance is (with
    pos_weight = size - 1 the constant is 0, and the loss 2 (size - 1) / size ln 2)."""
    if name == "listwise":
        return math.log(size)
    if name == "lambda":
        return None
    positive, negative = pos_weight / size, (size - 1) / size
    p = positive / (positive + negative)
    return -positive * math.log(p) - negative * math.log(1 - p) if negative else 0.0
