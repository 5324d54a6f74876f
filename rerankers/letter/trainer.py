"""Training by trl's SFTTrainer, with the loss computed at the answer alone.

    loss=letters      cross-entropy over the candidates' labels: what scoring reads, and no more
    loss=vocabulary   trl's own: over the whole vocabulary, at every token of the response (letter, end of turn)

`letter_loss`, the first of the two, is logged with either: a model that knows nothing has ln N.

A small model from nothing learns late to match items and to copy a letter, as no loss falls before it does both. It
gets `line_loss` beside the other: the end of each candidate's line, one layer below the top, is asked whether this
candidate is the answer (cross-entropy over the lines' logits of their own letters). And its first epochs ask for an
item of the history (`copying_epochs`); such rows do not count in `letter_loss`.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from data.errors import UserError, in_one_line
from rerankers.base import Log, Validate
from rerankers.letter.rows import as_dataset
from rerankers.training import RankingEvaluation, SetEpoch, arguments, train

if TYPE_CHECKING:
    from rerankers.letter.letter import LetterReranker


class LetterTrainer(RankingEvaluation, SFTTrainer):  # type: ignore[misc]
    def __init__(self, *args: Any, reranker: LetterReranker, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokens = reranker.answer_tokens(reranker.training_candidates)
        self.invariant, self.vocabulary = reranker.invariant, reranker.loss == "vocabulary"
        self.line_weight = reranker.line_loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        asked = {name: value for name, value in inputs.items() if name not in ("shift_labels", "copied")}
        labels = inputs["shift_labels"]  # [B, P]
        if self.vocabulary:
            logits = model(**asked)  # [B, P, V]
            total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            target = (self.tokens == labels[:, :1]).int().argmax(1)
            letter_losses = F.cross_entropy(logits[:, 0, self.tokens].detach(), target, reduction="none")
        else:
            logits = model(**asked, tokens=self.tokens)
            logits, lines = logits if self.line_weight else (logits, None)
            logits = candidate_logits(logits, self.invariant)  # [B, N]
            letter_losses = F.cross_entropy(logits, labels[:, 0], reduction="none")
            total = letter_losses.sum()
            if lines is not None:
                line_loss = F.cross_entropy(lines, labels[:, 0])
                total = total + self.line_weight * line_loss * len(labels)
                self._metrics["train"]["line_loss"].append(float(line_loss.detach()))
        if len(counted := letter_losses.detach()[~inputs["copied"]]):
            self._metrics["train"]["letter_loss"].append(float(counted.mean()))
        loss = total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the count is of all processes, whose gradients are averaged
        return loss


def candidate_logits(logits: torch.Tensor, invariant: bool) -> torch.Tensor:
    """The answer head's logits, one a candidate [B, N]: its letter's, or Yes against No at the end of its block."""
    return logits[..., 0] - logits[..., 1] if invariant else logits[:, 0]


def train_letters(reranker: LetterReranker, validate: Validate | None, log: Log) -> float:
    settings = arguments(
        reranker,
        validate is not None,
        max_length=None,  # the prompts keep to their own length
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    try:
        config = SFTConfig(**settings)
    except (ValueError, ImportError) as error:
        raise UserError(f"trainer: {in_one_line(error)}") from None
    tokenizer: PreTrainedTokenizerBase = reranker.tokenizer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = LetterTrainer(
            score=reranker.score,
            validate=validate,
            model=reranker.network,
            processing_class=tokenizer,
            args=config,
            train_dataset=as_dataset(reranker.rows),
            data_collator=reranker.rows,
            callbacks=[SetEpoch(reranker.rows)] if reranker.redraws else [],
            reranker=reranker,
        )
        return train(trainer, reranker, log, math.log(reranker.training_candidates))
