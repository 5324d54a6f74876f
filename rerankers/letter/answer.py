"""The answer head: logits at the positions and for the tokens that are asked for, and nothing else.

A causal language model scores its whole vocabulary at every position; a letter prompt needs one position and N rows
of the head. With Qwen's 151,936 tokens that is most of the work and memory of a small model.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch.nn import functional as F

from data.errors import UserError


def add_answer_head(model: Any) -> None:
    """`model(input_ids, positions=[B, P], tokens=[K])` -> logits [B, P, K] float32; without `positions` as before.

    `tokens=None` are all of the vocabulary, in the model's own type and then float32; a few tokens are scored in
    float32, since letters in bfloat16 tie. With `lines` [B, K], the ends of the candidates' lines, a second tensor
    [B, K]: each line's logit of its own token, one layer below the top. It is a patched `forward`, so that PEFT, DDP
    and checkpointing see it.
    """
    original = model.forward

    @functools.wraps(type(model).forward)
    def forward(
        self: Any, *args: Any, positions: Any = None, tokens: Any = None, lines: Any = None, **kwargs: Any
    ) -> Any:
        if positions is None:
            return original(*args, **kwargs)
        kwargs |= {"use_cache": False, "output_hidden_states": lines is not None}
        layers = self.base_model(*args, **kwargs)
        batch = torch.arange(len(positions), device=positions.device)[:, None]
        hidden = layers.last_hidden_state[batch, positions]  # [B, P, H]
        head = self.get_output_embeddings()
        bias = getattr(head, "bias", None)
        if tokens is None:
            return F.linear(hidden, head.weight, bias).float()
        with torch.autocast(hidden.device.type, enabled=False):
            rows = head.weight[tokens].float()
            logits = F.linear(hidden.float(), rows, None if bias is None else bias[tokens].float())
            if lines is None:
                return logits
            below = self.base_model.norm(layers.hidden_states[-2][batch, lines]).float()  # [B, K, H]
            return logits, (below * rows).sum(-1)

    model.forward = types.MethodType(forward, model)


@torch.no_grad()
def verify_answer_head(model: Any, ids: torch.Tensor, tokens: torch.Tensor) -> None:
    """Refuses a model whose own logits are more than a linear layer of its last hidden state; `ids` [L]."""
    whole = model(input_ids=ids[None], logits_to_keep=1, use_cache=False).logits[0, -1, tokens].float()
    last = torch.tensor([[len(ids) - 1]], device=ids.device)
    restricted = model(input_ids=ids[None], positions=last, tokens=tokens)[0, 0]
    if not torch.allclose(whole, restricted, rtol=0.02, atol=0.02 * float(whole.abs().max())):  # bfloat16 has 8 bits
        raise UserError(
            f"{type(model).__name__} changes its logits after the last layer (by up to "
            f"{float((whole - restricted).abs().max()):.3g}), which the answer head does not do; choose another "
            "reranker.model"
        )


def separate_blocks(begin: torch.Tensor, ends: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of invariant prompts: attention mask [B, 1, L, L] bool, True = seen, and position ids [B, L].

    `begin` [B] is where the first block begins, `ends` [B, N] the last token of each block, padded by repeating the
    last. A block sees the start and itself; its positions go on from the start's, as if it were the only one. So
    neither the order nor the number of candidates can change a score (InvariRank, arXiv 2604.27599).
    """
    place = torch.arange(length, device=begin.device)
    block = torch.searchsorted(ends.contiguous(), place.expand(len(ends), -1).contiguous()) + 1  # [B, L]
    block[place < begin[:, None]] = 0
    causal = place[:, None] >= place
    seen = (block[:, :, None] == block[:, None, :]) | (block[:, None, :] == 0)
    starts = torch.cat([begin[:, None], ends + 1], dim=1)  # first token of each block, [B, N + 1]
    first = starts.gather(1, (block - 1).clamp(0, ends.shape[1]))
    position = torch.where(block == 0, place, begin[:, None] + place - first)
    return (seen & causal)[:, None], position
