"""The blockwise cross-entropy against torch's own on the full logits, values and gradients."""

import pytest
import torch
from torch.nn import functional as F

from rerankers import cross_entropy
from rerankers.cross_entropy import item_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("cells", [1, 70, 10**9])  # rows one by one, in blocks that do not divide them, all at once
def test_value_and_gradients_are_those_of_the_full_logits(
    cells: int, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cross_entropy.CELLS, "cpu", cells)
    torch.manual_seed(0)
    shapes = ((11, 5), (23, 5), (23,))
    ours = [torch.randn(shape, dtype=torch.float32, requires_grad=True) for shape in shapes]
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    target = torch.randint(23, (11,))
    loss = item_cross_entropy(*ours, target, smoothing)
    reference = F.cross_entropy(theirs[0] @ theirs[1].T + theirs[2], target, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(reference.item(), abs=1e-6)
    (3 * loss).backward()
    (3 * reference).backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None and b.grad is not None
        assert torch.allclose(a.grad, b.grad, atol=1e-6)


def test_large_logits_do_not_overflow_and_half_precision_is_computed_in_float32() -> None:
    hidden, items, bias = torch.full((2, 1), 200.0), torch.tensor([[1.0], [-1.0]]), torch.zeros(2)
    target = torch.tensor([0, 1])
    assert item_cross_entropy(hidden, items, bias, target).item() == pytest.approx(200.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = item_cross_entropy(hidden.bfloat16(), items, bias, target)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(200.0)
