"""Trains one reranker and evaluates it beside chance, popularity and its first stage.

python train.py                                             # bert4rec on the demo data
python train.py dataset=ml_100k reranker=bert4rec candidates=full
python train.py -m reranker=popularity,bert4rec seed=0,1,2  # a sweep
python train.py protocol=query_folds dataset=proptit        # each fold a run, then all queries in one table
python train.py check=true                                  # seconds of checks before hours are spent
python train.py --cfg job                                   # every key and its value
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from experiments.launch import job, launch, sweeping

if TYPE_CHECKING:
    from data.dataset import Dataset
    from experiments.config import Experiment


def train(cfg: DictConfig) -> dict[str, float]:
    """From config to table; returns the run's metrics, or those of all folds pooled."""
    from experiments import folds, processes, stages
    from experiments.config import configure
    from experiments.findings import show_diagnosis
    from experiments.preflight import preflight
    from experiments.summary import show
    from experiments.sweeps import show_job

    experiment = configure(cfg)  # everything is checked before any data is read
    processes.follow(experiment)
    dataset = stages.load(experiment)
    several = folds.several(experiment)
    if experiment.check:
        one = folds.fold_of(cfg, 0) if several else experiment
        preflight(one, stages.open_data(one, dataset))
        return {}
    folder = folds.pooled(cfg, experiment, dataset, run_one) if several else run_one(experiment, dataset)
    if not processes.is_first():
        return {}
    if sweeping():
        return show_job(folder, experiment.diagnose)
    metrics = show(folder)
    show_diagnosis(folder, experiment.diagnose)
    return metrics


def run_one(experiment: Experiment, dataset: Dataset) -> Path:
    """One run, unless it is finished; returns its folder."""
    from experiments import processes, stages
    from experiments.conclude import conclude
    from experiments.sync import mirror_the_rest

    run = processes.run_of(experiment.root / "runs" / experiment.name(dataset))
    with run.alone(experiment.root):
        if processes.agreed(run.complete and not experiment.force):
            other = "" if run.same_code else ", made by another version of the code"
            print(f"{run.folder.name} is finished already{other} (force=true redoes it).")
            mirror_the_rest(run.folder, experiment.tracker)
        else:
            data = stages.open_data(experiment, dataset)  # split, candidates, evaluators
            diagnosis = stages.diagnosis_of(experiment, data)
            with run.start(experiment.resolved, experiment.force, experiment.tracker):
                reranker = stages.fit(experiment, run, data, diagnosis)
                conclude(experiment, run.folder, reranker, data, run.training, [], diagnosis)
    processes.wait()
    return run.folder


if __name__ == "__main__":
    launch(hydra.main(version_base="1.3", config_path="conf", config_name="train")(job(train)))
