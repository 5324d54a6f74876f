"""The config of a finished run again, for the commands that look at one: its stored overrides, then the new ones.

Light on purpose (Hydra alone), so that `--help` answers in a second.
"""

from __future__ import annotations

from pathlib import Path

from data.errors import UserError
from experiments.launch import ROOT

ASKED = tuple(f"reranker.{key}" for key in "permutations calibration scorer template beams".split())  # not trained
MODELS = ("model", "image_encoder")  # of a reranker; the environment may have named them when it was trained
FIXED = ("reranker", "reranker.name", "reranker.path", "tuned", "trainer", "seed", "experiment")  # by the training


def with_overrides_of_the_run(arguments: list[str]) -> list[str]:
    """`run=X a=1` becomes the stored overrides of run X, less those given again, then `run=<folder> a=1`."""
    from data.files import read_yaml
    from experiments.find_run import find_run, newest, options, stored_words

    values = dict(word.partition("=")[::2] for word in arguments if "=" in word and not word.startswith("-"))
    if "run" not in values or {"--help", "-h"} & set(arguments):
        return arguments
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("this command takes one run at a time; call it once for each")
    root = Path(values.get("paths.root", ROOT)).expanduser().resolve()
    asked = {group: values[group] for group in ("reranker", "dataset") if group in values}
    folder = newest(root, **asked) if values["run"] == "latest" else find_run(root, values["run"])
    of_the_run = [group for group, option in asked.items() if option in options(folder, group)]
    for group in of_the_run:  # it only says which run; the run's own settings of it stay
        del values[group]
    for key in values:
        if key in FIXED or key.startswith("trainer.") or (key.startswith("reranker.") and key not in ASKED):
            raise UserError(
                f"{key}= belongs to the training of the run and cannot change now; train again with train.py"
            )
    stored = stored_words(folder)
    new_groups = tuple(f"{key}." for key in values if "." not in key)  # dataset=other drops the old dataset.path=
    kept = [
        word
        for word in stored
        if (key := word.partition("=")[0].lstrip("+~")) not in values and not key.startswith(new_groups)
    ]
    given = {word.partition("=")[0].lstrip("+~") for word in kept}
    trained = read_yaml(folder / "config.yaml")["reranker"]
    for key in MODELS:
        if isinstance(value := trained.get(key), str) and f"reranker.{key}" not in given:
            kept.append("reranker.{}='{}'".format(key, value.replace("'", "\\'")))
    dropped = tuple(f"{group}=" for group in ("run", *of_the_run))
    return ["hydra.mode=RUN", *kept, *(word for word in arguments if not word.startswith(dropped)), f"run={folder}"]
