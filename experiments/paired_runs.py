"""The two sides of a comparison: finished runs of the same requests and candidates.

A side is a run, a pool of folds, an evaluation of a run, or several seeds of one method, whose metrics are averaged
request by request. What does not compare is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, ListConfig, OmegaConf

from data.errors import UserError
from data.files import read_json
from experiments.collect import Finished, name_of, named, without_folds
from experiments.find_run import find_run

PATTERN = {"*", "?", "["}
NO_METHOD = ("seed", "paths", "tracking", "force", "check", "diagnose")  # keys that seeds of one method may differ in


@dataclass(frozen=True)
class Side:
    letter: str  # a or b
    folders: list[Path]
    manifests: list[dict[str, Any]]
    tables: list[pd.DataFrame]  # per_request.parquet of each run by request id, in the order of the first run's

    @property
    def reranker(self) -> str:
        return str(self.manifests[0]["reranker"])

    @property
    def name(self) -> str:
        """Of the run, or of the method and its seeds."""
        if len(self.folders) == 1:
            return short(self.folders[0])
        seeds = ", ".join(str(manifest["seed"]) for manifest in self.manifests)
        return f"{self.manifests[0]['dataset']}-{self.reranker}, seeds {seeds}"

    @property
    def labels(self) -> list[str]:
        """Of all its runs, with how many have it where not all do."""
        labels = [label for manifest in self.manifests for label in dict.fromkeys(manifest["labels"])]
        n = len(self.folders)
        return [
            label if labels.count(label) == n else f"{label} ({labels.count(label)} of {n} runs)"
            for label in dict.fromkeys(labels)
        ]

    def values(self, column: str) -> np.ndarray:
        """[R] float64, the mean over seeds: the request is the unit of a test, not the (request, seed) pair."""
        return np.mean([table[column].to_numpy(dtype=np.float64) for table in self.tables], axis=0)


def short(folder: Path) -> str:
    return "/".join(folder.parts[-3:]) if folder.parent.name == "evaluations" else folder.name


def read_sides(root: Path, asked_a: Any, asked_b: Any) -> tuple[Side, Side]:
    """`asked`: a run's path, name or MLflow id, a pattern of paths or names, or a list of such; a UserError where the
    runs do not compare."""
    names = {letter: several(letter, asked) for letter, asked in (("a", asked_a), ("b", asked_b))}
    found = {letter: [folder for name in own for folder in meant(root, name, letter)] for letter, own in names.items()}
    first = found["a"][0]
    sides = []
    for letter, folders in found.items():
        if len(set(folders)) < len(folders):
            raise UserError(f"{letter}= names a run twice; give each seed once")
        check_one_method(letter, folders)
        for folder in folders:
            check_comparable(first, folder)
        sides.append(Side(letter, folders, list(map(manifest_of, folders)), [aligned(first, one) for one in folders]))
    return sides[0], sides[1]


def several(letter: str, asked: Any) -> list[str]:
    names = [str(name) for name in asked] if isinstance(asked, ListConfig | list) else [str(asked)]
    if not names:
        raise UserError(f"{letter}=[] names no run")
    return names


def meant(root: Path, name: str, letter: str) -> list[Path]:
    """The run, or all finished runs of a pattern, as in `runs=` of tables; folds stand back behind their pool."""
    if not PATTERN & {*name} or any(path.exists() for path in (Path(name).expanduser(), root / "runs" / name)):
        return [find_run(root, name, letter, False)]
    try:
        folders = named(root, [name])
    except UserError as error:
        raise UserError(str(error).replace("runs=", f"{letter}=", 1)) from None
    return [run.folder for run in without_folds([Finished(folder, name_of(folder)) for folder in folders])]


def manifest_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / "manifest.json")


def check_comparable(first: Path, other: Path) -> None:
    """Refuses other data, another split and other candidates: what was asked must be the same."""
    one, two = manifest_of(first), manifest_of(other)
    who = f"{short(first)} and {short(other)}"
    if one["interactions_sha256"] != two["interactions_sha256"]:
        names = [manifest["dataset"] for manifest in (one, two)]
        what = "two versions of " + names[0] if names[0] == names[1] else f"other data ({names[0]}, {names[1]})"
        raise UserError(f"{who} were tested on {what}; repeat one with the other's dataset")
    if one["protocol"] != two["protocol"]:
        changed = [text(manifest["protocol"], one["protocol"], two["protocol"]) for manifest in (one, two)]
        raise UserError(f"{who} were tested on another split ({changed[0]}; {changed[1]}); repeat one like the other")
    if (one["candidates_sha256"], one["candidates"]) != (two["candidates_sha256"], two["candidates"]):
        said = [f"{manifest['candidates']}, first stage {manifest['retriever']}" for manifest in (one, two)]
        details = f" ({said[0]}; {said[1]})" if said[0] != said[1] else ""
        raise UserError(f"{who} did not rank the same candidates{details}; repeat one with the other's config")


def text(split: dict[str, Any], *both: dict[str, Any]) -> str:
    """What is particular to one of two splits."""
    own = {key: value for key, value in split.items() if any(other.get(key, "") != value for other in both)}
    return ", ".join(str(v).rpartition(".")[2] if key == "_target_" else f"{key}={v}" for key, v in own.items())


def check_one_method(letter: str, folders: list[Path]) -> None:
    """Averages over anything but seeds would hide what they are of."""
    first, *others = (method_of(folder) for folder in folders)
    for folder, other in zip(folders[1:], others, strict=True):
        if changed := [key for key in {**first, **other} if first.get(key) != other.get(key)]:
            key = changed[0]
            raise UserError(
                f"{letter}= must name seeds of one method, and {key} is {first.get(key)} in {short(folders[0])} and "
                f"{other.get(key)} in {short(folder)}"
            )


def method_of(folder: Path) -> dict[str, Any]:
    """The run's config, flat, less what does not make another method."""
    config = OmegaConf.load(folder / "config.yaml")
    assert isinstance(config, DictConfig)
    flat = pd.json_normalize(OmegaConf.to_container(config)).iloc[0]  # type: ignore[arg-type]
    values = {str(key): str(value) for key, value in flat.items()}
    return {k: v for k, v in values.items() if k.partition(".")[0] not in NO_METHOD and not k.endswith("path")}


def aligned(first: Path, other: Path) -> pd.DataFrame:
    """per_request.parquet of a run by request id, in the order of the first run's; refused where they differ."""
    order, table = (pd.read_parquet(folder / "per_request.parquet").set_index("request") for folder in (first, other))
    missing, new = order.index.difference(table.index), table.index.difference(order.index)
    if len(missing) or len(new) or len(order) != len(table):
        example = [*missing, *new, "a request that is listed twice"][0]
        raise UserError(
            f"{short(first)} and {short(other)} were not asked the same requests: {len(missing):,} are in the first "
            f"alone and {len(new):,} in the second, such as {example}"
        )
    return table.loc[order.index]
