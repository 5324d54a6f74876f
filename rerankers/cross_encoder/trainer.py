"""Training by sentence-transformers' CrossEncoderTrainer on rows drawn each epoch; a step without memory is halved.

The library's own `auto_find_batch_size` does nothing for this trainer. Here a step that runs out of memory starts the
training again, from its last checkpoint or its beginning, with half the batch and twice the accumulation: the same
pairs make a step as before.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments

from data.errors import UserError, in_one_line
from rerankers.base import Log, TrainerConfig, Validate
from rerankers.cross_encoder.losses import make_loss
from rerankers.cross_encoder.rows import as_dataset
from rerankers.cross_encoder.scoring import out_of_memory
from rerankers.training import RankingEvaluation, SetEpoch, arguments, device, train

if TYPE_CHECKING:
    from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker

log_ = logging.getLogger(__name__)


class PairTrainer(RankingEvaluation, CrossEncoderTrainer):  # type: ignore[misc]
    def preprocess_dataset(self, dataset: Any = None, dataset_name: str | None = None) -> Any:
        return dataset  # row numbers, drawn by the collator

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """The run folder says how the model was made."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Without a model card and pickled arguments; by the first of several processes alone."""
        if self.args.should_save:
            self.model.save_pretrained(str(output_dir or self.args.output_dir), create_model_card=False)

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        """The weights alone; the library opens a second model beside the first, on the GPU too."""
        files = sorted(Path(checkpoint_path).glob("model*.safetensors"))
        weights = {name: x for file in files for name, x in load_file(file).items()}
        network: Any = self.model
        network[0].model.load_state_dict(weights)

    def _load_best_model(self) -> None:
        """The library writes to its log what fails here, and goes on with the last model."""
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


def train_pairs(reranker: CrossEncoderReranker, validate: Validate | None, log: Log) -> tuple[float, TrainerConfig]:
    """Trains `reranker.network`; returns the weights' relative change, and the settings with the batch that fitted."""
    used = reranker.trainer
    while True:
        try:
            return _train(reranker, used, validate, log), used
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if torch.distributed.is_initialized():  # the others have no reason to begin again
                raise UserError(
                    "out of memory in one of several processes; halve "
                    f"trainer.per_device_train_batch_size={used.per_device_train_batch_size}"
                ) from None
            used = halved(used, error)
        reranker.open_network()  # as it was before training; a checkpoint takes its place where there is one


def half_precision(reranker: CrossEncoderReranker) -> str | None:
    """The trainer's key that is set for training: float16 on a GPU, bfloat16 on a CPU that has it."""
    trainer = reranker.trainer
    if trainer.bf16 or trainer.fp16 or reranker.mixed_precision == "none" or reranker.init == "scratch":
        return None
    if device().type == "cuda":
        return "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else None


def halved(used: TrainerConfig, error: BaseException) -> TrainerConfig:
    """Half the batch, or the largest part that divides an odd one, with as much more accumulation."""
    batch, steps = used.per_device_train_batch_size, used.gradient_accumulation_steps
    if batch == 1:
        raise UserError(
            f"out of memory with a batch of 1 ({str(error).splitlines()[0][:120]}); give a smaller "
            "reranker.max_length, trainer.gradient_checkpointing=true, or a smaller reranker.model"
        ) from None
    smaller = max(size for size in range(1, batch // 2 + 1) if batch % size == 0)
    more = steps * (batch // smaller)
    log_.warning(
        "out of memory with a batch of %d: going on with batches of %d, %d of them accumulated, %d a step as before",
        batch, smaller, more, smaller * more,
    )  # fmt: skip
    return replace(used, per_device_train_batch_size=smaller, gradient_accumulation_steps=more)


def _train(reranker: CrossEncoderReranker, used: TrainerConfig, validate: Validate | None, log: Log) -> float:
    half = half_precision(reranker)
    settings = arguments(
        reranker,
        validate is not None,
        per_device_train_batch_size=used.per_device_train_batch_size,
        gradient_accumulation_steps=used.gradient_accumulation_steps,
        **({half: True} if half else {}),
    )
    try:
        config = CrossEncoderTrainingArguments(**settings)
    except (ValueError, ImportError) as error:
        raise UserError(f"trainer: {in_one_line(error)}") from None
    network = reranker.network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = PairTrainer(
            score=reranker.score,
            validate=validate,
            model=network,
            args=config,
            train_dataset=as_dataset(reranker.rows),
            data_collator=reranker.rows,
            loss=make_loss(reranker.loss, network, reranker.positive_weight),
            callbacks=[SetEpoch(reranker.rows)] if reranker.redraws else [],
        )
        return train(trainer, reranker, log, reranker.chance_loss(None))
