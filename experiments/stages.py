"""The stages that train.py and evaluate.py share: open the data, fit, report."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from data.candidates import Prepared, prepare
from data.dataset import Dataset, Relevance, Requests, sha256
from data.errors import UserError
from data.files import write_json, write_parquet
from data.splits import Split
from data.texts import folded
from experiments import fusion, processes
from experiments.config import Experiment
from experiments.curves import read_curves
from experiments.diagnostics import Diagnosis, Undiagnosed
from experiments.evaluation import Evaluator
from experiments.evidence import is_part
from experiments.metrics import NaNScores
from experiments.runs import Run
from rerankers.base import Reranker, ScoreFn, missing
from rerankers.processes import n_processes

log = logging.getLogger(__name__)
UNTUNED = "untuned.parquet"  # each metric of each test request, of the model before its training


@dataclass(frozen=True)
class Data:
    """One dataset under one protocol."""

    dataset: Dataset
    split: Split
    prepared: Prepared
    validation: Evaluator
    test: Evaluator


def load(experiment: Experiment) -> Dataset:
    """Reads the dataset, says what was left out, and checks that the reranker can use it."""
    with experiment.clock("load"):
        if not processes.is_first():
            processes.wait()  # what has to be fetched is fetched once
        dataset = experiment.source.load(experiment.data)
        if processes.is_first():
            processes.wait()
    sizes = (len(dataset.user_id), len(dataset.catalog), len(dataset.interactions))
    passages = dataset.kind == "passages"
    called = ("queries", "passages", "relevant pairs") if passages else ("users", "items", "interactions")
    counts = ", ".join(f"{size:,} {what}" for size, what in zip(sizes, called, strict=True))
    log.info("%s: %s", dataset.name, counts)
    for sentence in dataset.provenance.notes:
        log.info("  %s", sentence)
    check_usable(experiment, dataset)
    return dataset


def check_usable(experiment: Experiment, dataset: Dataset) -> None:
    """UserError if the dataset has not what the reranker requires."""
    lacks = missing(experiment.reranker, dataset)
    if lacks and dataset.kind == "passages":
        raise UserError(
            f"reranker={experiment.reranker.name} needs {lacks}, and dataset={dataset.name} has queries and passages; "
            "choose reranker=viranker, qwen_letter, first_stage or popularity, and "
            "use protocol=query_folds candidates/retriever=bm25"
        )
    if lacks:
        raise UserError(
            f"reranker={experiment.reranker.name} needs {lacks}, which dataset={dataset.name} does not have; "
            "choose another dataset, or give it with dataset.item_fields=, dataset.images= or dataset.image_features="
        )


def open_data(experiment: Experiment, dataset: Dataset) -> Data:
    """Splits, reads or draws the candidates, and makes the two evaluators."""
    protocol = experiment.protocol
    with experiment.clock("split"):
        split = replace(protocol.split.split(dataset), retriever=experiment.candidates.retriever)
    for sentence in split.notes:
        log.info("  %s", sentence)
    with experiment.clock("first stage and candidates"):
        prepared = prepare(
            dataset,
            split,
            experiment.candidates,
            experiment.cache,
            experiment.candidates_identity(dataset),
            filter_seen=protocol.filter_seen,
            refit_on_validation=protocol.refit_on_validation,
            max_requests=protocol.max_requests,
            max_validation_requests=protocol.max_validation_requests,
        )

    def evaluator(requests: Requests, relevance: Relevance) -> Evaluator:
        seed = experiment.candidates.seed
        return Evaluator(requests, relevance, protocol.metrics, protocol.ks, seed, protocol.filter_seen)

    return Data(
        dataset,
        split,
        prepared,
        evaluator(prepared.validation, prepared.validation_relevance),
        evaluator(prepared.test, prepared.test_relevance),
    )


def diagnosis_of(experiment: Experiment, data: Data) -> Undiagnosed:
    if experiment.diagnose == "off":
        return Undiagnosed()
    return Diagnosis(experiment, data.dataset, data.split, {"validation": data.validation, "test": data.test})


def fit(experiment: Experiment, run: Run, data: Data, diagnosis: Undiagnosed) -> Reranker:
    """The reranker, fitted now or loaded from an earlier try of the same run. Model choice sees validation alone."""
    reranker = experiment.reranker
    if processes.agreed(run.trained):
        reranker.load(run.folder / "model", data.test.requests)
        run.put_checkpoints_away(reranker.keeps_checkpoints)
        return reranker
    if reranker.trains and not len(data.validation.requests):
        raise UserError(
            f"{data.prepared.path} has no validation lists, which training needs; give candidates.validation_path="
        )
    for requests in (data.validation.requests, data.test.requests):
        reranker.check(requests)
    score_untuned(experiment, run, data)
    run.begin_training()

    def record(values: dict[str, float], step: int) -> None:
        experiment.tracker.points(run.log(values, step))
        diagnosis.watch(values, step)

    def validate(score: ScoreFn) -> dict[str, float]:
        return data.validation(processes.shared(score), description="validating").means

    reranker.checkpoints = run.checkpoints
    try:
        with experiment.clock("train"), diagnosis.before(reranker):
            reranker.fit(data.dataset, data.split, validate if reranker.trains else None, record)
        seconds = run.elapsed - diagnosis.seconds
        with experiment.clock("validate"):
            valid = validated(experiment, reranker, data)
    except NaNScores as error:
        diagnosis.broken(reranker, read_curves(run.folder), run.folder, error)
        raise
    with experiment.clock("diagnose"):
        findings = diagnosis.after(reranker, read_curves(run.folder))
    reports = reranker.reports()
    if experiment.protocol.refit_on_validation and not reranker.files:
        before = run.elapsed
        with experiment.clock("refit"):
            reranker = _refit(experiment, run, data)
        seconds += run.elapsed - before
        reports |= reranker.reports()
    for name, content in reports.items() if processes.is_first() else ():
        write_json(run.folder / name, content)
    sizes = reranker.facts(data.test.requests.take(slice(0, 1))).get("parameters", (0, 0))
    trained = {"seconds": seconds, "diagnosis": findings, "parameters": [int(n) for n in sizes]}
    trained |= valid | trained_on(experiment, data.dataset)
    trained["chance_loss"] = chance_loss(reranker, read_curves(run.folder), data.validation.requests)
    seen = data.split.train_and_validation if experiment.protocol.refit_on_validation else data.split.train
    trained |= {"queries": query_hashes(seen.queries)}
    run.save_model(reranker.save, trained, reranker.keeps_checkpoints)
    processes.wait()
    return reranker


def score_untuned(experiment: Experiment, run: Run, data: Data) -> None:
    """The row `untuned`, once for a run, before its training: two models are never in memory at a time."""
    reranker, path = experiment.reranker, run.folder / UNTUNED
    if not experiment.trained or path.exists() or not processes.is_first():
        return
    if (untuned := reranker.untuned()) is None:
        return
    with experiment.clock("untuned"):
        untuned.fit(data.dataset, data.split, None, lambda values, step: None)
        write_json(path.with_suffix(".json"), {"labels": untuned.labels(data.test.requests)})
        write_parquet(path, pd.DataFrame(data.test(untuned.score, description="scoring untuned").values))


def validated(experiment: Experiment, reranker: Reranker, data: Data) -> dict[str, Any]:
    """What validation says of a model: `valid`, metric -> value, and `fusion_weight`, None without fusion. Nothing is
    measured without validation requests, or for scores made elsewhere."""
    protocol, validation = experiment.protocol, data.validation
    weight = None if isinstance(protocol.fusion, str) else float(protocol.fusion)
    if not reranker.validates or not len(validation.requests):
        return {"valid": {}, "fusion_weight": weight}
    chosen = protocol.fusion == "validation" and fusion.applies(reranker, validation.requests)
    shared = processes.shared(reranker.score)
    score = fusion.Kept(shared) if chosen else shared
    means = validation(score, description="validating").means
    if isinstance(score, fusion.Kept):
        weight = fusion.choose(validation, score.scores, protocol.primary)
    return {"valid": {f"valid/{name}": value for name, value in means.items()}, "fusion_weight": weight}


def validated_again(experiment: Experiment, reranker: Reranker, data: Data, record: dict[str, Any]) -> dict[str, Any]:
    """The same for evaluate.py; a model refit on validation knows it, so what it was chosen by stays."""
    if not record["refit_on_validation"]:
        return validated(experiment, reranker, data)
    weight = experiment.protocol.fusion
    if weight == "validation" and (weight := record.get("fusion_weight")) is None:
        raise UserError(
            "protocol.fusion=validation has nothing to choose on, as the run's model was refit on validation; give "
            "the weight itself, protocol.fusion=0.3"
        )
    return {"fusion_weight": None if weight == "none" else float(weight)}


def chance_loss(reranker: Reranker, points: list[dict[str, Any]], requests: Requests) -> dict[str, float]:
    """Curve -> its value for a model that knows nothing; empty where no loss was logged or none is known."""
    logged = {point["name"] for point in points}
    name = next((name for name in (reranker.chance_curve, "train_loss") if name in logged), None)
    if name is None or (name == "train_loss" and any(is_part(other) for other in logged)):  # a sum of several tasks
        return {}
    value = reranker.chance_loss(requests)
    return {} if value is None else {name: float(value)}


def trained_on(experiment: Experiment, dataset: Dataset) -> dict[str, object]:
    """What a model has seen; `evaluate.py` compares it with what it is asked."""
    return {
        "interactions_sha256": dataset.interactions_sha256,
        "split": experiment.resolved["protocol"]["split"],
        "refit_on_validation": experiment.protocol.refit_on_validation,
    }


def query_hashes(queries: np.ndarray | None) -> list[str]:
    """Of the words of each query; nothing of recommendation."""
    return [] if queries is None else [sha256(folded(str(query)))[:16] for query in queries]


def _refit(experiment: Experiment, run: Run, data: Data) -> Reranker:
    """A fresh model on training + validation, for as many epochs as validation found best."""
    trainer = replace(experiment.reranker.trainer, early_stopping_patience=None)
    best = run.best_epoch(str(trainer.metric_for_best_model))
    if best is not None:
        trainer = replace(trainer, num_train_epochs=best, max_steps=-1)
        log.info("refitting on training + validation for %.1f epochs", best)
    reranker = replace(experiment.reranker, trainer=trainer, checkpoints=run.checkpoints / "refit")
    reranker.fit(data.dataset, data.split.with_validation_in_train(), None, lambda values, step: None)
    return reranker


def device_name() -> str:
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({torch.get_num_threads()} threads)"
    return name if n_processes() == 1 else f"{n_processes()} processes, each {name}"
