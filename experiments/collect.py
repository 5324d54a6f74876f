"""Finished runs for tables, figures and reports: of a sweep, an experiment or named folders, or MLflow's copies.

A sweep's record, `<root>/sweeps/<name>.json`, lists its jobs and the run folder of each, so what is absent is known.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import UserError
from data.files import read_json, read_yaml
from experiments.curves import read_curves
from experiments.find_run import overrides_of
from experiments.launch import ROOT
from experiments.run_tags import flatten
from experiments.tracking import MLflowTracker

if TYPE_CHECKING:
    import pandas as pd

LATEST = "latest"


@dataclass(frozen=True)
class Finished:
    """One finished run; its files are read when they are asked for."""

    folder: Path  # the run's, or of MLflow's artifacts
    name: str

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.folder / "manifest.json")

    @cached_property
    def metrics(self) -> dict[str, float]:
        return read_json(self.folder / "metrics.json")

    @cached_property
    def cost(self) -> dict[str, Any]:
        return read_json(self.folder / "cost.json")

    @cached_property
    def environment(self) -> dict[str, Any]:
        return read_json(self.folder / "environment.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """Flat: `trainer.learning_rate` -> value."""
        return flatten(read_yaml(self.folder / "config.yaml"))

    @cached_property
    def overrides(self) -> list[str]:
        return overrides_of(self.folder) if (self.folder / "overrides.yaml").exists() else []

    @cached_property
    def per_request(self) -> pd.DataFrame:
        """A row a test request: `request`, what is known of it, its metrics, and `<row>/<metric>` of other rows."""
        import pandas as pd

        return pd.read_parquet(self.folder / "per_request.parquet")

    def columns(self, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """`request` [R] and some float64 columns [R, M] of the same file, without reading the others."""
        import pyarrow.parquet as pq

        table = pq.read_table(self.folder / "per_request.parquet", columns=["request", *names], use_threads=False)
        values = [table[name].to_numpy().astype(np.float64) for name in names]
        return table["request"].to_numpy(), np.stack(values, axis=1)

    @cached_property
    def curves(self) -> list[dict[str, Any]]:
        return read_curves(self.folder)

    @property
    def reranker(self) -> str:
        return str(self.manifest["reranker"])

    @property
    def seed(self) -> int:
        return int(self.manifest["seed"])


@dataclass(frozen=True)
class Selection:
    name: str  # of the files that are made of it
    runs: list[Finished]
    absent: list[str] = field(default_factory=list)  # a sentence for each job without a finished run
    swept: list[str] = field(default_factory=list)  # config keys, in the order in which they were given
    columns: list[str] = field(default_factory=list)  # config keys whose values become blocks of columns
    record: Path | None = None
    experiment: str | None = None  # that was asked for


def select(
    root: Path, experiment: str | None, runs: str | Iterable[str] | None, mlflow: MLflowTracker | None = None
) -> Selection:
    """`runs`: folders, names in <root>/runs, or patterns of either; else `experiment`: an option of conf/experiment, a
    sweep's name or `latest`, the newest sweep. With `mlflow` all files are read from its artifacts."""
    from experiments.mlflow_copies import copies

    if runs:
        folders = named(root, [runs] if isinstance(runs, str) else [str(word) for word in runs])
        found = without_folds([Finished(folder, name_of(folder)) for folder in folders])
        if mlflow is None:
            return Selection("runs", found)
        there = copies(mlflow, [run.name for run in found])
        absent = [f"{run.name}: not on the server" for run in found if run.name not in there]
        return Selection("runs", list(there.values()), absent)
    record = newest_record(root, experiment or LATEST)
    if record is not None:
        return of_record(root, record, mlflow)
    if mlflow is not None:
        there = copies(mlflow, None, None if experiment in (None, LATEST) else experiment)
        if there:
            return Selection(experiment or LATEST, without_folds(list(there.values())), experiment=experiment)
    elif experiment not in (None, LATEST):
        done = [folder.parent for folder in sorted(root.glob("runs/*/manifest.json"))]
        of_it = [run for run in (Finished(f, f.name) for f in done) if f"experiment={experiment}" in run.overrides]
        of_it = without_folds(of_it)
        if of_it:
            return Selection(str(experiment), of_it, experiment=experiment)
    options = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
    if experiment not in (None, LATEST, *options):
        close = difflib.get_close_matches(str(experiment), options, n=1)
        hint = f"did you mean {close[0]}?" if close else "see conf/experiment"
        raise UserError(f"experiment={experiment} does not exist; {hint}")
    asked = experiment if experiment not in (None, LATEST) else None
    known = ", ".join(sorted({path.stem for path in root.glob("sweeps/*.json")})) or "none yet"
    raise UserError(
        f"{f'no run of experiment={asked}' if asked else 'no sweep'} in {root} (sweeps there: {known}); make one with "
        f"`python train.py experiment={asked or '...'}`, or choose runs with runs='runs/demo-*'"
    )


def newest_record(root: Path, experiment: str) -> Path | None:
    records = sorted(root.glob("sweeps/*.json"), key=lambda path: path.stat().st_mtime)
    chosen = []
    for path in records:
        try:
            content = read_json(path)
        except UserError:  # torn by hand; written files are whole
            continue
        if experiment in (LATEST, path.stem, content["experiment"]):
            done = any((root / "runs" / str(job["run"]) / "manifest.json").exists() for job in content["jobs"])
            chosen.append((done, path))
    finished = [path for done, path in chosen if done]
    return finished[-1] if finished else chosen[-1][1] if chosen else None


def of_record(root: Path, record: Path, mlflow: MLflowTracker | None = None) -> Selection:
    from experiments.mlflow_copies import copies

    content = read_json(record)
    there = None
    if mlflow is not None:
        there = copies(mlflow, [job["run"] for job in content["jobs"] if job["run"]])
    runs: dict[str, Finished] = {}
    absent = []
    for job in content["jobs"]:
        name, folder = job["run"], root / "runs" / str(job["run"])
        what = " ".join(word for word in job["overrides"] if word.partition("=")[0] in content["swept"])
        if name and (there is None and (folder / "manifest.json").exists()):
            runs[name] = Finished(folder, name)
        elif name and there is not None and name in there:
            runs[name] = there[name]
        else:
            absent.append(f"{what}: {job['error'] or 'not finished'}")
    columns = (content.get("table") or {}).get("columns") or []
    name = content["experiment"] or content["name"]
    return Selection(name, list(runs.values()), absent, list(content["swept"]), list(columns), record)


def named(root: Path, patterns: list[str]) -> list[Path]:
    """The finished run folders (evaluations too) that paths, names and patterns mean, each once, in their order."""
    out: dict[Path, None] = {}
    for pattern in patterns:
        found = [
            path
            for place in (Path(pattern).expanduser(), root / pattern, root / "runs" / pattern)
            if pattern.strip("/.")
            for path in sorted(Path(place.anchor).glob(str(place.relative_to(place.anchor))))
        ]
        done = [path.resolve() for path in found if (path / "manifest.json").exists()]
        if not done:
            unfinished = any((path / "config.yaml").exists() for path in found)
            why = "is not finished; repeat its train.py command" if unfinished else f"is no run in {root / 'runs'}"
            raise UserError(f"runs={pattern} {why}")
        out |= dict.fromkeys(done)
    return list(out)


def without_folds(runs: list[Finished]) -> list[Finished]:
    """Without the folds of a pool that is there too: it has their requests."""
    folds = {name for run in runs for name in run.manifest.get("folds", [])}
    return [run for run in runs if run.name not in folds]


def name_of(folder: Path) -> str:
    """An evaluation's name says of what run it is."""
    return f"{folder.parents[1].name}/{folder.name}" if folder.parent.name == "evaluations" else folder.name
