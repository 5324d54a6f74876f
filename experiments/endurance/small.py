"""Trainings that take seconds, as commands: each trained reranker from nothing on a small demo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.launch import ROOT

if TYPE_CHECKING:
    from omegaconf import DictConfig

DATA = ["dataset.n_users=120", "dataset.n_items=60", "dataset.mean_length=12", "candidates.size=20"]
TRAINING = ["trainer.logging_steps=1", "trainer.eval_strategy=steps", "trainer.eval_steps=3", "trainer.max_steps=12"]
SEQUENCES = ["reranker.hidden_size=16", "reranker.max_length=12"]
SMALL = {
    "bert4rec": SEQUENCES,
    "sasrec": SEQUENCES,
    "qwen_letter": ["reranker.init=scratch", "reranker.scratch.hidden_size=16", "reranker.max_history=3"],
    "viranker": ["reranker.init=scratch", "reranker.scratch.hidden_size=16", "reranker.max_length=48"],
    "vip5": ["reranker.init=scratch", "reranker.scratch.d_model=16", "reranker.scratch.d_ff=32",
             "reranker.visual_tokens=1", "reranker.validation_start_epoch=0", "reranker.max_history=3"],
}  # fmt: skip
LIMIT, HUNG = 600.0, 124  # seconds, and the exit code of what took longer, as of `timeout`
BATCH = ["trainer.per_device_train_batch_size=8", "trainer.gradient_accumulation_steps=1"]


def words(reranker: str, root: Path, *more: str) -> list[str]:
    """The words of a command that trains and evaluates `reranker` under `root`, without MLflow."""
    out = [f"reranker={reranker}", f"paths.root={root}", "tracking=none", "diagnose=off", *DATA, *TRAINING, *BATCH]
    return [*out, *SMALL[reranker], *more]


def command(*given: str) -> list[str]:
    return [sys.executable, *given]


def environment(**more: str) -> dict[str, str]:
    """One thread a process: several share two cores."""
    own = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return os.environ | own | more


def run(*given: str, timeout: float = LIMIT, **more: str) -> subprocess.CompletedProcess[str]:
    """`python <given>` in the project's folder; `more`: environment variables. HUNG if it does not end."""
    line = command(*given)
    try:
        return subprocess.run(line, cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(line, HUNG, "", f"it did not end within {timeout:g} s")


def composed(words: list[str]) -> DictConfig:
    """The config of `train.py <words>`, for a run in this process."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", words)


def results(root: Path) -> dict[str, bytes]:
    """The final values of each finished run under `root`: the same numbers are the same bytes."""
    return {
        path.parent.name: (path.parent / "metrics.json").read_bytes() for path in root.glob("runs/*/manifest.json")
    }
