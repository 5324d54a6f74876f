"""One run, one folder: `<root>/runs/<dataset>-<reranker>-<hash>`. The folder is the truth; MLflow mirrors it.

config.yaml overrides.yaml environment.json [patch.diff]   how it was made
curves.jsonl                                               every logged value as it came
checkpoints/ (while training)  model/                      weights
metrics.json cost.json per_request.parquet predictions.parquet [untuned.parquet]
manifest.json                                              written last: its existence means complete
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from data.dataset import sha256
from data.files import read_json, write_atomically, write_json
from experiments.curves import read_curves
from experiments.launch import ROOT
from experiments.tracking import Tracker

PACKAGES = (
    "torch transformers trl peft sentence-transformers FlagEmbedding mlflow hydra-core omegaconf scikit-learn pandas "
    "numpy scipy accelerate safetensors"
).split()
log = logging.getLogger(__name__)
STATE = ("*.pt", "*.pth", "training_args.bin", "complete")  # of a checkpoint: what only continuing needs


def is_free(lock: FileLock) -> bool:
    """Whether no process holds a run's lock."""
    try:
        with lock.acquire(timeout=0):
            return True
    except Timeout:
        return False


class Run:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lock(self, root: Path) -> Any:
        """One process at a time works on a run; a second waits and finds it finished."""
        path = root / "cache" / "locks" / f"{self.folder.name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)

    @contextmanager
    def alone(self, root: Path) -> Iterator[None]:
        """Holds the lock; says so where it has to wait."""
        lock = self.lock(root)
        if not is_free(lock):
            log.warning("another process is at work on %s; waiting for it", self.folder.name)
        with lock:
            yield

    @property
    def complete(self) -> bool:
        return (self.folder / "manifest.json").exists()

    @property
    def same_code(self) -> bool:
        return read_json(self.folder / "environment.json").get("code_sha256") == code_sha256()

    @property
    def trained(self) -> bool:
        return (self.folder / "model").exists()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @contextmanager
    def start(self, resolved: dict[str, Any], force: bool, tracker: Tracker) -> Iterator[None]:
        """Makes the folder, or takes up an incomplete one, and keeps the tracker informed of the end."""
        if force and self.folder.exists():
            (self.folder / "manifest.json").unlink(missing_ok=True)  # half deleted it is not complete
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved)))
        overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
        if (fold := resolved["protocol"].get("fold")) is not None:  # the command may have named none: all of them
            overrides = [word for word in overrides if not word.startswith("protocol.fold=")]
            overrides.append(f"protocol.fold={fold}")
        write_atomically(self.folder / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))
        environment, diff = describe_environment()
        write_json(self.folder / "environment.json", environment)
        if diff:
            write_atomically(self.folder / "patch.diff", diff)
        tracker.start(self.folder)
        try:
            yield
        except BaseException:
            tracker.finish(failed=True)
            raise
        tracker.finish()

    def begin_training(self) -> None:
        """Starts the clocks. Before a checkpoint they go on from there, and later curve points are dropped."""
        whole = [path.parent.name for path in self.checkpoints.glob("checkpoint-*/complete")]
        step = max((int(name.rsplit("-", 1)[1]) for name in whole), default=-1)
        kept = [point for point in read_curves(self.folder) if point["step"] <= step]
        write_atomically(self.folder / "curves.jsonl", "".join(json.dumps(point) + "\n" for point in kept))
        last = kept[-1] if kept else {"wall_seconds": 0, "cpu_seconds": 0}
        self.last_step = -1
        self.start_clocks(last["wall_seconds"], last["cpu_seconds"])

    def start_clocks(self, wall: float, cpu: float) -> None:
        """`wall` and `cpu`: seconds that were spent before an interruption."""
        self.wall_from, self.cpu_from = time.perf_counter() - wall, time.process_time() - cpu

    @property
    def elapsed(self) -> float:
        """Wall seconds of training, those before an interruption included."""
        return time.perf_counter() - self.wall_from

    def log(self, values: dict[str, float], step: int) -> list[dict[str, Any]]:
        """Appends one curve point for each value; `epoch` among them dates the others. Returns the points."""
        epoch = values.get("epoch", 0.0)
        clocks = {
            "cpu_seconds": round(time.process_time() - self.cpu_from, 3),
            "wall_seconds": round(self.elapsed, 3),
            "timestamp": int(time.time() * 1000),
        }
        points = [
            {
                "name": name,
                "step": step,
                "epoch": epoch,
                **clocks,
                "value": value if math.isfinite(value) else None,
            }
            for name, value in values.items()
            if name != "epoch"
        ]
        if step < self.last_step:  # the training began again, without the memory for its batch
            kept = [point for point in read_curves(self.folder) if point["step"] < step]
            write_atomically(self.folder / "curves.jsonl", "".join(json.dumps(point) + "\n" for point in kept))
        self.last_step = step
        with (self.folder / "curves.jsonl").open("a") as file:
            file.write("".join(json.dumps(point) + "\n" for point in points))
        return points

    @property
    def training(self) -> dict[str, Any]:
        """What stands beside the weights: seconds, validation metrics, and what the model has seen."""
        return read_json(self.folder / "model" / "training.json")

    def save_model(self, save: Callable[[Path], None], record: dict[str, Any], keep: bool = False) -> None:
        """Weights and the training's record, whole or not at all; `keep`: the checkpoints too."""
        partial = self.folder / "model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save(partial)
        write_json(partial / "training.json", record)
        partial.replace(self.folder / "model")
        self.put_checkpoints_away(keep)

    def put_checkpoints_away(self, keep: bool) -> None:
        """To continue from they are no longer needed; with `keep` they stay as models, `<run>/checkpoint-*`, without
        the optimizer's state, which is a pickle."""
        for complete in list(self.checkpoints.glob("checkpoint-*/complete")) if keep else []:
            complete.parent.replace(self.folder / complete.parent.name)
        for pattern in STATE:
            for path in self.folder.glob(f"checkpoint-*/{pattern}"):
                path.unlink()
        for complete in list(self.checkpoints.rglob("complete")):  # half deleted none of them is
            complete.unlink()
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def best_epoch(self, metric: str) -> float | None:
        points = [p for p in read_curves(self.folder) if p["name"] == f"valid_{metric}" and p["value"] is not None]
        return max(points, key=lambda p: p["value"])["epoch"] if points else None


def code_sha256() -> str:
    """Of the project's own Python files, committed or not."""
    files = [*(path for room in ("data", "rerankers", "experiments") for path in (ROOT / room).rglob("*.py"))]
    return sha256(*(path.read_bytes() for path in sorted(files)))


def describe_environment() -> tuple[dict[str, Any], str]:
    """What a number depends on beside the config, and the uncommitted change of the code."""

    def git(*words: str) -> str:
        try:
            command = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return command.stdout if command.returncode == 0 else ""

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    diff = git("diff", "HEAD")
    return {
        "git_sha": git("rev-parse", "HEAD").strip() or None,
        "code_sha256": code_sha256(),
        "git_dirty": bool(git("status", "--porcelain").strip()),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "packages": versions,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }, diff
