"""Trains one reranker and evaluates it beside chance, popularity and its first stage.

python train.py                                             # bert4rec on the demo data
python train.py dataset=ml_100k reranker=bert4rec candidates=full
python train.py -m reranker=popularity,bert4rec seed=0,1,2  # a sweep
python train.py check=true                                  # seconds of checks before hours are spent
python train.py --cfg job                                   # every key and its value
"""

import hydra
from omegaconf import DictConfig

from experiments.launch import job, launch


def train(cfg: DictConfig) -> dict[str, float]:
    """One run, from config to table; returns its metrics."""
    from experiments import stages
    from experiments.config import configure
    from experiments.findings import show_diagnosis
    from experiments.preflight import preflight
    from experiments.report import report
    from experiments.runs import Run
    from experiments.summary import show

    experiment = configure(cfg)  # everything is checked before any data is read
    dataset = stages.load(experiment)
    if experiment.check:
        preflight(experiment, stages.open_data(experiment, dataset))
        return {}
    run = Run(experiment.root / "runs" / experiment.name(dataset))
    with run.lock(experiment.root):
        if run.complete and not experiment.force:
            other = "" if run.same_code else ", made by another version of the code"
            print(f"{run.folder.name} is finished already{other}; here is its table again (force=true redoes it).")
        else:
            data = stages.open_data(experiment, dataset)  # split, candidates, evaluators
            diagnosis = stages.diagnosis_of(experiment, data)
            with run.start(experiment.resolved, experiment.force, experiment.tracker):
                reranker = stages.fit(experiment, run, data, diagnosis)
                report(experiment, run.folder, reranker, data, run.training, [], diagnosis)
    metrics = show(run.folder)
    show_diagnosis(run.folder, experiment.diagnose)
    return metrics


if __name__ == "__main__":
    launch(hydra.main(version_base="1.3", config_path="conf", config_name="train")(job(train)))
