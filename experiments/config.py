"""From Hydra's config to built objects, checked as a whole before any data is read; see `experiments.building`."""

from __future__ import annotations

import json
import re
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from data.candidates import Candidates
from data.dataset import Dataset, sha256
from data.errors import UserError, check_seed, one_of
from data.files import file_sha256_once
from data.sources.source import Source
from experiments.building import build, checked, unknown_key
from experiments.clock import Clock
from experiments.grouping import NO_NUMBER
from experiments.launch import ROOT
from experiments.metrics import NAMES, key
from experiments.tracking import Tracker
from rerankers.base import Reranker, TrainerConfig
from rerankers.processes import n_processes

UNUSED = {
    "full": ("size", "presentation", "negatives"),
    "file": ("size", "negatives", "retriever", "path", "validation_path"),
}
VERSION = 4  # raised when the same config would give other numbers


@dataclass
class Protocol:
    split: Any  # LeaveOneOut, Temporal, QueryFolds or QueryFiles
    metrics: list[str] = field(default_factory=lambda: ["recall", "ndcg", "mrr", "hit"])
    ks: list[int] = field(default_factory=lambda: [1, 5, 10, 20])
    primary: str = "recall_at_10"  # of model choice and of the sentence under the table
    filter_seen: bool = True
    refit_on_validation: bool = False
    max_requests: int | None = None
    max_validation_requests: int | None = None
    fusion: Any = "none"  # or validation, or the reranker's weight in [0, 1]; see `experiments.fusion`
    folds: int = 5  # this and what follows: of query splits
    fold: int | None = None
    dev_ratio: float = 0.2
    group_by: str = "none"

    def __post_init__(self) -> None:
        if unknown := [name for name in self.metrics if name not in NAMES]:
            raise UserError(f"protocol.metrics has {unknown[0]}, which does not exist; choose of {', '.join(NAMES)}")
        if not self.metrics or not self.ks or min(self.ks) < 1:
            raise UserError(f"protocol.metrics and protocol.ks={self.ks} must not be empty, and every k at least 1")
        if self.primary not in (known := [key(name, k) for name in self.metrics for k in self.ks]):
            raise UserError(f"protocol.primary={self.primary} is not computed; choose of {', '.join(known)}")
        for name in ("max_requests", "max_validation_requests"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"protocol.{name}={value} is out of range; it must be at least 1 or null")
        given = isinstance(self.fusion, int | float) and not isinstance(self.fusion, bool) and 0 <= self.fusion <= 1
        if not given and self.fusion not in ("none", "validation"):
            allowed = "choose none, validation or a number in [0, 1]"
            raise UserError(f"protocol.fusion={self.fusion} is not allowed; {allowed}")


@dataclass
class Paths:
    root: str = "."
    data: str = "datasets"
    cache: str = "cache"


@dataclass
class Experiment:
    """Everything a run is made of, built and checked."""

    source: Source
    protocol: Protocol
    candidates: Candidates
    reranker: Reranker
    tracker: Tracker
    seed: int
    force: bool
    check: bool  # train.py's alone, as is the next
    diagnose: str
    root: Path
    data: Path
    cache: Path
    resolved: dict[str, Any]  # the config as plain values
    clock: Clock = field(default_factory=Clock)

    @property
    def trained(self) -> bool:
        """Whether weights change in this run; a baseline has none, and a zero-shot model keeps them."""
        return self.reranker.trains and self.reranker.trainer.num_train_epochs > 0

    def candidates_identity(self, dataset: Dataset) -> str:
        """Hash of all that the candidate file depends on."""
        protocol = self.resolved["protocol"]
        names = ("split", "filter_seen", "refit_on_validation", "max_requests", "max_validation_requests")
        depends = [VERSION, {name: protocol[name] for name in names}, self._drawn]
        read = dataset.sha256 if self.candidates.retriever.reads_text else dataset.interactions_sha256
        return sha256(read, canonical(depends))[:16]

    def identity(self, dataset: Dataset) -> str:
        """Hash of all that can change a number: the config less paths, tracking and what train.py is to do, with the
        data's hash."""
        names = ("protocol", "reranker", "seed", "processes")
        config = {name: self.resolved[name] for name in names if name in self.resolved} | {"candidates": self._drawn}
        if self.reranker.mines_first_stage and self.candidates.mode == "file":  # where it ranks nothing
            config["mined"] = self.resolved["candidates"]["retriever"]
        if self.reranker.trains:
            config["trainer"] = {k: v for k, v in self.resolved["trainer"].items() if k not in NO_NUMBER}
        files = [path for path in (*self.candidates.files, *self.reranker.files) if path.is_file()]
        contents = [path.suffix + file_sha256_once(path) for path in files]
        folders = self.reranker.folders
        places = [path for given in folders for path in (sorted(given.iterdir()) if given.is_dir() else [given])]
        weights = [path for path in places if path.is_file()]
        contents += [path.name + file_sha256_once(path) for path in weights]
        left_out = {"path", *map(str, folders)}
        config["reranker"] = {k: v for k, v in config["reranker"].items() if not {k, str(v).rstrip("/")} & left_out}
        return sha256(dataset.sha256, *contents, canonical([VERSION, config]))[:10]

    @property
    def _drawn(self) -> dict[str, Any]:
        """The candidates' settings that the mode reads."""
        unused = UNUSED.get(self.candidates.mode, ())
        return {name: value for name, value in self.resolved["candidates"].items() if name not in unused}

    def name(self, dataset: Dataset) -> str:
        return f"{self.source.name}-{self.resolved['reranker']['name']}-{self.identity(dataset)}"


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def configure(cfg: DictConfig) -> Experiment:
    """Builds every part of the experiment; the first thing that does not fit is a UserError."""
    resolved = typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    resolved.pop("run", None)  # evaluate.py's
    columns = resolved.pop("table", {}).get("columns", [])  # of a sweep's table
    if not isinstance(columns, list):
        raise UserError(f"table.columns={columns} is not a list of config keys; give table.columns=[candidates.mode]")
    parts = ("dataset", "protocol", "candidates", "reranker", "trainer", "tracking", "paths")
    known = [*parts, *(f.name for f in fields(_Top))]
    for name in resolved:
        if name not in known:
            raise UserError(unknown_key("", name, known))
    paths = checked(Paths, resolved["paths"], "paths")
    places = {"checkpoints": Path(), "cache": Path(paths.cache).expanduser().resolve()}
    split = build(resolved["protocol"]["split"], "protocol.split")
    protocol = checked(Protocol, resolved["protocol"], "protocol", split=split)
    if isinstance(name := resolved["candidates"]["retriever"], str):  # candidates.retriever=markov
        resolved["candidates"]["retriever"] = preset("candidates/retriever", name)
    retriever = build(resolved["candidates"]["retriever"], "candidates.retriever")
    trainer = checked(TrainerConfig, resolved["trainer"], "trainer")
    trainer.metric_for_best_model = trainer.metric_for_best_model or protocol.primary
    computed = [key(name, k) for name in protocol.metrics for k in protocol.ks]
    if trainer.metric_for_best_model not in computed:
        raise UserError(
            f"trainer.metric_for_best_model={trainer.metric_for_best_model} is not computed; choose of "
            f"{', '.join(computed)}"
        )
    if resolved["diagnose"] is False:  # `off` in a YAML file
        resolved["diagnose"] = "off"
    top = checked(_Top, run := {f.name: resolved[f.name] for f in fields(_Top)}, "")
    candidates = checked(Candidates, resolved["candidates"], "candidates", retriever=retriever)
    name, _, k = protocol.primary.partition("_at_")
    if candidates.mode in ("sampled", "retrieved") and name in ("recall", "hit") and int(k) >= candidates.size:
        raise UserError(
            f"protocol.primary={protocol.primary} is the same for every order of candidates.size={candidates.size}; "
            f"choose a smaller k or protocol.primary=ndcg_at_{k}"
        )
    for where in ("dataset", "reranker"):  # part of a folder's name
        if not re.fullmatch(r"[\w.-]+", label := str(resolved[where].get("name", ""))):
            raise UserError(f"{where}.name={label} is not allowed; use letters, digits, '_', '-' and '.'")
    return Experiment(
        source=build(resolved["dataset"], "dataset"),
        protocol=protocol,
        candidates=candidates,
        reranker=build(resolved["reranker"], "reranker", **{"trainer": trainer, "seed": top.seed, **places}),
        tracker=build(resolved["tracking"], "tracking"),
        seed=top.seed,
        force=top.force,
        check=top.check,
        diagnose=top.diagnose,
        root=Path(paths.root).expanduser().resolve(),
        data=Path(paths.data).expanduser().resolve(),
        cache=places["cache"],
        resolved=resolved | run | ({"processes": n} if (n := n_processes()) > 1 else {}),
    )


@dataclass
class _Top:
    seed: int = 0
    force: bool = False
    check: bool = False
    diagnose: str = "warn"

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        one_of("diagnose", self.diagnose, ("off", "warn", "strict"))


def preset(group: str, name: str) -> dict[str, Any]:
    file = ROOT / "conf" / group / f"{name}.yaml"
    if not file.is_file():
        options = sorted(path.stem for path in file.parent.glob("*.yaml"))
        raise UserError(f"{group.replace('/', '.')}={name} does not exist; choose {', '.join(options)}")
    return typing.cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(file)))
