"""Training by transformers' Trainer: one mixed stream of batches, the loss of each family as a curve of its own.

token_mean   cross-entropy of a row: mean over its answer's tokens
vip5_double  that divided by the number of tokens once more, as the reference does: long explanations hardly count
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer

from rerankers.base import Log, Validate
from rerankers.training import RankingEvaluation, SetEpoch, train, training_arguments
from rerankers.vip5.checks import never_validated
from rerankers.vip5.rows import NAMES, ByLength

if TYPE_CHECKING:
    from rerankers.vip5.vip5 import Vip5

log_ = logging.getLogger(__name__)


class Vip5Trainer(RankingEvaluation, Trainer):  # type: ignore[misc]
    def __init__(self, *args: Any, reranker: Vip5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reranker = reranker
        place = self.args.device  # reading a loss at each step would wait for it there
        self.weights = torch.tensor([getattr(reranker.loss_weights, name) for name in NAMES], device=place)
        self.sums = torch.zeros(2, len(NAMES), device=place)  # of the losses since the last log, and how many

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return ByLength(self.reranker.rows, self.args.per_device_train_batch_size)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        family = inputs.pop("family")
        losses = row_losses(model(**inputs), inputs["labels"])
        told = losses.detach().float()
        self.sums.index_add_(1, family, torch.stack([told, torch.ones_like(told)]))
        if self.reranker.loss_norm == "vip5_double":
            losses = losses / (inputs["labels"] != -100).sum(dim=1)
        return (losses * self.weights[family]).mean()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            for name, total, n in zip(NAMES, *self.sums.tolist(), strict=True):
                if n:
                    logs[f"{name}_loss"] = total / n
            self.sums.zero_()
        super().log(logs, *args, **kwargs)


def row_losses(token_losses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """[B] mean over the tokens of each answer."""
    return token_losses.sum(dim=1) / (labels != -100).sum(dim=1)


def train_vip5(reranker: Vip5, validate: Validate | None, log: Log) -> float:
    trainer = Vip5Trainer(
        score=reranker.score,
        validate=validate,
        model=reranker.network,
        args=training_arguments(reranker, validate is not None),
        train_dataset=reranker.rows,
        data_collator=reranker.rows.collate,
        callbacks=[SetEpoch(reranker.rows)] if reranker.redraws else [],
        reranker=reranker,
    )
    told = reranker.trainer
    batches = math.ceil(len(reranker.rows) / trainer.args.train_batch_size / trainer.args.world_size)
    steps = batches / told.gradient_accumulation_steps
    epochs = told.max_steps / steps if told.max_steps > 0 else told.num_train_epochs
    if trainer.args.eval_strategy == "epoch" and epochs < told.eval_delay:
        log_.warning("no validation, so the last model stays: %s", never_validated(epochs, told.eval_delay))
    return train(trainer, reranker, log, reranker.chance_loss(None))
