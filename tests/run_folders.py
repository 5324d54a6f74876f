"""Finished run folders of made-up numbers, written in a moment, for tests of what reads them."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from data.files import write_json, write_parquet
from experiments.metrics import Ranks, measure

N, WIDTH, KS = 60, 20, [1, 5, 10]
SEEDS = (0, 1, 2)


def ranks_of(seed: int, skill: float) -> np.ndarray:
    """[N] rank of the one relevant item, from 1; NaN for the first three requests, whose lists do not hold it."""
    rank = 1 + np.floor(WIDTH * np.random.default_rng(seed).random(N) ** (1 + skill))
    rank[:3] = np.nan
    return rank


def metrics_of(rank: np.ndarray) -> dict[str, np.ndarray]:
    one = np.arange(N)
    there = np.isfinite(rank)
    ranks = Ranks(one, np.where(there, rank, np.inf), there, one < 0, np.full(N, WIDTH), np.ones(N, dtype=int))
    return measure(ranks, ["recall", "ndcg"], KS)


def write_config(folder: Path, flat: dict[str, Any]) -> None:
    """config.yaml of keys with dots."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(nested, sort_keys=False))


def write_run(
    root: Path, reranker: str, seed: int = 0, skill: float = 1.0, old: bool = False, folder: str = "", **config: Any
) -> Path:
    """`config`: keys with `__` for dots, `trainer__learning_rate=1e-3`; `old`: without later columns."""
    values = {"seed": seed, "candidates.seed": 0, "candidates.size": WIDTH, "trainer.num_train_epochs": 2.0}
    values |= {key.replace("__", "."): value for key, value in config.items()}
    words = "-".join(f"{key}={value}" for key, value in values.items())
    path = root / "runs" / (folder or f"tiny-{reranker}-{zlib.crc32(words.encode())}")
    draw = len(words) * 1000 + seed
    rank = ranks_of(draw, skill)
    own, stage, popular = metrics_of(rank), metrics_of(ranks_of(10**6, 0.6)), metrics_of(ranks_of(10**6 + 1, 0.2))
    table: dict[str, Any] = {"request": [f"u{i}" for i in range(N)], "history_length": 3 + np.arange(N) % 17}
    table |= {"n_candidates": np.full(N, WIDTH), "n_relevant": np.ones(N, dtype=int)}
    table |= {"found": np.isfinite(rank).astype(int), "tied": np.zeros(N, dtype=bool)}
    if not old:
        table |= {"rank": rank, "target_popularity": np.arange(N) % 7}
    table |= own
    table |= {f"first_stage/{name}": column for name, column in stage.items()}
    table |= {f"popularity/{name}": column for name, column in popular.items()}
    write_parquet(path / "per_request.parquet", pd.DataFrame(table))

    size = int(values["candidates.size"])
    metrics = {f"test/{name}": float(column.mean()) for name, column in own.items()}
    metrics |= {f"valid/{name}": value + 0.01 for name, value in [(k[5:], v) for k, v in metrics.items()]}
    for name in own:
        k = int(name.rpartition("_")[2])
        metrics |= {f"test/first_stage/{name}": float(stage[name].mean()), f"test/chance/{name}": k / size}
        metrics |= {f"test/popularity/{name}": float(popular[name].mean())}
        metrics |= {f"test/chance_low/{name}": k / size - 0.05, f"test/chance_high/{name}": k / size + 0.05}
    write_json(path / "metrics.json", metrics | {"test/share_with_a_hit": 0.95, "test/tie_rate": 0.0})
    write_json(path / "cost.json", {
        "trainable_parameters": 10, "total_parameters": 10, "training_seconds": 1.5 + seed,
        "milliseconds_per_request": 0.2 * (1 + seed), "peak_memory_mb": 1.0, "device": "cpu", "made_elsewhere": False,
    })  # fmt: skip
    write_json(path / "manifest.json", {
        "dataset": "tiny", "kind": "recommendation", "reranker": reranker, "retriever": "EASE",
        "protocol": {"_target_": "data.splits.LeaveOneOut"}, "candidates": f"retrieved {size} candidates",
        "n_requests": N, "width": WIDTH, "metrics": list(own), "primary": "recall_at_5", "fusion_weight": None,
        "seed": seed, "labels": ["synthetic data"], "notes": [], "interactions_sha256": "i",
        "candidates_sha256": f"c{size}", **({} if old else {"chance_loss": {"train_loss": 3.0}}),
    })  # fmt: skip
    write_config(path, values)
    write_json(path / "environment.json", {"git_sha": "0"})
    points = []
    for step in range(1, 41):
        points.append(
            {"name": "train_loss", "step": step, "epoch": step / 20, "value": 3.2 - 0.02 * step + 0.1 * seed}
        )
        if old:
            points.append({"name": "chance_loss", "step": step, "epoch": step / 20, "value": 3.0})
        if step % 20 == 0:
            value = 0.2 + 0.1 * step / 20
            points.append({"name": "valid_recall_at_5", "step": step, "epoch": step / 20, "value": value})
    (path / "curves.jsonl").write_text("\n".join(json.dumps(point) for point in points) + "\n")
    return path
