"""A search by another sweeper than Hydra's grid, Optuna's say: python train.py experiment=optuna_search

Its jobs are not known before, so there is no plan: a parent run in MLflow, and a record that grows with each trial.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from data.files import read_json, write_json
from experiments import launch, launchers
from experiments.launch import JobFailed
from experiments.runs import Run
from experiments.sweep_record import content_of, record_path, tags_of
from experiments.sweeps import after_sweep, mirror_of
from experiments.tracking import RECORD


class Search(Callback):
    """In `hydra.callbacks`; of a grid it does nothing."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.sweeper._target_.endswith(".BasicSweeper") or config.get("check"):
            return
        params = config.hydra.sweeper.get("params") or {}
        words = [*config.hydra.overrides.task, *(f"{key}={value}" for key, value in params.items())]
        experiment = config.hydra.runtime.choices.get("experiment")
        self.root = Path(config.paths.root).expanduser().resolve()
        self.record = record_path(self.root, experiment, [["search", *words]])
        before = read_json(self.record) if self.record.exists() else {}
        content = content_of(config, self.record.stem, before.get("jobs", []))
        self.mirror = mirror_of(config, self.record)
        if self.mirror:
            tags = tags_of(content, [config.dataset.name])
            content["mlflow"] = self.mirror.open(before.get("mlflow"), tags)
        write_json(self.record, content)
        os.environ[RECORD] = str(self.record)
        launchers.share_gpus(config.hydra.launcher._target_.rpartition(".")[2])
        launch.sweeps.append(self)

    def end(self) -> None:
        """Also while an exception passes, Ctrl-C say."""
        runs = [Run(self.root / "runs" / job["run"]) for job in read_json(self.record)["jobs"]]
        self.failed = not any(run.complete for run in runs)
        if self.mirror:
            self.mirror.close(not self.failed and sys.exc_info()[0] is None)
        after_sweep(self.record)

    def raise_failed(self) -> None:
        if self.failed:
            raise JobFailed("no trial of the search has finished; see above", 2)
