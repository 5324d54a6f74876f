"""What the trained rerankers share: Trainer arguments, ranking evaluation during training, early stopping, progress.

    class MyTrainer(RankingEvaluation, transformers.Trainer): ...
    trainer = MyTrainer(score=self.score, validate=validate, model=model, train_dataset=rows,
                        args=training_arguments(self, validated=validate is not None))
    train(trainer, self, log, chance_loss)

`RankingEvaluation` is a mixin, so that trl's SFTTrainer and sentence-transformers' CrossEncoderTrainer take it too.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from data.errors import UserError, in_one_line
from rerankers.base import Log, Reranker, ScoreFn, Validate
from rerankers.checkpoints import MarkComplete, last_checkpoint

log_ = logging.getLogger(__name__)


def seed_everything(seed: int) -> None:
    """Python, numpy and torch; deterministic kernels where torch has them (on CPU: all that are used here)."""
    transformers.set_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # saves time


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def arguments(reranker: Reranker, validated: bool, **extra: Any) -> dict[str, Any]:
    """Keyword arguments of TrainingArguments (or SFTConfig, CrossEncoderTrainingArguments) from `reranker.trainer`."""
    config = asdict(reranker.trainer) | {"output_dir": str(reranker.checkpoints)}
    del config["early_stopping_patience"]
    config["activation_checkpointing"] = config.pop("gradient_checkpointing")  # its new name in transformers 5
    strategy = config["eval_strategy"]
    if not validated:
        config |= {"eval_strategy": "no", "metric_for_best_model": None, "eval_steps": None}
    evaluated = config["eval_strategy"] != "no"
    return {
        **config,
        "seed": reranker.seed,
        "save_strategy": "epoch" if strategy == "no" else strategy,
        "save_steps": reranker.trainer.eval_steps or 500,
        "save_total_limit": None,  # `MarkComplete` deletes old checkpoints
        "load_best_model_at_end": evaluated,
        "greater_is_better": True if evaluated else None,
        "report_to": [],  # the run is ours; `Forward` hands the curves on
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,  # a loss that is not finite must be seen
        "remove_unused_columns": False,
        "log_level": "error",
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        **extra,
    }


def training_arguments(reranker: Reranker, validated: bool, **extra: Any) -> TrainingArguments:
    """What Hugging Face refuses (bf16 on a CPU without it, say) is the user's to mend."""
    try:
        return TrainingArguments(**arguments(reranker, validated, **extra))
    except (ValueError, ImportError) as error:
        raise UserError(f"trainer: {in_one_line(error)}") from None


class RankingEvaluation:
    """Replaces `Trainer.evaluate`: ranks the validation requests with the model as it is now."""

    def __init__(self, *args: Any, score: ScoreFn, validate: Validate | None, **kwargs: Any) -> None:
        self.score_requests, self.validate = score, validate
        arguments: Any = kwargs["args"]
        arguments._n_gpu = min(1, arguments.n_gpu)  # one process, one GPU: torchrun takes more
        super().__init__(*args, **kwargs, eval_dataset=[] if validate else None)  # type: ignore[call-arg]

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        assert isinstance(self, Trainer) and self.validate is not None
        self.model.eval()
        found = self.validate(self.score_requests)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.model.train()
        return metrics


def train(trainer: Trainer, reranker: Reranker, log: Log, chance_loss: float | None = None) -> float:
    """Trains, continuing from the last whole checkpoint, and leaves the best model (by validation) in place.

    Returns how far the trained weights moved, relative to where they began or were continued from.
    """
    folder = Path(str(trainer.args.output_dir))
    patience = reranker.trainer.early_stopping_patience
    if trainer.args.eval_strategy != "no" and patience:
        trainer.add_callback(EarlyStopping(patience))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(MarkComplete(reranker.trainer.save_total_limit))
    for callback in (Forward(log, chance_loss), Progress(reranker.chance_curve, chance_loss)):
        trainer.add_callback(callback)
    if trainer.args.world_size > 1:
        torch.distributed.barrier()  # none looks while the first still makes the folder ready
    checkpoint = last_checkpoint(folder, delete=trainer.is_world_process_zero())
    if trainer.args.world_size > 1:
        torch.distributed.barrier()
    before = sample_of_weights(trainer.model)
    if checkpoint is None:
        trainer.train()
    else:
        log_.info("continuing from %s", checkpoint)
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step < state.max_steps and not stopped(state, trainer.args, patience):
            try:
                trainer.train(resume_from_checkpoint=str(checkpoint))
            except UnpicklingError:
                raise UserError(
                    f"{checkpoint} holds more than tensors, and is not opened: it is not as this project saved it; "
                    f"delete {folder} to train from the beginning"
                ) from None
        else:  # it had ended; `train` would take one more step
            best = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else checkpoint.name
            trainer._load_from_checkpoint(str(folder / best))
    after = sample_of_weights(trainer.model)
    return float((after - before).norm() / before.norm().clamp(min=1e-12)) if len(before) else 0.0


def sample_of_weights(model: Any, trained: bool = True) -> torch.Tensor:
    """The first 1,024 values of each tensor that is trained (or is not), [n] float32 on the CPU."""
    parts = [p.detach().flatten()[:1024].float().cpu() for p in model.parameters() if p.requires_grad == trained]
    return torch.cat(parts) if parts else torch.zeros(0)


def training_facts(reranker: Any, model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Those facts that every model trained here has: its size, and once it was trained, rows and weight change."""
    sizes = [(p.numel() if p.requires_grad else 0, p.numel()) for p in model.parameters()]
    facts = {"parameters": np.sum(sizes, axis=0)}
    if hasattr(reranker, "rows"):
        facts["training_rows"] = np.array([len(reranker.rows)])
    if hasattr(reranker, "weight_change"):
        facts["weight_change"] = np.array([reranker.weight_change])
    return facts


class Forward(TrainerCallback):
    """Hands every logged number to `log` under the name of its curve, and the loss of chance beside each loss."""

    def __init__(self, log: Log, chance_loss: float | None) -> None:
        self.log, self.chance_loss = log, chance_loss

    def on_log(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        values = curves(kwargs["logs"])
        if "train_loss" in values and self.chance_loss is not None:
            values["chance_loss"] = self.chance_loss
        self.log({"epoch": float(state.epoch or 0)} | values, state.global_step)


def curves(logs: Mapping[str, Any]) -> dict[str, float]:
    """`loss` -> `train_loss`, `eval_ndcg_at_10` -> `valid_ndcg_at_10`; the Trainer's own timings are left out."""
    out = {}
    for name, value in logs.items():
        if name in ("loss", "grad_norm", "learning_rate"):
            out["train_loss" if name == "loss" else name] = float(value)
        elif name.startswith("eval_"):
            out["valid_" + name.removeprefix("eval_")] = float(value)
        elif name.endswith("_loss") and name != "train_loss":  # one task of several
            out["train_" + name] = float(value)
    return out


class SetEpoch(TrainerCallback):
    """Tells the rows which epoch it is. (accelerate's own `set_epoch` does not reach them when it skips batches.)"""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rows.epoch = math.floor(state.epoch or 0)


def stopped(state: TrainerState, args: TrainingArguments, patience: int | None) -> bool:
    """Whether the best evaluation so far is `patience` evaluations old."""
    name = f"eval_{args.metric_for_best_model}"
    seen = [entry[name] for entry in state.log_history if name in entry]
    return patience is not None and bool(seen) and len(seen) - 1 - seen.index(max(seen)) >= patience


class EarlyStopping(TrainerCallback):
    """Stops when the best evaluation is `patience` evaluations old. It reads the Trainer's history and keeps nothing
    itself, so that a continued training stops where an unbroken one does."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if stopped(state, args, self.patience):
            control.should_training_stop = True


class Progress(TrainerCallback):
    """A bar with loss and validation metric in a terminal; elsewhere one line an evaluation."""

    def __init__(self, chance_curve: str, chance_loss: float | None) -> None:
        self.chance_curve, self.chance_loss = chance_curve, chance_loss
        self.loss = self.metric = ""
        self.bar: Any = None

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if sys.stderr.isatty() and state.is_world_process_zero:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            text, count = TextColumn("{task.description}"), MofNCompleteColumn()
            self.bar = Progress(text, BarColumn(), count, TimeRemainingColumn(), console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task("training", total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        values = curves(logs)
        if name := next((name for name in (self.chance_curve, "train_loss") if name in values), None):
            self.loss = f", {name.removeprefix('train_').replace('_', ' ')} {values[name]:.3f}"
        best_by = f"eval_{args.metric_for_best_model}"
        if best_by in logs:
            self.metric = f", validation {args.metric_for_best_model} {logs[best_by]:.4f}"
        chance = f" (chance {self.chance_loss:.2f})" if self.chance_loss is not None else ""
        text = f"epoch {state.epoch or 0:.1f}{self.loss}{chance if self.loss else ''}{self.metric}"
        if self.bar:
            self.bar.update(self.task, description=text)
        elif best_by in logs:
            log_.info("%s, step %d of %d", text, state.global_step, state.max_steps)

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar:
            self.bar.stop()
