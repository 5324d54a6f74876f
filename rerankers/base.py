"""The contract of a reranker, the whole of it. From requests to scores; no files of a dataset, no metrics, no MLflow.

A new reranker is one module with a subclass and one YAML in conf/reranker; no table is edited. Its dataclass fields
are the YAML's keys, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from data.dataset import Dataset, Requests
from data.errors import UserError, in_range, one_of
from data.splits import Split

ScoreFn = Callable[[Requests], np.ndarray]
Validate = Callable[[ScoreFn], dict[str, float]]
Log = Callable[[dict[str, float], int], None]

SCHEDULERS = ("linear", "cosine", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt")
OPTIMIZERS = (
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "sgd",
    "adamw_bnb_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
)
KINDS = ("interactions", "text", "images")


@dataclass
class TrainerConfig:
    """Names, units and defaults are those of Hugging Face's TrainingArguments, but for the last field."""

    num_train_epochs: float = 3.0
    max_steps: int = -1  # a positive number wins over num_train_epochs, but for 0 epochs: untrained
    learning_rate: float = 5e-5
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0.0  # below 1: a share of all steps
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 64
    gradient_accumulation_steps: int = 1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optim: str = "adamw_torch_fused"
    adam_beta2: float = 0.999
    bf16: bool = False
    fp16: bool = False
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    dataloader_num_workers: int = 0
    logging_steps: float = 10.0  # below 1: a share of all steps
    eval_strategy: str = "epoch"  # epoch | steps | no; a checkpoint is written at each evaluation
    eval_steps: float | None = None
    eval_delay: float = 0.0  # epochs (or steps) before the first evaluation
    save_total_limit: int | None = 2
    metric_for_best_model: str | None = None  # null: protocol.primary
    early_stopping_patience: int | None = None  # evaluations without a better one before training stops

    def __post_init__(self) -> None:
        for name, least in (
            ("num_train_epochs", 0),
            ("learning_rate", 0),
            ("warmup_steps", 0),
            ("per_device_train_batch_size", 1),
            ("per_device_eval_batch_size", 1),
            ("gradient_accumulation_steps", 1),
            ("weight_decay", 0),
            ("max_grad_norm", 0),
            ("dataloader_num_workers", 0),
            ("logging_steps", 1e-9),
            ("eval_steps", 1e-9),
            ("eval_delay", 0),
            ("save_total_limit", 1),
            ("early_stopping_patience", 1),
        ):
            in_range(f"trainer.{name}", getattr(self, name), least)
        in_range("trainer.adam_beta2", self.adam_beta2, 0, 0.999999)
        one_of("trainer.lr_scheduler_type", self.lr_scheduler_type, SCHEDULERS)
        one_of("trainer.optim", self.optim, OPTIMIZERS)
        one_of("trainer.eval_strategy", self.eval_strategy, ("epoch", "steps", "no"))
        if self.max_steps != -1 and self.max_steps < 1:
            raise UserError(
                f"trainer.max_steps={self.max_steps} is not allowed; give a positive number, or -1 for none"
            )
        if self.eval_strategy == "steps" and not self.eval_steps:
            raise UserError("trainer.eval_strategy=steps needs trainer.eval_steps, the steps between two evaluations")
        if self.eval_strategy == "no" and self.early_stopping_patience:
            raise UserError("trainer.early_stopping_patience needs evaluations; choose trainer.eval_strategy=epoch")


@dataclass(kw_only=True)
class Reranker:
    name: str  # of the row in every table
    seed: int = 0  # weights, order of the training data, dropout
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoints: Path = Path("checkpoints")  # of the training under way; train.py sets it to <run>/checkpoints
    cache: Path = Path("cache")  # for what several runs share; it is `paths.cache`

    requires: ClassVar[tuple[str, ...]] = ()  # of KINDS; checked before anything is loaded
    order_sensitive: ClassVar[bool] = False  # may scores depend on the order of the candidates
    pointwise: ClassVar[bool] = False  # a score is the logit of "relevant", whatever the other candidates are
    validates: ClassVar[bool] = True  # whether it can score validation requests
    trains: ClassVar[bool] = False  # whether `fit` trains by the trainer's arguments; if not, no validation is run
    keeps_checkpoints: ClassVar[bool] = False  # whether `<run>/checkpoint-*` stay, without the optimizer's state
    chance_curve: ClassVar[str] = "train_loss"  # that `chance_loss` belongs to; another: over a request's candidates
    mines_first_stage = False  # whether its training negatives are those of the candidates' first stage
    redraws = True  # whether each epoch draws its training rows anew; the preflight overfits fixed ones

    def check(self, requests: Requests) -> None:
        """Raises a UserError for requests that it could never score, before anything is trained."""

    def build(self, dataset: Dataset, split: Split) -> None:
        """Makes the model that `fit` begins with; of what does not train, nothing."""

    def fit(self, dataset: Dataset, split: Split, validate: Validate | None, log: Log) -> None:
        """Learns from split.train. `validate` gives ranking metrics on validation requests; `log` takes curves."""

    def score(self, requests: Requests) -> np.ndarray:
        """float32 [R, N], larger is better; columns as `requests.candidates`, or the whole catalogue."""
        raise NotImplementedError

    def labels(self, requests: Requests) -> list[str]:
        """What must stand beside every number of this reranker."""
        return ["untrained"] if self.trains and self.trainer.num_train_epochs == 0 else []

    @property
    def files(self) -> list[Path]:
        """Files that scores are read from; a run's identity holds their content."""
        return []

    @property
    def folders(self) -> list[Path]:
        """Weights that training begins with, folders or files; a run's identity holds their content."""
        return []

    def save(self, folder: Path) -> None:
        """Writes what `load` needs to give identical scores."""

    def load(self, folder: Path, requests: Requests) -> None:
        """Reads what `save` wrote; models of item ids map them onto the catalogue of `requests`."""

    def serve(self) -> None:
        """After `load`, of an application that will only score: what training needs may be let go."""

    def untuned(self) -> Reranker | None:
        """The same model as it was before training, for a row of its own; None where there is nothing to show."""
        return None

    def reports(self) -> dict[str, dict]:
        """JSON documents that stand beside the run's own once it is trained: file name -> content."""
        return {}

    def chance_loss(self, requests: Requests) -> float | None:
        """The value of `chance_curve` of a model that knows nothing, in nats; None without a loss."""
        return None

    def inputs(self, requests: Requests) -> list[str]:
        """The text that the model reads of each request, whole; nothing of a model that reads ids."""
        return []

    def facts(self, requests: Requests) -> dict[str, np.ndarray]:
        """What cost and diagnosis need from inside; of these what the model has, once it is built:

        parameters [trainable, total]; training_rows [1], rows of an epoch; weight_change [1], by training, relative;
        label_ids [N], token ids of the candidates' labels; prompt_lengths [R] in tokens, shortened [R] bool;
        trained_prompt and scored_prompt [K] int64, hashes of training prompts as trained and as scored;
        target_columns and target_widths [K], where the target stands among how many candidates of some training rows;
        dev_metrics [4] float, of development pairs: accuracy, mean score of the relevant and of the others, margin.
        """
        return {}


def missing(reranker: Reranker, dataset: Dataset) -> str | None:
    """The first thing the reranker requires that the dataset does not have."""
    have = {
        "interactions": dataset.kind == "recommendation",
        "text": dataset.catalog.has("title") or dataset.kind == "passages",
        "images": dataset.catalog.has("image") or dataset.catalog.image_features is not None,
    }
    return next((kind for kind in reranker.requires if not have[kind]), None)
