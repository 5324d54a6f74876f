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


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Loads the run's model, ranks the test requests of this config, writes and shows the result."""
    from experiments import stages
    from experiments.config import configure
    from experiments.runs import Run
    from experiments.summary import show

    run = Run(Path(cfg.run))
    experiment = configure(cfg)
    dataset = stages.load(experiment)
    folder = run.folder / "evaluations" / experiment.identity(dataset)
    if not (folder / "manifest.json").exists() or experiment.force:
        data = stages.open_data(experiment, dataset)
        folder.mkdir(parents=True, exist_ok=True)
        experiment.reranker.load(run.folder / "model", data.test.requests)
        _, seconds = stages.training_record(run)
        valid = data.validation(experiment.reranker.score, description="validating").means
        valid = {f"valid/{name}": value for name, value in valid.items()}
        stages.report(experiment, folder, experiment.reranker, data, valid, seconds)
    return show(folder)


def with_overrides_of_the_run(arguments: list[str]) -> list[str]:
    """`run=X a=1` becomes the stored overrides of run X, less those given again, then `run=<folder> a=1`."""
    from experiments.runs import find_run

    values = dict(word.partition("=")[::2] for word in arguments if "=" in word and not word.startswith("-"))
    if "run" not in values or {"--help", "-h"} & set(arguments):
        return arguments
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("evaluate.py takes one run at a time; call it once for each")
    root = Path(values.get("paths.root", ROOT)).expanduser().resolve()
    folder = find_run(root, values["run"])
    stored = [str(word) for word in OmegaConf.load(folder / "overrides.yaml")]
    kept = [word for word in stored if word.partition("=")[0].lstrip("+~") not in values]
    return [*kept, *(word for word in arguments if not word.startswith("run=")), f"run={folder}"]


def main() -> None:
    sys.argv[1:] = with_overrides_of_the_run(sys.argv[1:])
    hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")(job(evaluate))()


if __name__ == "__main__":
    launch(main)
