"""The end of train.py and evaluate.py: the test requests are ranked, and every file of the run is written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.dataset import Requests
from data.files import read_json, write_json
from experiments import fusion, processes
from experiments.config import Experiment
from experiments.diagnostics import Undiagnosed
from experiments.findings import Finding, write_diagnosis
from experiments.findings import labels as diagnosis_labels
from experiments.results import labels, reference_rows, summarize, write_results
from experiments.stages import UNTUNED, Data, device_name
from rerankers.base import Reranker


def conclude(
    experiment: Experiment,
    folder: Path,
    reranker: Reranker,
    data: Data,
    record: dict[str, Any],
    notes: list[str],
    diagnosis: Undiagnosed,
) -> None:
    """Evaluates on the test requests and writes every file of the run, the manifest last. Of several processes all
    score and the first writes.

    `record` is the training's own (`Run.training`); `notes` are further labels.
    """
    seconds, shared = 0.0, processes.shared(reranker.score)

    def timed(requests: Requests) -> np.ndarray:
        nonlocal seconds
        started = time.perf_counter()
        scores = shared(requests)
        seconds += time.perf_counter() - started
        return scores

    protocol, dataset = experiment.protocol, data.dataset
    split = data.split.with_validation_in_train() if protocol.refit_on_validation else data.split
    weight = record.get("fusion_weight") if fusion.applies(reranker, data.test.requests) else None
    score = timed if weight is None else fusion.Kept(timed)
    with experiment.clock("score and rank"):
        evaluated = data.test(score, keep=True)
    if not processes.is_first():
        return
    with experiment.clock("references and tests"):
        rows = reference_rows(dataset, split, data.test)
        if (folder / UNTUNED).exists():
            table = pd.read_parquet(folder / UNTUNED)
            rows["untuned"] = {name: table[name].to_numpy() for name in evaluated.values}
        if weight is not None and isinstance(score, fusion.Kept):
            rows["fused"] = fusion.fused(data.test, score.scores, weight).values
        width = None if data.test.requests.candidates is None else data.test.requests.width
        tests = summarize(evaluated, rows, protocol, data.test.seed, width, reranker.name)
        metrics = record["valid"] | tests
    with experiment.clock("write"):
        write_results(folder, dataset, split, data.test, evaluated, rows, metrics)
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
        "kind": dataset.kind,
        "reranker": reranker.name,
        "retriever": "file" if c.mode == "file" else type(c.retriever).__name__,
        "protocol": experiment.resolved["protocol"]["split"],
        "candidates": how + (", history filtered" if protocol.filter_seen and c.mode in ("retrieved", "full") else ""),
        "n_requests": len(data.test.requests),
        "width": width,
        "metrics": list(evaluated.values),
        "primary": protocol.primary,
        "fusion_weight": weight,
        "seed": experiment.seed,
        "chance_loss": record.get("chance_loss", {}),
        "labels": [
            *labels(dataset, reranker, data.test.requests, c.labels, protocol),
            *notes,
            *(f"the row untuned: {label}" for label in untuned_labels(folder) if label != "untuned"),
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


def untuned_labels(folder: Path) -> list[str]:
    path = (folder / UNTUNED).with_suffix(".json")
    return list(read_json(path)["labels"]) if path.exists() else []
