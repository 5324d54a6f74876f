"""A transformer over items with a tied item output: what BERT4Rec and SASRec share below their tasks.

Rows are left-padded and positions count from the right end, so a batch may be cut to its longest row and the newest
item has the same position in training and scoring. The output vocabulary is the items alone, and the softmax is
computed at labelled positions only.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertModel

from rerankers.cross_entropy import item_cross_entropy

PAD, MASK, SPECIAL = 0, 1, 2  # item row i is token i + SPECIAL
STRIP = 32  # rows encoded together in training on a CPU


class ItemTransformer(nn.Module):
    """BertModel and the tied item output; between them BERT's own transform. Causal with `config.is_decoder`: then, as
    in SASRec, without the transform, which only slows it down."""

    accepts_loss_kwargs = True  # the Trainer tells `num_items_in_batch`

    def __init__(self, config: BertConfig, label_smoothing: float = 0.0, negatives: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.bert = BertModel(config, add_pooling_layer=False)
        self.transform: nn.Module = nn.Identity()
        if config.is_decoder:  # a causal model never trains [MASK], which stands where nothing is known
            nn.init.zeros_(self.bert.embeddings.word_embeddings.weight[MASK])
        else:
            dense = nn.Linear(config.hidden_size, config.hidden_size)
            nn.init.normal_(dense.weight, std=config.initializer_range)
            nn.init.zeros_(dense.bias)
            norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            self.transform = nn.Sequential(dense, nn.GELU(), norm)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size - SPECIAL))  # [I]
        self.label_smoothing, self.negatives = label_smoothing, negatives

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        self.bert.gradient_checkpointing_enable(**kwargs)

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [B, T], left-padded -> hidden states [B, T, H]. The last column has position 0."""
        positions = torch.arange(tokens.shape[1] - 1, -1, -1, device=tokens.device).expand_as(tokens)
        return self.bert(
            input_ids=tokens, attention_mask=(tokens != PAD).long(), position_ids=positions
        ).last_hidden_state

    @property
    def items(self) -> torch.Tensor:
        return self.bert.embeddings.word_embeddings.weight[SPECIAL:]  # [I, H]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[B, H] -> [B, I]"""
        return self.transform(hidden) @ self.items.T + self.bias

    def logits_of(self, hidden: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """[B, H] and item rows [B, N] -> [B, N]; the rest of the catalogue is not touched."""
        return torch.einsum("bh,bnh->bn", self.transform(hidden), self.items[items]) + self.bias[items]

    def forward(
        self, tokens: torch.Tensor, labels: torch.Tensor, num_items_in_batch: Any = None
    ) -> dict[str, torch.Tensor]:
        """tokens and labels [B, T]; labels are item rows where something is asked, -100 elsewhere. Mean loss there;
        with `num_items_in_batch`, how many are asked in the whole step, this part's share of its mean."""
        hidden, target = self._asked(tokens, labels)
        if self.negatives is not None:
            loss = nn.functional.cross_entropy(*self._sampled(hidden, target))
        else:
            transformed = self.transform(hidden)
            loss = item_cross_entropy(transformed, self.items, self.bias, target, self.label_smoothing)
        return {"loss": loss if num_items_in_batch is None else loss * (len(target) / num_items_in_batch)}

    def _asked(self, tokens: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [M, H] and item rows [M] where labels ask. Rows go through in strips of like length, so that a
        batch is not padded to its longest row; a GPU does better in one go."""
        lengths = (tokens != PAD).sum(dim=1)
        order = lengths.argsort(stable=True)
        hidden, target = [], []
        for rows in order.split(STRIP if tokens.device.type == "cpu" else len(order)):
            width = int(lengths[rows[-1]])
            wanted = labels[rows, -width:]
            hidden.append(self.encode(tokens[rows, -width:])[wanted >= 0])
            target.append(wanted[wanted >= 0])
        return torch.cat(hidden), torch.cat(target)

    def _sampled(self, hidden: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [M, 1 + S] of the target and S shared uniform negatives, corrected by log(I / S) so that the loss
        estimates the full softmax; a negative that is the row's own target is left out."""
        n_items = len(self.bias)
        negatives = torch.randint(n_items, (self.negatives or 0,), device=target.device)  # [S]
        transformed = self.transform(hidden)
        positive = (transformed * self.items[target]).sum(-1, keepdim=True) + self.bias[target, None]
        negative = transformed @ self.items[negatives].T + self.bias[negatives] + math.log(n_items / len(negatives))
        negative = negative.masked_fill(negatives == target[:, None], -torch.inf)
        return torch.cat([positive, negative], dim=1), torch.zeros_like(target)
