"""Sweeps that are planned, skipped, resumed and recorded: python train.py -m reranker=popularity,bert4rec seed=0,1,2

Before the first job the plan is printed: what is finished already is left out, what cannot run is left out with its
reason, and the rest is done. `experiments.sweep_record` is what the next call finds.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from data.errors import UserError
from data.files import read_json, write_json
from experiments import launchers
from experiments.findings import raise_failed, read_diagnosis
from experiments.launch import JobFailed, cannot_run, sentence
from experiments.planning import ABSENT, FINISHED, SAME, TO_DO, Job, Planner
from experiments.runs import Run, is_free
from experiments.summary import one_line
from experiments.sweep_mirror import SweepMirror
from experiments.sweep_record import content_of, note, place, record_path, tags_of, turn, varying
from experiments.tracking import RECORD, MLflowTracker


class Sweep:
    """One call of a sweep, in the process that launches its jobs."""

    def __init__(self, sweeper: Any) -> None:
        self.sweeper, self.config = sweeper, sweeper.config
        self.root = Path(self.config.paths.root).expanduser().resolve()
        words = itertools.chain.from_iterable(sweeper.overrides)
        self.jobs = [Job(number, list(job)) for number, job in enumerate(words, start=1)]
        self.coming = iter(self.jobs)
        self.experiment = self.config.hydra.runtime.choices.get("experiment")
        self.record = record_path(self.root, self.experiment, [job.overrides for job in self.jobs])
        self.failures: dict[int, tuple[str, int]] = {}  # by job: a sentence and an exit code
        self.mirror = mirror_of(self.config, self.record)
        self.started = False

    def start(self) -> None:
        """Plans, prints the plan, opens the parent run and writes the record, unless no job can run."""
        with turn(self.record):
            before = read_json(self.record) if self.record.exists() else {}
        planner = Planner(self.sweeper, self.root, before)
        datasets = planner.look_at(self.jobs)
        print_plan(self.record.stem, self.jobs)
        for job in self.jobs:
            if job.status == FINISHED and job.strict:
                self._check_strictly(job)
        if all(job.status == ABSENT for job in self.jobs):  # the experiment's newest record stays that of runs
            self.raise_failed()
        to_do = [job for job in self.jobs if job.status == TO_DO]
        folders = [self.root / "runs" / str(job.run) for job in self.jobs if job.status == FINISHED]
        launchers.prepare(self.sweeper.launcher, len(self.jobs), " ".join(self.config.hydra.overrides.hydra))
        self.sweeper.launcher = launchers.Patient(self.sweeper.launcher, self._failed, self._state)
        os.environ[RECORD] = str(self.record)
        with turn(self.record):  # two identical sweeps at once: the second takes up what the first has made
            before = read_json(self.record) if self.record.exists() else {}
            self.content = self._content(before)
            if self.mirror and not to_do and self.mirror.knows(self.content["mlflow"], folders):
                self.mirror = None
            if self.mirror:
                self.content["mlflow"] = self.mirror.open(self.content["mlflow"], tags_of(self.content, datasets))
            write_json(self.record, self.content)
        self.started = True
        if self.mirror:
            self.mirror.complete(folders)

    def keep_what_is_to_do(self, batch: list[Sequence[str]]) -> None:
        jobs = list(itertools.islice(self.coming, len(batch)))
        batch[:] = [words for words, job in zip(batch, jobs, strict=True) if job.status == TO_DO]

    def end(self) -> None:
        """Also after Ctrl-C, and when jobs failed or none was to do."""
        if not self.started:
            return
        with turn(self.record):
            recorded = read_json(self.record)["jobs"]
        for job, noted in zip(self.jobs, recorded, strict=True):
            job.run = job.run or noted["run"]
        finished = [job for job in self.jobs if job.run and Run(self.root / "runs" / job.run).complete]
        for job in self.jobs:
            job.error = None if job in finished else self.failures.get(job.number, (job.error, 0))[0]
        whole = len(finished) == len(self.jobs)
        sent = None
        if self.mirror:
            folders = [self.root / "runs" / str(job.run) for job in finished if job.status == TO_DO]
            self.mirror.complete(folders)
            sent = self.mirror.close(whole)
        with turn(self.record):
            content = self._content(read_json(self.record))
            if content["mlflow"] and sent is not None:
                content["mlflow"]["finished"] = whole and sent
            write_json(self.record, content)
        if type(self.sweeper.launcher.launcher).__name__ in ("LocalLauncher", "SlurmLauncher"):
            for job in finished:  # what the jobs have printed themselves is in files
                if job.status == TO_DO:
                    print(f"{job.number}/{len(self.jobs)} {job.run}: {one_line(self.root / 'runs' / str(job.run))}")
        sys.stdout.flush()
        after_sweep(self.record, [job.number for job in self.jobs if job.status in (ABSENT, SAME)])

    def raise_failed(self) -> None:
        """The exit code of the command, once everything is written."""
        left_out = sum(job.status == ABSENT for job in self.jobs)
        if self.failures:
            first = next(iter(self.failures.values()))[0]
            code = max(code for _, code in self.failures.values())
            raise JobFailed(f"{len(self.failures)} jobs of the sweep failed; the first: {first}", code)
        if left_out:
            raise UserError(f"{left_out} jobs of the sweep were left out; see above")

    def _job(self, words: Sequence[str]) -> Job:
        return next(job for job in self.jobs if job.overrides == list(words) and job.status == TO_DO)

    def _failed(self, words: Sequence[str], error: BaseException) -> None:
        said = sentence(error) if isinstance(error, JobFailed) else f"the launcher failed: {sentence(error)}"
        self.failures[self._job(words).number] = said, getattr(error, "exit_code", 1)

    def _state(self, words: Sequence[str]) -> str:
        run = Run(self.root / "runs" / str(self._job(words).run))
        if run.complete:
            return "finished"
        return "died" if run.folder.exists() and is_free(run.lock(self.root)) else "waiting"

    def _check_strictly(self, job: Job) -> None:
        """`diagnose=strict` means the run that was made before, too."""
        folder = self.root / "runs" / str(job.run)
        try:
            raise_failed(read_diagnosis(folder), f"see {folder / 'diagnosis.json'}")
        except UserError as error:
            self.failures[job.number] = str(error), error.exit_code

    def _content(self, before: dict[str, Any]) -> dict[str, Any]:
        jobs = [{"overrides": job.overrides, "run": job.run, "error": job.error, "key": job.key} for job in self.jobs]
        return content_of(self.config, self.record.stem, jobs) | {"mlflow": before.get("mlflow")}


def mirror_of(config: DictConfig, record: Path) -> SweepMirror | None:
    from experiments.building import build

    tracking: Any = OmegaConf.to_container(config.tracking, resolve=True)
    tracker = build(tracking, "tracking")
    return SweepMirror(tracker, record) if isinstance(tracker, MLflowTracker) else None


def print_plan(name: str, jobs: list[Job]) -> None:
    """One line for each job that can run and for each reason why others cannot, then the counts."""
    shown = varying([job.overrides for job in jobs])
    width = min(
        60, max((len(words) for words, job in zip(shown, jobs, strict=True) if job.status != ABSENT), default=0)
    )
    print(f"Sweep {name}")
    absent: dict[str, list[str]] = {}
    for job, words in zip(jobs, shown, strict=True):
        if job.status == ABSENT:
            absent.setdefault(str(job.error), []).append(words)
        else:
            print(f"{job.number:4}  {words:{width}}  {job.said}")
    for reason, of_jobs in absent.items():
        print(cannot_run(of_jobs, len(jobs), reason))
    kinds = [job.status for job in jobs]
    counts = [f"{kinds.count(kind)} {kind}" for kind in (FINISHED, TO_DO, ABSENT, SAME) if kind in kinds]
    print(f"{len(jobs)} jobs: {', '.join(counts)}", flush=True)


def show_job(folder: Path, diagnose: str) -> dict[str, float]:
    """The line of a job that has ended; the same command without `-m` shows its whole table."""
    if RECORD in os.environ:
        note(Path(os.environ[RECORD]), list(HydraConfig.get().overrides.task), folder.name)
    print(f"{place()} {folder.name}: {one_line(folder)}", flush=True)
    if diagnose == "strict":
        raise_failed(read_diagnosis(folder), f"the run is whole, see {folder / 'diagnosis.json'}")
    return read_json(folder / "metrics.json")


def after_sweep(record: Path, told: Collection[int] = ()) -> None:
    """What is said when the jobs of a recorded sweep have ended: those that are not finished, and why; `told` are the
    numbers of those of which the plan has said it."""
    content = read_json(record)
    runs = record.parent.parent / "runs"
    jobs = content["jobs"]
    done = [bool(job["run"]) and Run(runs / job["run"]).complete for job in jobs]
    shown = varying([job["overrides"] for job in jobs])
    for number, (job, finished) in enumerate(zip(jobs, done, strict=True), start=1):
        if not finished and number not in told:
            begun = job["run"] and (runs / job["run"]).exists()
            reason = job["error"] or ("interrupted; the same command continues" if begun else "not begun")
            print(f"not finished: job {number} ({shown[number - 1]}): {reason}", file=sys.stderr)
    print(f"Sweep {content['name']}: {sum(done)} of {len(jobs)} jobs finished. Record: {record}", flush=True)
    if any(done):
        show_table(record)


def show_table(record: Path) -> None:
    """The table of what is finished; runs that do not compare are still finished runs."""
    from experiments import tables
    from experiments.collect import of_record
    from experiments.table_building import build

    root = record.parent.parent
    try:
        table = build(of_record(root, record))
    except UserError as error:
        print(f"No table: {error}; python -m experiments.tables makes one of runs that compare", file=sys.stderr)
        return
    tables.show(table)
    written = tables.write(table, root, "markdown")
    print(f"Table: {written}; others: python -m experiments.tables experiment={table.name} format=latex", flush=True)
