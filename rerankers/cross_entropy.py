"""Cross-entropy over all items without the [M, I] logits in memory, and faster than with them on a CPU.

The rows go through in blocks small enough for the cache; each block's gradient is computed while its logits are there
(as Cut Cross-Entropy, Wijmans et al., ICLR 2025, does in one kernel). `torch.nn.functional.linear_cross_entropy` saves
the memory as well, but at the 64 features of a sequence model it is slower than plain logits: see the ratios of
`python -m experiments.benchmark target=cross_entropy`.
"""

from __future__ import annotations

from typing import Any

import torch

CELLS = {"cpu": 2**21, "cuda": 2**27}  # logits of one block


def item_cross_entropy(
    hidden: torch.Tensor, items: torch.Tensor, bias: torch.Tensor, target: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Mean over [M] of the cross-entropy of `hidden @ items.T + bias` in float32: hidden [M, H], items [I, H]."""
    with torch.autocast(hidden.device.type, enabled=False):
        return _ItemCrossEntropy.apply(hidden.float(), items.float(), bias.float(), target, label_smoothing)


class _ItemCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        items: torch.Tensor,
        bias: torch.Tensor,
        target: torch.Tensor,
        smoothing: float,
    ) -> torch.Tensor:
        m, n = len(target), len(items)
        rows = max(1, CELLS.get(hidden.device.type, 2**24) // n)
        losses = []
        d_hidden, d_items, d_bias = torch.empty_like(hidden), torch.zeros_like(items), torch.zeros_like(bias)
        for h, t, d_h in zip(hidden.split(rows), target.split(rows), d_hidden.split(rows), strict=True):
            logits = torch.addmm(bias, h, items.T)  # [rows, I]; from here on in place: softmax, then its gradient
            logits -= logits.amax(dim=1, keepdim=True)
            wanted = (1 - smoothing) * logits.gather(1, t[:, None]) + smoothing * logits.mean(dim=1, keepdim=True)
            total = logits.exp_().sum(dim=1, keepdim=True)
            losses.append(total.log() - wanted)
            gradient = logits.div_(total).sub_(smoothing / n) if smoothing else logits.div_(total)
            gradient.scatter_add_(1, t[:, None], torch.full_like(total, smoothing - 1))
            torch.mm(gradient, items, out=d_h)
            d_items.addmm_(gradient.T, h)
            d_bias += gradient.sum(dim=0)
        ctx.save_for_backward(d_hidden, d_items, d_bias)
        ctx.m = m
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scale = upstream[0] / ctx.m
        d_hidden, d_items, d_bias = ctx.saved_tensors
        return scale * d_hidden, scale * d_items, scale * d_bias, None, None
