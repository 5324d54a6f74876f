"""What is to be done of a sweep: for each job the run that it is, and how far that is. Nothing is trained or written.

A job is composed and built as it will be when it runs, and the data is read once for all jobs that share it, because a
run's name holds the data's hash.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from data.dataset import Dataset, sha256
from data.errors import UserError
from data.files import file_sha256, read_json
from experiments.launch import sentence
from experiments.runs import Run, code_sha256, is_free

if TYPE_CHECKING:
    from experiments.config import Experiment

FINISHED, TO_DO, ABSENT, SAME = "finished", "to do", "left out", "repeated"
GENERATED = ("data.sources.demo.", "data.sources.demo_passages.")  # data that no file can change
NO_RUN = ("paths", "tracking", "force", "check", "diagnose", "table")  # keys that make no other run


@dataclass
class Job:
    number: int  # in the plan, from 1
    overrides: list[str]
    run: str | None = None  # the name of its folder
    status: str = TO_DO
    said: str = TO_DO  # the status in words
    error: str | None = None  # why it cannot run, or why it failed
    strict: bool = False  # diagnose=strict
    key: str | None = None  # of config and code, where nothing else decides which run it is


def texts(node: Any) -> Iterator[str]:
    """Every text in a config, however deep: any may be a file or a folder."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for part in node.values() if isinstance(node, dict) else node:
            yield from texts(part)


class Planner:
    def __init__(self, sweeper: Any, root: Path, before: dict[str, Any]) -> None:
        """`before` is the sweep's record of an earlier call."""
        self.sweeper, self.root = sweeper, root
        self.failed = {tuple(job["overrides"]): job["error"] for job in before.get("jobs", [])}
        self.known = {job["key"]: job["run"] for job in before.get("jobs", []) if job.get("key")}
        self.code = code_sha256()

    def look_at(self, jobs: list[Job]) -> list[str]:
        """Fills in run and status of each job; returns the names of the datasets."""
        datasets: dict[str, Dataset | Exception] = {}
        first: dict[str, int] = {}
        names = []
        for job in jobs:
            try:
                cfg = self._compose(job.overrides)
                job.key = self._key(cfg)
                if (run := self._recorded(job)) is not None and run.folder.name not in first:
                    names.append(read_json(run.folder / "manifest.json")["dataset"])
                    first[run.folder.name], job.run = job.number, run.folder.name
                    self._finished(job, run)
                    continue
                from experiments.config import configure  # seconds of imports, which a finished sweep does without
                from experiments.stages import check_usable

                experiment = configure(cfg)
                dataset = self._dataset(experiment, datasets)
                check_usable(experiment, dataset)
                names.append(dataset.name)
                job.run, job.strict = experiment.name(dataset), experiment.diagnose == "strict"
            except (UserError, HydraException, OmegaConfBaseException) as error:
                job.status, job.error = ABSENT, sentence(error)
                continue
            except Exception:  # let the job say what it is
                continue
            if job.run in first:
                job.status, job.said = SAME, f"the same run as job {first[job.run]}"
                continue
            first[job.run] = job.number
            self._how_far(job, experiment)
        return list(dict.fromkeys(names))

    def _compose(self, overrides: list[str]) -> DictConfig:
        loader = self.sweeper.hydra_context.config_loader
        cfg = copy.deepcopy(loader.load_sweep_config(self.sweeper.config, list(overrides)))
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
        return cfg

    def _key(self, cfg: DictConfig) -> str | None:
        """None where files or folders decide too, where a run is asked for anew, or where it must be looked at."""
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        generated = str(plain["dataset"].get("_target_")).startswith(GENERATED)
        if not generated or plain["force"] or plain["check"] or plain["diagnose"] == "strict":
            return None
        kept = {name: value for name, value in plain.items() if name not in NO_RUN}
        if any(Path(text).expanduser().exists() for text in texts(kept) if text):
            return None
        return sha256(json.dumps(kept, sort_keys=True), self.code)[:16]

    def _recorded(self, job: Job) -> Run | None:
        """The finished run that an earlier call has found for the same config and code; no pool, which has parts."""
        name = self.known.get(job.key)
        run = Run(self.root / "runs" / str(name))
        return run if name and run.complete and "folds" not in read_json(run.folder / "manifest.json") else None

    def _finished(self, job: Job, run: Run) -> None:
        job.status = FINISHED
        job.said = f"finished{'' if run.same_code else ' (by another version of the code)'}: {job.run}"

    def _dataset(self, experiment: Experiment, known: dict[str, Dataset | Exception]) -> Dataset:
        key = json.dumps([experiment.resolved["dataset"], str(experiment.data)], sort_keys=True)
        if key not in known:
            try:
                known[key] = experiment.source.load(experiment.data)
            except (UserError, OSError) as error:
                known[key] = error
        if isinstance(found := known[key], Exception):
            raise found
        return found

    def _how_far(self, job: Job, experiment: Experiment) -> None:
        from experiments import folds

        run = Run(self.root / "runs" / str(job.run))
        if self._complete(run, folds.several(experiment)):
            if experiment.force:
                job.said = "to do again (force=true)"
            else:
                self._finished(job, run)
            return
        if not is_free(run.lock(self.root)):
            job.said = "in another process; waits for it"
        elif before := self.failed.get(tuple(job.overrides)):
            job.said = f"again; it failed: {before}"
        elif run.folder.exists():
            job.said = f"continues: {job.run}"

    def _complete(self, run: Run, several: bool) -> bool:
        """A pool is, when the folds that it was made of are there as they were."""
        if not run.complete or not several:
            return run.complete
        for name, made_of in read_json(run.folder / "manifest.json")["folds"].items():
            fold = Run(run.folder.with_name(name))
            if not fold.complete or file_sha256(fold.folder / "per_request.parquet") != made_of:
                return False
        return True
