"""All folds of the queries: an ordinary run each, then one run that pools them, so that every query is tested once.

    python train.py protocol=query_folds dataset=proptit                          # the folds, one by one, and the pool
    python train.py -m protocol=query_folds dataset=proptit protocol.fold=0,1,2   # folds as jobs of their own

The pool is read from the folds' folders: intervals, chance and tests are of all queries together, one row a query, so
a larger fold counts for more. What is measured on validation (`valid/..`) is the mean of the folds.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from data.dataset import Dataset, sha256
from data.files import file_sha256, read_json, write_json, write_parquet
from data.query_splits import QueryFolds
from experiments import processes
from experiments.config import Experiment, configure
from experiments.evaluation import Evaluated
from experiments.findings import FAIL, INFO, OK, WARN, Finding, read_diagnosis, write_diagnosis
from experiments.findings import labels as diagnosis_labels
from experiments.metrics import Ranks, display
from experiments.results import Metrics, summarize
from experiments.runs import Run
from experiments.score_checks import against_rows
from experiments.sync import mirror_the_rest

WORSE = (INFO, OK, WARN, FAIL)


def several(experiment: Experiment) -> bool:
    """Whether the config names no fold of its folds."""
    split = experiment.protocol.split
    return isinstance(split, QueryFolds) and split.fold is None


def fold_of(cfg: DictConfig, fold: int) -> Experiment:
    """The ordinary run of one fold: the same config with `protocol.fold`."""
    own = copy.deepcopy(cfg)
    own.protocol.fold = fold
    experiment = configure(own)
    processes.follow(experiment)
    return experiment


def pooled(
    cfg: DictConfig, experiment: Experiment, dataset: Dataset, run_one: Callable[[Experiment, Dataset], Path]
) -> Path:
    """Runs the folds that are not finished, pools them, and returns the folder of the pool."""
    folders = []
    for fold in range(experiment.protocol.folds):
        folders.append(run_one(fold_of(cfg, fold), dataset))
        print(line(folders[-1], fold))
        gc.collect()  # a model of one fold must not wait for that of the next
    made_of = {folder.name: file_sha256(folder / "per_request.parquet") for folder in folders}
    run = Run(experiment.root / "runs" / experiment.name(dataset))
    if not processes.is_first():
        return run.folder
    with run.alone(experiment.root):
        if run.complete and read_json(run.folder / "manifest.json")["folds"] == made_of and not experiment.force:
            print(f"{run.folder.name} is finished already (force=true redoes its folds).")
            mirror_the_rest(run.folder, experiment.tracker)
        else:
            with run.start(experiment.resolved, run.complete, experiment.tracker):
                pool(experiment, folders, run.folder, made_of)
    return run.folder


def line(folder: Path, fold: int) -> str:
    metrics, manifest = read_json(folder / "metrics.json"), read_json(folder / "manifest.json")
    primary, diagnosis = manifest["primary"], folder / "diagnosis.json"
    tag = f"; diagnosis: {read_json(diagnosis)['tag']}" if diagnosis.exists() else ""
    value, chance = metrics[f"test/{primary}"], metrics[f"test/chance/{primary}"]
    return f"fold {fold}: {display(primary)} {value:.4f}, chance {chance:.4f}{tag} ({folder.name})"


def pool(experiment: Experiment, folders: list[Path], folder: Path, made_of: dict[str, str]) -> None:
    """Writes every file of the pool, the manifest last."""
    metrics, costs, manifests = (
        [read_json(f / f"{name}.json") for f in folders] for name in ("metrics", "cost", "manifest")
    )
    table, predictions = (concatenated(folders, f"{name}.parquet") for name in ("per_request", "predictions"))
    first, n = manifests[0], [manifest["n_requests"] for manifest in manifests]
    evaluated, rows = read_back(table, first["metrics"], len(predictions))
    width = None if first["width"] is None else max(manifest["width"] for manifest in manifests)
    whole = validation_of(metrics) | summarize(
        evaluated, rows, experiment.protocol, experiment.candidates.seed, width, experiment.reranker.name
    )
    write_parquet(folder / "per_request.parquet", table)
    write_parquet(folder / "predictions.parquet", predictions)
    write_json(folder / "metrics.json", whole)

    found = [read_diagnosis(f) for f in folders]
    findings = pooled_findings(experiment, found, whole, first)
    if findings:
        write_diagnosis(folder, findings)
    of_one_fold = {label for fold in found for label in diagnosis_labels(fold)}
    labels = union([manifest["labels"] for manifest in manifests])
    write_json(folder / "cost.json", pooled_cost(costs, n))
    weights = [manifest["fusion_weight"] for manifest in manifests]
    manifest = first | {
        "protocol": experiment.resolved["protocol"]["split"],
        "n_requests": sum(n),
        "width": width,
        "fusion_weight": None if None in weights else weights,
        "labels": [
            f"{len(folders)} folds pooled",
            *(label for label in labels if label not in of_one_fold),
            *diagnosis_labels(findings),
        ],
        "notes": union([manifest["notes"] for manifest in manifests]),
        "candidates_sha256": sha256(*(manifest["candidates_sha256"] for manifest in manifests)),
        "folds": made_of,
    }
    write_json(folder / "manifest.json", manifest)


def concatenated(folders: list[Path], name: str) -> pd.DataFrame:
    tables = [pd.read_parquet(folder / name) for folder in folders]
    for fold, table in enumerate(tables):
        table.insert(1, "fold", fold)
    return pd.concat(tables, ignore_index=True)


def read_back(table: pd.DataFrame, names: list[str], n_ranked: int) -> tuple[Evaluated, dict[str, Any]]:
    """What was evaluated, from per_request.parquet: of ranks that which chance, ceiling and ties need."""
    columns = {str(name): values.to_numpy() for name, values in table.items()}
    n_relevant = columns["n_relevant"]
    row = np.repeat(np.arange(len(table)), n_relevant)
    place = np.arange(len(row)) - (np.cumsum(n_relevant) - n_relevant)[row]
    present = place < columns["found"][row]
    rank = np.where(present, place + 1.0, np.inf)
    ranks = Ranks(row, rank, present, columns["tied"][row], columns["n_candidates"], n_relevant)
    others = dict.fromkeys(name.partition("/")[0] for name in columns if "/" in name)
    rows = {other: {name: columns[f"{other}/{name}"] for name in names} for other in others}
    return Evaluated({name: columns[name] for name in names}, ranks, None, None, n_ranked), rows


def validation_of(metrics: list[Metrics]) -> Metrics:
    names = [name for name in metrics[0] if name.startswith("valid/")]
    return {name: float(np.mean([of_fold[name] for of_fold in metrics])) for name in names}


def pooled_findings(
    experiment: Experiment, found: list[list[Finding]], metrics: Metrics, manifest: dict[str, Any]
) -> list[Finding]:
    """Of each check the worst verdict of the folds; those of the test metrics are made again, as a fold has few
    queries and luck would fail one."""
    if not all(found):
        return []
    primary, mild = experiment.protocol.primary, not experiment.trained
    again = against_rows(metrics, manifest["metrics"], primary, manifest["width"], mild)
    out = []
    for check in dict.fromkeys(finding.check for fold in found for finding in fold):
        if check in {finding.check for finding in again}:
            continue
        own = [(fold, f) for fold, findings in enumerate(found) for f in findings if f.check == check]
        fold, worst = max(own, key=lambda pair: WORSE.index(pair[1].verdict))
        n = sum(finding.verdict == worst.verdict for _, finding in own)
        evidence = f"{worst.verdict} in {n} of {len(found)} folds; fold {fold}: {worst.evidence}"
        out.append(replace(worst, evidence=evidence))
    return out + again


def pooled_cost(costs: list[dict[str, Any]], n_requests: list[int]) -> dict[str, Any]:
    """Seconds are summed, milliseconds of all requests averaged, memory is the largest."""
    stages: dict[str, dict[str, float]] = {}
    for cost in costs:
        for name, stage in cost["stages"].items():
            before = stages.get(name, {"seconds": 0.0, "peak_memory_mb": 0.0})
            stages[name] = {
                "seconds": round(before["seconds"] + stage["seconds"], 2),
                "peak_memory_mb": max(before["peak_memory_mb"], stage["peak_memory_mb"]),
            }
    milliseconds = [cost["milliseconds_per_request"] for cost in costs]
    return costs[0] | {
        "training_seconds": round(sum(cost["training_seconds"] for cost in costs), 2),
        "milliseconds_per_request": float(np.average(milliseconds, weights=n_requests)),
        "peak_memory_mb": max(cost["peak_memory_mb"] for cost in costs),
        "device": ", ".join(union([[cost["device"]] for cost in costs])),
        "stages": stages,
    }


def union(lists: list[list[str]]) -> list[str]:
    return list(dict.fromkeys(value for values in lists for value in values))
