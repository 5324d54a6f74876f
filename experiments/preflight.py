"""Seconds of checks before hours are spent: python train.py reranker=bert4rec dataset=ml_100k check=true

Data, labels and prompts as in the diagnosis; one prompt shown whole; one batch learned by heart with the run's own
learning rate, which a training that can learn at all manages; and what the whole run will take. No run folder is made.
"""

from __future__ import annotations

import gc
import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.dataset import Requests
from experiments.clock import peak_memory_mb
from experiments.config import Experiment
from experiments.diagnostics import Diagnosis
from experiments.evidence import chosen
from experiments.findings import FAIL, OK, WARN, Finding, raise_failed, show_findings
from experiments.stages import Data
from experiments.training_checks import STILL, Rate, at_chance, ln
from rerankers.base import Reranker

STEPS, FEWEST, SECONDS = 30, 6, 20.0  # of the batch learned by heart


@dataclass
class Pilot:
    """A short training on one batch: what it logged, and when."""

    losses: list[float]
    times: list[float]  # seconds on the wall, one a step

    @property
    def seconds_per_step(self) -> float:
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else 0.0


def preflight(experiment: Experiment, data: Data) -> None:
    """Prints what it finds; a failed check is a `DiagnosisFailed`."""
    reranker = replace(experiment.reranker)
    phases = {"validation": data.validation, "test": data.test}
    diagnosis = Diagnosis(experiment, data.dataset, data.split, phases)
    if not diagnosis.trained:
        findings = diagnosis.before_training(reranker)
        show_findings(findings, "Preflight")
        print(f"{reranker.name} has nothing to train.")
        return raise_failed(findings, "mend these first")
    reranker.build(data.dataset, data.split)
    findings = diagnosis.before_training(reranker)
    facts = reranker.facts(data.test.requests.take(slice(0, 1)))
    trainable, total = (int(n) for n in facts.get("parameters", (0, 0)))
    n_rows = int(facts.get("training_rows", [len(data.split.train)])[0])
    show_prompt(reranker, data.validation.requests)
    chance = reranker.chance_loss(data.validation.requests)
    del reranker
    gc.collect()  # a large model must not be held twice

    rate = Rate.of(experiment.reranker.trainer.learning_rate, trainable, total)
    with tempfile.TemporaryDirectory() as folder:
        _, first = overfit(experiment, data, 2, Path(folder))
        steps = int(np.clip(SECONDS / max(first.seconds_per_step, 1e-3), FEWEST, STEPS))
        fitted, pilot = overfit(experiment, data, steps, Path(folder))
    moved = float(fitted.facts(data.test.requests.take(slice(0, 1))).get("weight_change", [1.0])[0])
    findings.append(learned_by_heart(pilot, chance, rate, moved))
    show_findings(findings, "Preflight")
    for line in projected(
        experiment, data, n_rows, pilot.seconds_per_step, seconds_per_request(fitted, data.validation.requests)
    ):
        print(line)
    raise_failed(findings, "mend these before hours are spent")


def show_prompt(reranker: Reranker, requests: Requests) -> None:
    for text in reranker.inputs(requests.take(slice(0, 1))):
        print(f"What {reranker.name} reads of the first validation request, between the lines:\n{'-' * 80}")
        print(f"{text}\n{'-' * 80}")


def overfit(experiment: Experiment, data: Data, steps: int, folder: Path) -> tuple[Reranker, Pilot]:
    """Trains on one batch of users or queries, again and again: no schedule, no evaluation, no checkpoint before the
    end."""
    given = experiment.reranker.trainer
    trainer = replace(
        given,
        num_train_epochs=1.0,
        max_steps=steps,
        lr_scheduler_type="constant",
        warmup_steps=0,
        dataloader_num_workers=0,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=1e6,
        early_stopping_patience=None,
    )
    reranker = replace(experiment.reranker, trainer=trainer, checkpoints=folder / str(steps))
    reranker.redraws = False
    train = data.split.train
    learnable = np.flatnonzero(train.histories.lengths >= (2 if train.queries is None else 1))
    rows = given.per_device_train_batch_size * given.gradient_accumulation_steps
    per_user = getattr(reranker, "rows_per_user", 1)
    users = learnable[chosen(len(learnable), math.ceil(rows / per_user), experiment.seed)]
    pilot = Pilot([], [])

    def log(values: dict[str, float], step: int) -> None:
        loss = values.get(reranker.chance_curve, values.get("train_loss"))
        if loss is not None:
            pilot.losses.append(loss)
            pilot.times.append(time.perf_counter())

    reranker.fit(data.dataset, replace(data.split, train=train.take(users)), None, log)
    return reranker, pilot


def learned_by_heart(pilot: Pilot, chance: float | None, rate: Rate, moved: float = 1.0) -> Finding:
    """Any training that can learn lowers the loss of one batch at once, but a small model from nothing may need some
    hundred steps before it does; that its weights move is then what can be seen. `moved`: relative weight change."""
    losses = np.array(pilot.losses)
    if not len(losses) or not np.isfinite(losses).all():
        return Finding("one batch", FAIL, f"the loss of one batch is {losses[-1:]}", rate.advice(faster=False))
    first, last = float(losses[:2].mean()), float(losses[-3:].mean())
    known = f"; {ln(chance)} is chance" if chance is not None else ""
    evidence = f"the loss of one batch went from {first:.3f} to {last:.3f} in {len(losses)} steps{known}"
    if moved < STILL:
        cause = f"the weights moved by {moved:.2g}: trainer.learning_rate={rate.used:g} is too small"
        return Finding("one batch", FAIL, f"{evidence}; {cause}", rate.advice(faster=True))
    if last > 1.1 * first:
        return Finding("one batch", FAIL, f"{evidence}: it diverges", rate.advice(faster=False))
    if first < 1e-6:
        return Finding("one batch", FAIL, evidence, "nothing is asked: the loss mask hides every label")
    if last > 0.95 * first and rate.small and moved > 100 * STILL:
        slowly = "a model from nothing may need some hundred steps: train, and look at the curve"
        return Finding("one batch", WARN, f"{evidence}, and the weights moved by {moved:.2g}", slowly)
    if last > 0.99 * first:
        advice = f"{rate.advice(faster=True)}; if that does not help: labels, loss mask, frozen weights"
        return Finding("one batch", FAIL, f"{evidence}: it cannot even learn that by heart", advice)
    if last > 0.95 * first and chance is not None and at_chance(last, chance):
        return Finding("one batch", WARN, f"{evidence}: it learns slowly", rate.advice(faster=True))
    return Finding("one batch", OK, evidence)


def seconds_per_request(reranker: Reranker, requests: Requests) -> float:
    """Of scoring, on as many requests as a second allows."""
    n = 8
    while True:
        started = time.perf_counter()
        part = requests.take(slice(0, n))
        reranker.score(part)
        took = time.perf_counter() - started
        if took > 1 or n >= len(requests):
            return took / max(len(part), 1)
        n *= 4


def projected(
    experiment: Experiment, data: Data, n_rows: int, seconds_per_step: float, per_request: float
) -> list[str]:
    """What the whole run will take at most; early stopping shortens it."""
    trainer = experiment.reranker.trainer
    per_epoch = math.ceil(n_rows / (trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps))
    steps = trainer.max_steps if trainer.max_steps > 0 else math.ceil(per_epoch * trainer.num_train_epochs)
    every = {"no": math.inf, "epoch": per_epoch, "steps": trainer.eval_steps or math.inf}[trainer.eval_strategy]
    every = every * steps if every < 1 else every  # a share of all steps
    evaluations = math.ceil(steps / every) + 1 if every < math.inf else 1
    asked = evaluations * len(data.validation.requests) + len(data.test.requests)
    training, scoring = steps * seconds_per_step, asked * per_request
    return [
        f"Time: {span(training + scoring)} at most: {steps:,} steps of {1000 * seconds_per_step:,.0f} ms "
        f"({n_rows:,} rows an epoch) are {span(training)}, {asked:,} requests of {1000 * per_request:,.3g} ms "
        f"({evaluations:,} validations, the test) are {span(scoring)}.",
        f"Memory: {peak_memory_mb():,.0f} MB at the peak of a step and of scoring, which is what the run needs.",
    ]


def span(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
