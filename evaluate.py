"""Evaluates a trained run again, under another protocol, other candidates or other data.

    python evaluate.py run=latest protocol.filter_seen=false
    python evaluate.py run=runs/ml_100k-bert4rec-0123456789 candidates=sampled

The run's own overrides come first, then the new ones; the result goes to <run>/evaluations/<hash>/.
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from data.errors import UserError
from experiments.launch import ROOT, job, launch

FIXED = ("reranker", "reranker.name", "reranker.path", "tuned", "trainer", "seed", "experiment")  # by the training


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Loads the run's model, ranks the test requests of this config, writes and shows the result."""
    from experiments import stages
    from experiments.config import configure
    from experiments.diagnostics import Undiagnosed
    from experiments.runs import Run
    from experiments.summary import show

    run = Run(Path(cfg.run))
    experiment = configure(cfg)
    dataset = stages.load(experiment)
    evaluation = Run(run.folder / "evaluations" / experiment.identity(dataset))
    with evaluation.lock(experiment.root):
        if not evaluation.complete or experiment.force:
            record = run.training
            notes = compare(record, stages.trained_on(experiment, dataset))
            data = stages.open_data(experiment, dataset)
            reranker = experiment.reranker
            reranker.check(data.test.requests)
            reranker.load(run.folder / "model", data.test.requests)
            if not record["refit_on_validation"]:  # a model refit on validation knows it; what was chosen by stays
                record |= {"valid": stages.validated(reranker, data)}
            with evaluation.start(experiment.resolved, experiment.force, experiment.tracker):
                stages.report(experiment, evaluation.folder, reranker, data, record, notes, Undiagnosed())
    return show(evaluation.folder)


def compare(trained: dict[str, object], asked: dict[str, object]) -> list[str]:
    """Refuses what would test a model on its own training data; returns a label where that cannot be ruled out."""
    if trained["interactions_sha256"] != asked["interactions_sha256"]:
        return ["the model was trained on other data than it is tested on"]
    for key, what in (("split", "protocol"), ("refit_on_validation", "protocol.refit_on_validation")):
        if trained[key] != asked[key]:
            raise UserError(
                f"the run was trained with {what}={trained[key]}, so testing it with {asked[key]} would test it on "
                "what it has seen, or compare it with rows that have seen more; train again with train.py"
            )
    return []


def with_overrides_of_the_run(arguments: list[str]) -> list[str]:
    """`run=X a=1` becomes the stored overrides of run X, less those given again, then `run=<folder> a=1`."""
    from experiments.runs import find_run

    values = dict(word.partition("=")[::2] for word in arguments if "=" in word and not word.startswith("-"))
    if "run" not in values or {"--help", "-h"} & set(arguments):
        return arguments
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("evaluate.py takes one run at a time; call it once for each")
    for key in values:
        if key in FIXED or key.startswith("trainer."):
            raise UserError(
                f"{key}= belongs to the training of the run and cannot change now; train again with train.py"
            )
    root = Path(values.get("paths.root", ROOT)).expanduser().resolve()
    folder = find_run(root, values["run"])
    stored = [str(word) for word in OmegaConf.load(folder / "overrides.yaml")]
    new_groups = tuple(f"{key}." for key in values if "." not in key)  # dataset=other drops the old dataset.path=
    kept = [
        word
        for word in stored
        if (key := word.partition("=")[0].lstrip("+~")) not in values and not key.startswith(new_groups)
    ]
    return ["hydra.mode=RUN", *kept, *(word for word in arguments if not word.startswith("run=")), f"run={folder}"]


def main() -> None:
    sys.argv[1:] = with_overrides_of_the_run(sys.argv[1:])
    hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")(job(evaluate))()


if __name__ == "__main__":
    launch(main)
