"""The settings of a VIP5, checked before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError, in_range, one_of
from rerankers.vip5.item_numbers import SCHEMES
from rerankers.vip5.prompts import WHOLE_WORDS
from rerankers.vip5.scoring import TEMPLATE_OF, fits
from rerankers.vip5.templates import FAMILIES, TEMPLATES

if TYPE_CHECKING:
    from rerankers.vip5.settings import Vip5Settings


def check_settings(vip5: Vip5Settings) -> None:
    for name, allowed in (
        ("init", ("pretrained", "scratch")),
        ("tuning", ("adapters", "full")),
        ("pictures", ("own", "shuffled")),
        ("id_scheme", SCHEMES),
        ("loss_norm", ("token_mean", "vip5_double")),
        ("validation", ("ranking", "loss")),
        ("scorer", tuple(TEMPLATE_OF)),
    ):
        one_of(f"reranker.{name}", getattr(vip5, name), allowed)
    for name, low, high in (
        ("reduction_factor", 1, 512),
        ("visual_tokens", 0, 20),
        ("training_candidates", 2, 10_000),
        ("validation_start_epoch", 0, 10_000),
        ("permutations", 1, 1000),
        ("beams", 2, 1000),
        ("max_history", 1, 1000),
        ("max_title_length", 1, 1000),
        ("max_length", 16, WHOLE_WORDS),
        ("max_answer_length", 2, 1024),
        ("explanations", 0, 1_000_000),
    ):
        in_range(f"reranker.{name}", getattr(vip5, name), low, high)
    for family in FAMILIES.values():
        in_range(f"reranker.tasks.{family}", getattr(vip5.tasks, family), 0, 10_000)
        in_range(f"reranker.loss_weights.{family}", getattr(vip5.loss_weights, family), 0, 1000)
    given = [("templates", name) for name in vip5.templates or []]
    given += [("template", vip5.template)] if vip5.template else []
    for key, template in given:
        if template not in TEMPLATES:
            raise UserError(f"reranker.{key}={template} does not exist; choose of {', '.join(TEMPLATES)}")
    if not fits(vip5.scorer, vip5.scored_by):
        possible = ", ".join(name for name, template in TEMPLATES.items() if fits(vip5.scorer, template))
        raise UserError(
            f"reranker.template={vip5.template} has no answer for reranker.scorer={vip5.scorer}; choose of {possible}"
        )
    if vip5.permutations > 1 and vip5.scorer != "list":
        raise UserError(
            f"reranker.permutations={vip5.permutations} averages orders of the candidates, which "
            f"reranker.scorer={vip5.scorer} does not read; it is for reranker.scorer=list"
        )
    if vip5.checkpoint and not Path(vip5.checkpoint).is_file():
        raise UserError(f"reranker.checkpoint={vip5.checkpoint} does not exist; give a .pth or .safetensors file")
    _check_training(vip5)


def _check_training(vip5: Vip5Settings) -> None:
    """What is asked when scoring must have been trained."""
    if vip5.untrained:
        return
    trained = [t for t in vip5.trained_templates if getattr(vip5.tasks, t.family)]
    if not trained:
        raise UserError("reranker.tasks and reranker.templates leave nothing to train on; give one family some rows")
    if vip5.checkpoint is None and not any(
        fits(vip5.scorer, t) and t.family == vip5.scored_by.family for t in trained
    ):
        raise UserError(
            f"reranker.scorer={vip5.scorer} asks the prompt {vip5.scored_by.name}, and nothing like it is trained; "
            f"give reranker.tasks.{vip5.scored_by.family} some rows, and reranker.templates one of that kind"
        )
    t = vip5.trainer
    never = t.eval_strategy == "epoch" and t.max_steps == -1 and t.num_train_epochs < t.eval_delay
    if never and t.early_stopping_patience:
        raise UserError(
            f"trainer.early_stopping_patience={t.early_stopping_patience} needs validation, which never comes: "
            f"{never_validated(t.num_train_epochs, t.eval_delay)}"
        )


def never_validated(epochs: float, start: float) -> str:
    return (
        f"trainer.num_train_epochs (or max_steps) ends after {epochs:g} epochs, before "
        f"reranker.validation_start_epoch={start:g}; give more epochs or an earlier start"
    )
