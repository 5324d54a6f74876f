"""Why did it not learn? Checks before, during and after each training, for every reranker, through the contract alone.

    python train.py diagnose=warn      # the default: a table, diagnosis.json, a label and an MLflow tag
    python train.py diagnose=strict    # and exit code 1 when a check failed
    python train.py check=true         # seconds of checks before hours are spent; see `experiments.preflight`

Whatever chooses or judges is measured on validation; test metrics are only read. The numbers of a run are the same
with any value of `diagnose`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset, Requests
from data.splits import Split
from experiments import data_checks, evidence, score_checks, training_checks
from experiments.config import Experiment
from experiments.evaluation import Evaluator
from experiments.findings import FAIL, INFO, Finding, names, raise_failed, show_findings, write_diagnosis
from experiments.significance import compare
from experiments.training_checks import Rate
from experiments.watch import Watch
from rerankers.base import Reranker


class Undiagnosed:
    """The null object: `diagnose=off`, and evaluate.py, which trains nothing."""

    seconds = 0.0

    def before(self, reranker: Reranker) -> AbstractContextManager[None]:
        return nullcontext()

    def watch(self, values: dict[str, float], step: int) -> None: ...

    def after(self, reranker: Reranker, points: list[dict[str, Any]]) -> list[dict[str, str]]:
        return []

    def broken(self, reranker: Reranker, points: list[dict[str, Any]], folder: Path, error: Exception) -> None: ...

    def conclude(
        self, record: list[dict[str, str]], metrics: dict[str, float], names: list[str], requests: Requests
    ) -> list[Finding]:
        return []


@dataclass
class Diagnosis(Undiagnosed):
    experiment: Experiment
    dataset: Dataset
    split: Split
    phases: dict[str, Evaluator]  # validation and test
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0  # of checks inside the training
    pinned: tuple[float, float] | None = None  # the loss at the end and chance, if it is no better

    def __post_init__(self) -> None:
        self.watching = Watch(self.experiment.reranker, self.phases["validation"].requests)

    @property
    def trained(self) -> bool:
        return self.experiment.trained

    @property
    def passages(self) -> bool:
        return self.dataset.kind == "passages"

    @contextmanager
    def before(self, reranker: Reranker) -> Iterator[None]:
        """Inside, `reranker.build` is followed by the checks of data, labels and prompts: `fit` begins with building,
        and a large model must not be built twice."""
        build = reranker.build

        def built(dataset: Dataset, split: Split) -> None:
            build(dataset, split)
            started = time.perf_counter()
            with evidence.undisturbed():
                self.findings = self.before_training(reranker)
            self.seconds += time.perf_counter() - started

        if not reranker.trains:
            self.findings = self.before_training(reranker)
        reranker.build = built  # type: ignore[method-assign]
        try:
            yield
        finally:
            del reranker.build

    def before_training(self, reranker: Reranker) -> list[Finding]:
        """3, 5, 6, 7, 14 and the trainable parameters."""
        phases = {name: part for name, part in self.phases.items() if len(part.requests)}
        part = phases.get("validation", phases["test"])
        part = evidence.take(part, evidence.chosen(len(part.requests), evidence.MOST, part.seed))
        facts = reranker.facts(part.requests)
        letters = "label_ids" in facts
        found = []
        if "parameters" in facts:
            found.append(data_checks.trainable(facts["parameters"], self.trained))
        n_rows = int(facts.get("training_rows", [len(self.split.train)])[0])
        n_queries = len(self.split.train) if self.passages else None
        if self.trained:
            found.append(data_checks.samples(n_rows, part.requests.histories.lengths, n_queries))
        if "prompt_lengths" in facts:
            found.append(data_checks.prompt_lengths(facts["prompt_lengths"], facts["shortened"], self.passages))
        if letters:
            found.append(data_checks.labels_found(facts["label_ids"], part.requests.width))
        if "trained_prompt" in facts:
            found.append(data_checks.same_prompt(facts["trained_prompt"], facts["scored_prompt"]))
        candidates = self.experiment.candidates
        if part.requests.candidates is not None:
            places = {name: evidence.targets(p.requests, p.relevance) for name, p in phases.items()}
            shares = {name: len(rows) / len(phases[name].requests) for name, (_, _, rows) in places.items()}
            found.append(data_checks.target_listed(shares, candidates.mode))
            n_items = len(self.dataset.catalog)
            found.append(data_checks.candidate_diversity(part.requests.candidates, n_items, self.passages))
            columns, lengths = (np.concatenate([place[i] for place in places.values()]) for i in (0, 1))
            ordered = candidates.presentation == "first_stage"
            if len(columns):
                found.append(data_checks.target_position(columns, lengths, ordered, letters, "target position"))
        if "target_columns" in facts:
            columns = facts["target_columns"]
            lengths = facts.get("target_widths", np.full(len(columns), part.requests.width))
            found.append(data_checks.target_position(columns, lengths, False, letters, "trained position"))
        return found

    def watch(self, values: dict[str, float], step: int) -> None:
        self.watching(values, step)

    def rate(self, reranker: Reranker) -> Rate:
        return evidence.rate(reranker, self.phases["test"].requests)

    def after(self, reranker: Reranker, points: list[dict[str, Any]]) -> list[dict[str, str]]:
        """Checks of the fitted model: the curves, then its scores of validation requests. Returns all findings."""
        self.curves(reranker, points)
        if reranker.validates and len(self.phases["validation"].requests):
            with evidence.undisturbed():
                self.findings += self.after_training(reranker)
        return [asdict(finding) for finding in self.findings]

    def broken(self, reranker: Reranker, points: list[dict[str, Any]], folder: Path, error: Exception) -> None:
        """The training ended in NaN: what is known until then, so that nobody has to guess."""
        self.curves(reranker, points)
        advice = self.rate(reranker).advice(faster=False)
        self.findings.append(Finding("predictions", FAIL, str(error), f"{advice}; is bf16 or fp16 the cause?"))
        write_diagnosis(folder, self.findings)
        show_findings(self.findings, "Diagnosis")
        if self.experiment.diagnose == "strict":
            raise_failed(self.findings, f"training ended in NaN, see {folder / 'diagnosis.json'}")

    def curves(self, reranker: Reranker, points: list[dict[str, Any]]) -> None:
        """1, 2 and the rest of 8."""
        if not reranker.trains:
            return
        if not self.trained:
            said = "untrained: the model is as it was made or loaded"
            self.findings.append(Finding("training", INFO, said, "trainer.num_train_epochs=3 trains it"))
            return
        rate, found = self.rate(reranker), self.findings
        requests = self.phases["validation"].requests
        curve = evidence.curve(points, reranker.chance_curve) or evidence.curve(points, "train_loss")
        if points:
            found.append(training_checks.training_length(points[-1]["epoch"], points[-1]["step"]))
        if curve is None:
            found.append(Finding("loss curve", INFO, "no loss was logged: trainer.logging_steps=1 logs each step"))
        else:
            chance = reranker.chance_loss(requests)
            if curve.name == "train_loss" and any(evidence.is_part(point["name"]) for point in points):
                chance = None  # a sum of several tasks
            if chance is not None:
                of_list = abs(chance - math.log(round(math.exp(chance)))) < 1e-6  # ln of a number of candidates
                listed = of_list and (curve.name != "train_loss" or round(math.exp(chance)) == requests.width)
                n = round(math.exp(chance)) if listed and requests.candidates is not None else None
                found.append(training_checks.loss_level(curve, chance, n, rate))
                self.pinned = training_checks.pinned(curve, chance)
            found.append(training_checks.loss_curve(curve, chance, rate))
        facts = reranker.facts(requests.take(slice(0, 1)))
        if "weight_change" in facts:
            found.append(training_checks.weights_moved(float(facts["weight_change"][0]), rate))
        if (norms := evidence.curve(points, "grad_norm")) is not None:
            found.append(training_checks.gradients(norms.value, reranker.trainer.max_grad_norm, rate))
        if "dev_metrics" in facts:
            found.append(training_checks.dev_pairs(facts["dev_metrics"], rate))

    def after_training(self, reranker: Reranker) -> list[Finding]:
        """4, 9, 10, 12 and 13, on a seeded choice of validation requests, and 1 and 2 on these."""
        whole, primary = self.phases["validation"], self.experiment.protocol.primary
        n = evidence.affordable(reranker, whole.requests)
        scored = evidence.score(reranker, evidence.take(whole, evidence.chosen(len(whole.requests), n, whole.seed)))
        requests, spread = scored.requests, scored.spread
        logits = reranker.chance_loss(requests) is not None
        _, low, high = scored.evaluator.chance(scored.evaluated.ranks).interval(primary)
        value = scored.evaluated.means[primary]
        found = []
        moved = "weights" not in names(self.findings, FAIL)
        lossless = reranker.chance_loss(requests) is None  # then the scores alone tell
        if (self.pinned or (lossless and self.trained)) and moved and spread < score_checks.ALIKE:
            found.append(score_checks.collapse(spread, self.pinned, self.rate(reranker)))
            self.findings[:] = [  # one advice, not two
                replace(f, advice=found[0].advice) if f.check.startswith("loss") and f.verdict == FAIL else f
                for f in self.findings
            ]
        advice = self.rate(reranker).advice(faster=True)  # or what the failed loss asks for
        advice = next((f.advice for f in self.findings if f.check.startswith("loss") and f.verdict == FAIL), advice)
        if self.trained:
            falls = any(f.check == "loss curve" and f.verdict not in (FAIL, INFO) for f in self.findings)
            loss = scored.loss if logits else None
            found.append(score_checks.validation(primary, value, low, high, loss, falls, advice))
        entropy, width = scored.entropy
        expected = "" if self.trained else "untrained" if reranker.trains else "it has no logits"
        expected = expected or ("they rank all the same" if value > high + (high - low) / 2 else "")
        found.append(score_checks.prediction_spread(spread, entropy if logits else None, width, expected, advice))
        found.append(score_checks.determinism(evidence.difference(scored.scores, reranker.score(requests)), spread))
        again = evidence.reloaded(reranker, requests)
        if again is None:
            found.append(Finding("reload", INFO, "not checked: no memory for the model twice"))
        else:
            found.append(score_checks.reload(evidence.difference(scored.scores, again), spread))
        answered = scored.answered
        if reranker.order_sensitive and requests.candidates is not None and answered.any():
            best, widths = scored.best[answered], evidence.widths(requests)[answered]
            found.append(score_checks.predicted_position(best, widths, self.trained))
            under = evidence.under_orders(reranker, scored, primary)
            found.append(score_checks.order_sensitivity(primary, *under, self.trained))
        if self.trained and not self.passages:
            size = 50 if requests.candidates is None else requests.width
            asked = evidence.last_items(self.dataset, self.split, whole, size, n)
            if asked is not None:
                train, valid = (evidence.score(reranker, part).evaluated.values[primary] for part in asked)
                compared = compare(train, valid, whole.seed)
                means = float(train.mean()), float(valid.mean())
                found.append(training_checks.generalisation(primary, *means, compared))
        return found

    def conclude(
        self, record: list[dict[str, str]], metrics: dict[str, float], names: list[str], requests: Requests
    ) -> list[Finding]:
        """11, beside what was found when the model was trained (`record`)."""
        width = None if requests.candidates is None else requests.width
        primary, mild = self.experiment.protocol.primary, not self.experiment.trained
        again = score_checks.against_rows(metrics, names, primary, width, mild)
        return [*(Finding(**finding) for finding in record), *again]
