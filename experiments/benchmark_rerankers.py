"""Every trained reranker at one shape: speed and peak memory of its training and of its scoring.

    python -m experiments.benchmark target=rerankers generated.steps=20

The models of `experiment=compare_demo`, from nothing, on the demo's 20 candidates. Training and scoring are processes
of their own, so that no peak holds another's; the median step and the median round count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from data.errors import UserError, in_range
from experiments.launch import ROOT

NAMES = ("bert4rec", "sasrec", "vip5", "viranker", "qwen_letter")
CANDIDATES, REQUESTS = 20, 100
COLUMNS = ("reranker", "training", "", "scoring", "", "peak of training", "peak of scoring")


def rerankers(cfg: DictConfig) -> dict[str, float]:
    from rich.console import Console
    from rich.table import Table

    from experiments.clock import peak_memory_mb
    from experiments.stages import device_name

    in_range("generated.steps", cfg.steps, 2)  # the first is not counted
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as root:
        for name in NAMES:
            asked = json.dumps({"steps": cfg.steps, "rounds": cfg.rounds, "seed": cfg.seed, "root": f"{root}/{name}"})
            found[name] = {what: in_a_process(what, name, asked) for what in ("training", "scoring")}
    out = Table(
        title=f"rerankers on {device_name()}, {CANDIDATES} candidates, medians of steps and of {cfg.rounds} rounds"
    )
    for number, column in enumerate(COLUMNS):
        out.add_column(column, justify="right" if number else "left")
    base = NAMES[0]
    for name, row in found.items():
        cells = []
        for what, unit in (("training", "rows"), ("scoring", "requests")):
            rate, ratio = row[what]["rate"], row[what]["rate"] / found[base][what]["rate"]
            cells += [f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2f} {unit}/s", f"{ratio:.2g}x"]
        peaks = [f"{row[what]['peak_memory_mb']:,.0f} MB" for what in ("training", "scoring")]
        out.add_row(name, *cells, *peaks)
    Console(width=130).print(out)
    print(f"ratios are of {base}; peak memory is of the process, all of it; this one, with torch: ", end="")
    print(f"{peak_memory_mb():,.0f} MB")
    return {f"{name} {what}": row[what]["rate"] for name, row in found.items() for what in row}


def in_a_process(what: str, name: str, asked: str) -> dict[str, float]:
    command = [sys.executable, "-m", "experiments.benchmark_rerankers", what, name, asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{what} of {name} ended with {' '.join(done.stderr.split())[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def opened(name: str, steps: int, seed: int, root: str) -> tuple[Any, Any]:
    """The experiment and its data."""
    from hydra import compose, initialize_config_dir

    from experiments import stages
    from experiments.config import configure

    words = [f"reranker={name}", f"tuned=from_nothing/{name}_demo", "dataset=demo", f"candidates.size={CANDIDATES}"]
    words += [f"paths.root={root}", "tracking=none", f"seed={seed}", f"protocol.max_requests={REQUESTS}"]
    words += [f"trainer.max_steps={steps}", "trainer.eval_strategy=no", "trainer.early_stopping_patience=null"]
    words += ["trainer.logging_steps=1"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        experiment = configure(compose("train", words))
    experiment.reranker.checkpoints = Path(root) / "checkpoints"
    return experiment, stages.open_data(experiment, stages.load(experiment))


def training(name: str, steps: int, rounds: int, seed: int, root: str) -> dict[str, float]:
    """Rows a second of the median step; the model is left for scoring."""
    from experiments.clock import peak_memory_mb, start_peak_again

    experiment, data = opened(name, steps, seed, root)
    times: dict[int, float] = {}  # of the first log after each step
    start_peak_again()
    experiment.reranker.fit(
        data.dataset, data.split, None, lambda values, step: times.setdefault(step, time.perf_counter())
    )
    peak = peak_memory_mb()
    (folder := Path(root) / "model").mkdir(parents=True)
    experiment.reranker.save(folder)
    used = experiment.reranker.trainer
    rows = used.per_device_train_batch_size * used.gradient_accumulation_steps
    return {"rate": rows / float(np.median(np.diff(list(times.values())))), "peak_memory_mb": peak}


def scoring(name: str, steps: int, rounds: int, seed: int, root: str) -> dict[str, float]:
    from experiments.clock import peak_memory_mb, start_peak_again

    experiment, data = opened(name, steps, seed, root)
    start_peak_again()
    requests = data.test.requests
    experiment.reranker.load(Path(root) / "model", requests)
    experiment.reranker.score(requests)  # what is only done once
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        experiment.reranker.score(requests)
        seconds.append(time.perf_counter() - started)
    return {"rate": len(requests) / float(np.median(seconds)), "peak_memory_mb": peak_memory_mb()}


if __name__ == "__main__":
    what, name, asked = sys.argv[1:]
    print(json.dumps({"training": training, "scoring": scoring}[what](name, **json.loads(asked))))
