"""Evaluates a trained run again, under another protocol, other candidates or other data.

    python evaluate.py run=latest protocol.filter_seen=false
    python evaluate.py run=runs/ml_100k-bert4rec-0123456789 candidates=sampled

The run's own overrides come first, then the new ones; the result goes to <run>/evaluations/<hash>/.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from data.errors import UserError
from experiments.launch import job, launch
from experiments.recompose import with_overrides_of_the_run

if TYPE_CHECKING:
    from data.dataset import Requests


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Loads the run's model, ranks the test requests of this config, writes and shows the result."""
    from experiments import processes, stages
    from experiments.conclude import conclude
    from experiments.config import configure
    from experiments.diagnostics import Undiagnosed
    from experiments.summary import show
    from experiments.sync import mirror_the_rest

    run = processes.run_of(Path(cfg.run))
    experiment = configure(cfg)
    processes.follow(experiment)
    dataset = stages.load(experiment)
    evaluation = processes.run_of(run.folder / "evaluations" / experiment.identity(dataset))
    with evaluation.alone(experiment.root):
        if processes.agreed(evaluation.complete and not experiment.force):
            mirror_the_rest(evaluation.folder, experiment.tracker)
        else:
            record = run.training
            notes = compare(record, stages.trained_on(experiment, dataset))
            data = stages.open_data(experiment, dataset)
            reranker = experiment.reranker
            unseen(record.get("queries", []), data.test.requests)
            reranker.check(data.test.requests)
            reranker.load(run.folder / "model", data.test.requests)
            record |= stages.validated_again(experiment, reranker, data, record)
            with evaluation.start(experiment.resolved, experiment.force, experiment.tracker):
                conclude(experiment, evaluation.folder, reranker, data, record, notes, Undiagnosed())
    return show(evaluation.folder) if processes.is_first() else {}


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


def unseen(trained: list[str], requests: Requests) -> None:
    """Refuses test queries that the model was trained on, whatever file or fold they come from."""
    from experiments.stages import query_hashes

    if n := len(set(trained) & set(query_hashes(requests.queries))):
        raise UserError(
            f"{n} of the {len(requests)} test queries were trained on by this run; leave them out, or train again "
            "with train.py on this data"
        )


def main() -> None:
    sys.argv[1:] = with_overrides_of_the_run(sys.argv[1:])
    hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")(job(evaluate))()


if __name__ == "__main__":
    launch(main)
