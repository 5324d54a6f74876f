"""Run folders whose metrics, candidates and labels a test chooses; run_folders has curves too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from run_folders import write_config

from data.files import read_json, write_json, write_parquet

METRICS = ["recall_at_5", "recall_at_10", "ndcg_at_10"]
CHANCE = {"recall_at_5": 0.1, "recall_at_10": 0.2, "ndcg_at_10": 0.09}


def hits(rate: float, n: int, seed: int) -> np.ndarray:
    """[R, 3] per-request values: a hit at 10 with the given rate, half of them at 5, NDCG in between."""
    rng = np.random.default_rng(seed)
    at_10 = (rng.random(n) < rate).astype(float)
    at_5 = at_10 * (rng.random(n) < 0.5)
    return np.stack([at_5, at_10, at_10 * 0.3 + at_5 * 0.4], axis=1)


def make_run(
    root: Path,
    reranker: str,
    seed: int,
    values: np.ndarray,
    config: dict[str, Any] | None = None,
    labels: tuple[str, ...] = ("synthetic data",),
    candidates: int = 50,
    mode: str = "retrieved",
    tail: str = "",
    **manifest: Any,
) -> Path:
    """`values` [R, 3] are the metrics of each request; `config` are flat keys. Popularity and first stage are equal in
    all runs of as many requests."""
    n = len(values)
    flat = {
        "dataset.name": "demo",
        "protocol.primary": "recall_at_10",
        "candidates.mode": mode,
        "candidates.size": candidates,
        "reranker.name": reranker,
        "trainer.learning_rate": 0.001,
        "trainer.logging_steps": 10,
        "seed": seed,
    } | (config or {})
    words = "-".join(str(value) for key, value in (config or {}).items() if key != "seed")
    folder = root / "runs" / f"demo-{reranker}-{mode}{candidates}-{words}{seed}{tail}"
    folder.mkdir(parents=True)
    write_config(folder, flat)
    (folder / "overrides.yaml").write_text(yaml.safe_dump([f"reranker={reranker}", f"seed={seed}"]))
    reference = {"popularity": hits(0.25, n, 98), "first_stage": hits(0.4, n, 99)}
    columns: dict[str, Any] = {"request": [f"u{i}" for i in range(n)], "history_length": np.arange(n) % 7 + 1}
    columns |= {name: values[:, i] for i, name in enumerate(METRICS)}
    columns |= {f"{row}/{name}": v[:, i] for row, v in reference.items() for i, name in enumerate(METRICS)}
    write_parquet(folder / "per_request.parquet", pd.DataFrame(columns))
    metrics = {"test/share_with_a_hit": 0.9, "test/tie_rate": 0.0, "test/n_requests": n}
    for i, name in enumerate(METRICS):
        metrics |= {
            f"test/{name}": float(values[:, i].mean()),
            f"test/chance/{name}": CHANCE[name],
            f"test/chance_low/{name}": CHANCE[name] - 0.03,
            f"test/chance_high/{name}": CHANCE[name] + 0.03,
            f"test/ceiling/{name}": 0.9,
            **{f"test/{row}/{name}": float(v[:, i].mean()) for row, v in reference.items()},
        }
    write_json(folder / "metrics.json", metrics)
    cost = {"trainable_parameters": 69512, "total_parameters": 69512, "training_seconds": 38.8 + seed}
    cost |= {"milliseconds_per_request": 0.0593, "peak_memory_mb": 894.0, "device": "cpu", "made_elsewhere": False}
    write_json(folder / "cost.json", cost)
    write_json(folder / "environment.json", {"git_sha": "abc", "git_dirty": False, "packages": {"torch": "2.13.0"}})
    whole = {
        "dataset": "demo",
        "kind": "recommendation",
        "reranker": reranker,
        "retriever": "EASE",
        "protocol": {"_target_": "data.splits.LeaveOneOut"},
        "candidates": f"{mode} {candidates} candidates",
        "n_requests": n,
        "width": candidates,
        "metrics": METRICS,
        "primary": "recall_at_10",
        "fusion_weight": None,
        "seed": seed,
        "labels": list(labels),
        "notes": [],
        "licence": "MIT",
        "data_sha256": "d" * 64,
        "interactions_sha256": "i" * 64,
        "candidates_sha256": f"{mode}{candidates}",
    }
    write_json(folder / "manifest.json", whole | manifest)
    return folder


def mirrored_run(root: Path, reranker: str, seed: int, rate: float, **config: Any) -> Path:
    """A run folder that MLflow is to have, with one curve point."""
    flat = {"tracking._target_": "experiments.tracking.MLflowTracker", "protocol.split._target_": "LeaveOneOut"}
    folder = make_run(root, reranker, seed, hits(rate, 80, seed), flat | config)
    environment = read_json(folder / "environment.json")
    write_json(folder / "environment.json", environment | {"command": ["train.py"]})
    write_curve(folder, 10)
    return folder


def write_curve(folder: Path, *steps: int, timestamp: int = 1) -> None:
    """curves.jsonl with a loss at each step."""
    points = [{"name": "train_loss", "step": s, "epoch": 1.0, "timestamp": timestamp, "value": 0.5} for s in steps]
    (folder / "curves.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
