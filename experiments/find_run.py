"""Which finished run is meant: a folder, its name, an MLflow run id, or the newest of a reranker and a dataset."""

from __future__ import annotations

import re
from pathlib import Path

from data.errors import UserError
from data.files import read_json, read_yaml

KEY = re.compile(r"[+~]{0,2}\w[\w/-]*(\.[\w-]+)*")  # of an override; none of this project names a package with @


def find_run(root: Path, name: str, key: str = "run", with_model: bool = True) -> Path:
    """A run folder by path, by its name in `<root>/runs` or by MLflow run id.

    It must have a model, unless `with_model` is off: then a pool of folds and an evaluation of a run are found too.
    """
    for folder in (Path(name).expanduser(), root / "runs" / name):
        if (folder / "manifest.json").exists():
            return checked(folder.resolve(), name, with_model)
        if (folder / "config.yaml").exists():
            raise UserError(f"{key}={name} is not finished; repeat its train.py command to continue it")
    evaluations = [] if with_model else sorted(root.glob("runs/*/evaluations/*"))
    for folder in (*finished(root), *(path for path in evaluations if (path / "manifest.json").exists())):
        mirror = folder / "mlflow.json"
        if mirror.exists() and read_json(mirror).get("run_id") == name:
            return checked(folder, name, with_model)
    raise UserError(f"{key}={name} is no run folder, no name in {root / 'runs'} and no MLflow run id of one")


def newest(root: Path, reranker: str | None = None, dataset: str | None = None) -> Path:
    """`run=latest`: the newest finished run that has a model, of the reranker, and on the dataset if there is one."""
    runs = [folder for folder in finished(root) if not folds_of(folder)]
    of_reranker = [folder for folder in runs if reranker is None or reranker in options(folder, "reranker")]
    on_dataset = [folder for folder in of_reranker if dataset is None or dataset in options(folder, "dataset")]
    if on_dataset:
        words = stored_words(on_dataset[-1])
        if fold := [word.partition("=")[2] for word in words if word.startswith("protocol.fold=")]:
            print(f"the newest run, {on_dataset[-1].name}, is of fold {fold[-1]} alone")
        return on_dataset[-1]
    if of_reranker:
        folder = of_reranker[-1]
        other = read_json(folder / "manifest.json")["dataset"]
        print(f"no finished run on dataset={dataset}; the newest, {folder.name}, was trained on {other}")
        return folder
    if reranker is None:
        raise UserError(f"run=latest: {root / 'runs'} has no finished run; train one with python train.py")
    command = f"python train.py reranker={reranker} dataset={dataset or '...'}"
    raise UserError(
        f"there is no finished run of reranker={reranker}; train one with `{command}`, or rank with the pretrained "
        "model as it is: the same with `trainer.num_train_epochs=0`"
    )


def finished(root: Path) -> list[Path]:
    """The folders of all finished runs, the newest last."""
    manifests = sorted(root.glob("runs/*/manifest.json"), key=lambda path: path.stat().st_mtime)
    return [path.parent for path in manifests]


def options(folder: Path, group: str) -> set[str]:
    """What a run's reranker or dataset is called: the option that was chosen, and its name in tables."""
    words = stored_words(folder)
    chosen = [word.partition("=")[2] for word in words if word.startswith(f"{group}=")]
    return {read_json(folder / "manifest.json")[group], *chosen[-1:]}


def stored_words(folder: Path) -> list[str]:
    """The overrides of a run, which its folder may have from anywhere. Words that would set Hydra itself, whose
    callbacks and launchers are any code, or read a config from outside `conf` are refused."""
    words = overrides_of(folder)
    for word in words:
        key, _, value = word.partition("=")
        outside = "." not in key and re.search(r"\.\.|(?<!\w)/", value)
        if not KEY.fullmatch(key) or "hydra" in key or outside:
            path = folder / "overrides.yaml"
            raise UserError(f"{path} holds {word[:80]!r}, which no run of this project stores; name another run")
    return words


def overrides_of(folder: Path) -> list[str]:
    words = read_yaml(folder / "overrides.yaml")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{folder / 'overrides.yaml'} is no list of overrides; name another run")
    return words


def folds_of(folder: Path) -> list[str]:
    """The runs that a pool of folds is made of; nothing of an ordinary run."""
    return list(read_json(folder / "manifest.json").get("folds", []))


def checked(folder: Path, name: str, with_model: bool) -> Path:
    if with_model and (folds := folds_of(folder)):
        others = " or run=".join(folds)
        raise UserError(f"run={name} pools {len(folds)} folds and has no model of its own; give run={others}")
    return folder
