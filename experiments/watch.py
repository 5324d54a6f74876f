"""During a training: what cannot end well is told at once, and once. Nothing is stopped."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.dataset import Requests
from experiments import evidence, training_checks
from rerankers.base import Reranker

log = logging.getLogger(__name__)
PATIENCE = 0.4  # share of training after which a loss at chance is told


@dataclass
class Watch:
    """Called with whatever the training of `reranker` logs; `requests` are those of validation."""

    reranker: Reranker
    requests: Requests
    losses: list[float] = field(default_factory=list)
    told: set[str] = field(default_factory=set)

    def __call__(self, values: dict[str, float], step: int) -> None:
        reranker, trainer = self.reranker, self.reranker.trainer
        name = next((name for name in (reranker.chance_curve, "train_loss") if name in values), None)
        if name is None or (name == "train_loss" and any(map(evidence.is_part, values))):
            return  # a sum of several tasks has no chance
        loss, chance = values[name], reranker.chance_loss(self.requests)
        rate = evidence.rate(reranker, self.requests)
        if not math.isfinite(loss):
            return self._tell("nan", "%s is %s at step %d; %s", name, loss, step, rate.advice(faster=False))
        self.losses.append(loss)
        recent = float(np.mean(self.losses[-5:]))
        if len(self.losses) >= 5 and recent > 1.5 * max(float(np.mean(self.losses[:3])), chance or 0.0):
            self._tell("diverges", "%s diverges: %.2f at step %d; %s", name, recent, step, rate.advice(faster=False))
        done = step / trainer.max_steps if trainer.max_steps > 0 else values.get("epoch", 0) / trainer.num_train_epochs
        if chance is None or not PATIENCE <= done < 1 or len(self.losses) < 3:
            return
        if training_checks.at_chance(recent, chance) and recent < 1.5 * chance:
            said = "%s is still at chance (%.2f, %s) after %.0f %% of the training; %s"
            self._tell("chance", said, name, recent, training_checks.ln(chance), 100 * done, rate.advice(faster=True))

    def _tell(self, what: str, *message: Any) -> None:
        if what not in self.told:
            self.told.add(what)
            log.warning(*message)
