"""The stages that train.py and evaluate.py share: open the data, fit, report."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.candidates import Prepared, prepare
from data.dataset import Dataset, Relevance, Requests
from data.errors import UserError
from data.files import write_json
from data.splits import Split
from experiments.config import Experiment
from experiments.curves import read_curves
from experiments.diagnostics import Diagnosis, Undiagnosed
from experiments.evaluation import Evaluator
from experiments.findings import Finding, write_diagnosis
from experiments.findings import labels as diagnosis_labels
from experiments.metrics import NaNScores
from experiments.results import labels, reference_rows, summarize, write_results
from experiments.runs import Run
from rerankers.base import Reranker, ScoreFn, missing

log = logging.getLogger(__name__)


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
        dataset = experiment.source.load(experiment.data)
    sizes = (len(dataset.user_id), len(dataset.catalog), len(dataset.interactions))
    passages = dataset.kind == "passages"
    called = ("queries", "passages", "relevant pairs") if passages else ("users", "items", "interactions")
    counts = ", ".join(f"{size:,} {what}" for size, what in zip(sizes, called, strict=True))
    log.info("%s: %s", dataset.name, counts)
    for sentence in dataset.provenance.notes:
        log.info("  %s", sentence)
    lacks = missing(experiment.reranker, dataset)
    if lacks and passages:
        raise UserError(
            f"reranker={experiment.reranker.name} needs {lacks}, and dataset={dataset.name} has queries and passages; "
            "choose a reranker of text, and use protocol=query_folds candidates/retriever=bm25"
        )
    if lacks:
        raise UserError(
            f"reranker={experiment.reranker.name} needs {lacks}, which dataset={dataset.name} does not have; "
            "choose another dataset, or give it with dataset.item_fields= or dataset.images="
        )
    return dataset


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
    if run.trained:
        reranker.load(run.folder / "model", data.test.requests)
        return reranker
    run.begin_training()

    def record(values: dict[str, float], step: int) -> None:
        experiment.tracker.points(run.log(values, step))
        diagnosis.watch(values, step)

    def validate(score: ScoreFn) -> dict[str, float]:
        return data.validation(score, description="validating").means

    if reranker.trains and not len(data.validation.requests):
        raise UserError(
            f"{data.prepared.path} has no validation lists, which training needs; give candidates.validation_path="
        )
    for requests in (data.validation.requests, data.test.requests):
        reranker.check(requests)
    reranker.checkpoints = run.checkpoints
    try:
        with experiment.clock("train"), diagnosis.before(reranker):
            reranker.fit(data.dataset, data.split, validate if reranker.trains else None, record)
        seconds = run.elapsed - diagnosis.seconds
        with experiment.clock("validate"):
            valid = validated(reranker, data)
    except NaNScores as error:
        diagnosis.broken(reranker, read_curves(run.folder), run.folder, error)
        raise
    with experiment.clock("diagnose"):
        findings = diagnosis.after(reranker, read_curves(run.folder))
    if experiment.protocol.refit_on_validation and not reranker.files:
        before = run.elapsed
        with experiment.clock("refit"):
            reranker = _refit(experiment, run, data)
        seconds += run.elapsed - before
    sizes = reranker.facts(data.test.requests.take(slice(0, 1))).get("parameters", (0, 0))
    trained = {"seconds": seconds, "valid": valid, "diagnosis": findings, "parameters": [int(n) for n in sizes]}
    run.save_model(reranker.save, trained | trained_on(experiment, data.dataset))
    return reranker


def validated(reranker: Reranker, data: Data) -> dict[str, float]:
    """`valid/<metric>`; nothing without validation requests, or for scores made elsewhere."""
    if not reranker.validates or not len(data.validation.requests):
        return {}
    means = data.validation(reranker.score, description="validating").means
    return {f"valid/{name}": value for name, value in means.items()}


def trained_on(experiment: Experiment, dataset: Dataset) -> dict[str, object]:
    """What a model has seen; `evaluate.py` compares it with what it is asked."""
    return {
        "interactions_sha256": dataset.interactions_sha256,
        "split": experiment.resolved["protocol"]["split"],
        "refit_on_validation": experiment.protocol.refit_on_validation,
    }


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


def report(
    experiment: Experiment,
    folder: Path,
    reranker: Reranker,
    data: Data,
    record: dict[str, Any],
    notes: list[str],
    diagnosis: Undiagnosed,
) -> None:
    """Evaluates on the test requests and writes every file of the run, the manifest last.

    `record` is the training's own (`Run.training`); `notes` are further labels.
    """
    seconds = 0.0

    def timed(requests: Requests) -> np.ndarray:
        nonlocal seconds
        started = time.perf_counter()
        scores = reranker.score(requests)
        seconds += time.perf_counter() - started
        return scores

    protocol, dataset = experiment.protocol, data.dataset
    split = data.split.with_validation_in_train() if protocol.refit_on_validation else data.split
    with experiment.clock("score and rank"):
        evaluated = data.test(timed, keep=True)
    with experiment.clock("references and tests"):
        rows = reference_rows(dataset, split, data.test)
        metrics = record["valid"] | summarize(evaluated, rows, data.test, protocol.primary, reranker.name)
    with experiment.clock("write"):
        write_results(folder, dataset, data.test, evaluated, rows, metrics)
    known = record.get("diagnosis", [])
    findings = diagnosis.conclude(known, metrics, list(evaluated.values), data.test.requests)
    diagnosed = diagnosis_labels(findings or [Finding(**f) for f in known])  # the label stays in evaluate.py
    if findings:
        write_diagnosis(folder, findings)
    trainable, total = record.get("parameters", (0, 0))
    cost = {
        "trainable_parameters": int(trainable),
        "total_parameters": int(total),
        "training_seconds": round(record["seconds"], 2),
        "milliseconds_per_request": 1000 * seconds / len(data.test.requests),
        "peak_memory_mb": experiment.clock.peak_memory_mb,
        "device": device_name(),
        "made_elsewhere": bool(reranker.files),
        "stages": experiment.clock.stages,
    }
    write_json(folder / "cost.json", cost)
    c = experiment.candidates
    how = {"full": "the full catalogue", "file": "candidates from a file"}.get(c.mode, f"{c.mode} {c.size} candidates")
    manifest = {
        "dataset": dataset.name,
        "reranker": reranker.name,
        "retriever": "file" if c.mode == "file" else type(c.retriever).__name__,
        "protocol": experiment.resolved["protocol"]["split"],
        "candidates": how + (", history filtered" if protocol.filter_seen and c.mode in ("retrieved", "full") else ""),
        "n_requests": len(data.test.requests),
        "metrics": list(evaluated.values),
        "primary": protocol.primary,
        "seed": experiment.seed,
        "labels": [
            *labels(dataset, reranker, data.test.requests, c.labels, protocol),
            *notes,
            *diagnosed,
        ],
        "notes": [*dataset.provenance.notes, *data.split.notes],
        "licence": dataset.provenance.licence,
        "files_sha256": dataset.provenance.files,
        "data_sha256": dataset.sha256,
        "interactions_sha256": dataset.interactions_sha256,
        "candidates_sha256": data.prepared.sha256,
    }
    write_json(folder / "manifest.json", manifest)


def device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu ({torch.get_num_threads()} threads)"
