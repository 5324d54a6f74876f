"""Training by trl's SFTTrainer, with the loss computed at the answer alone.

    loss=letters      cross-entropy over the candidates' labels: what scoring reads, and no more
    loss=vocabulary   trl's own: over the whole vocabulary, at every token of the response (letter, end of turn)

`letter_loss`, the first of the two, is logged with either: a model that knows nothing has ln N.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from data.errors import UserError
from rerankers.base import Log, Validate
from rerankers.letter.rows import as_dataset
from rerankers.training import RankingEvaluation, SetEpoch, arguments, train

if TYPE_CHECKING:
    from rerankers.letter.letter import LetterReranker


class LetterTrainer(RankingEvaluation, SFTTrainer):  # type: ignore[misc]
    def __init__(self, *args: Any, tokens: torch.Tensor, invariant: bool, vocabulary: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokens, self.invariant, self.vocabulary = tokens, invariant, vocabulary

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        asked = {name: value for name, value in inputs.items() if name != "shift_labels"}
        labels = inputs["shift_labels"]  # [B, P]
        if self.vocabulary:
            logits = model(**asked)  # [B, P, V]
            total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            target = (self.tokens == labels[:, :1]).int().argmax(1)
            letter_loss = F.cross_entropy(logits[:, 0, self.tokens].detach(), target)
        else:
            logits = candidate_logits(model(**asked, tokens=self.tokens), self.invariant)  # [B, N]
            total = F.cross_entropy(logits, labels[:, 0], reduction="sum")
            letter_loss = total.detach() / len(labels)
        self._metrics["train"]["letter_loss"].append(float(letter_loss))
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
        use_cpu=not torch.cuda.is_available(),
    )
    try:
        config = SFTConfig(**settings)
    except (ValueError, ImportError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from None
    tokenizer: PreTrainedTokenizerBase = reranker.tokenizer
    n = reranker.training_candidates
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
            tokens=reranker.answer_tokens(n),
            invariant=reranker.invariant,
            vocabulary=reranker.loss == "vocabulary",
        )
        return train(trainer, reranker, log, None if reranker.loss == "vocabulary" else math.log(n))
