"""Ratings of three sizes through the real command: seconds, memory and progress, and the numbers against the raw file.

The first stage is `markov`, which is the reranker too: what is measured is the data's way through the house.
"""

from __future__ import annotations

import os
import pty
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.files import read_json
from experiments.clock import SLOW
from experiments.endurance.big_check import histories, wrong
from experiments.endurance.big_data import USER, generate
from experiments.endurance.outcome import Endurance, Outcome, outcome
from experiments.endurance.small import command, environment
from experiments.launch import ROOT

MOST_GB = 12.0
CLOSE = 1.6  # times as many seconds an interaction as at the size before
HOURS = 1800.0  # seconds after which a run is taken to hang
SILENT = 30.0  # CPU seconds without a sign of life on a terminal
REQUESTS, SIZE, MIN_RATING, CORE = 100_000, 50, 2, 5
FEW = ["protocol.max_requests=2000", "protocol.max_validation_requests=100"]
WORDS = [
    "train.py", "dataset=ml_100k", "dataset.name=big", f"dataset.min_rating={MIN_RATING}", f"dataset.k_core={CORE}",
    "reranker=first_stage", "candidates/retriever=markov", f"candidates.size={SIZE}", "tracking=none",
]  # fmt: skip
MANY = [f"protocol.max_requests={REQUESTS}", "protocol.max_validation_requests=10000"]


@dataclass(frozen=True)
class Measured:
    """A run as seen from outside."""

    exit_code: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    silent: float  # the most CPU seconds between two outputs
    said: str
    run: Path | None  # the finished run

    @property
    def stages(self) -> dict[str, dict[str, float]]:
        return {} if self.run is None else read_json(self.run / "cost.json")["stages"]

    def failures(self, requests: int) -> list[str]:
        if self.exit_code or self.run is None:
            return [f"exit code {self.exit_code}: {self.said[-300:]}"]
        metrics, out = read_json(self.run / "metrics.json"), []
        n = read_json(self.run / "manifest.json")["n_requests"]
        if n < requests:
            out.append(f"{n:,} requests were evaluated, and not {requests:,}")
        value, chance = metrics["test/recall_at_10"], metrics["test/chance_high/recall_at_10"]
        if value <= chance:
            out.append(f"recall@10 of {value:.4f} is chance's (up to {chance:.4f}), and a succession is planted")
        if self.peak_mb > 1024 * MOST_GB:
            out.append(f"{self.peak_mb:,.0f} MB at the peak")
        return out


def outcomes(settings: Endurance) -> Iterator[Outcome]:
    found: dict[int, Measured] = {}
    for size in sorted(settings.big):
        folder = settings.scratch / f"{size}"
        folder.mkdir()
        generate(folder, size, settings.seed)
        found[size] = measured(folder, "retrieved", *MANY, terminal=size == max(settings.big))
        failures = found[size].failures(min(REQUESTS, size // USER // 2))  # filters leave out users
        yield outcome(f"{size:,} interactions under {MOST_GB:g} GB", failures, told(found[size]))
        if (run := found[size].run) is not None:
            checked = wrong(run, histories(folder, MIN_RATING, CORE), SIZE)
            yield outcome("metric and lists of a big run against the raw file", checked)
        if size < max(settings.big):
            (folder / "u.data").unlink()
    largest = max(settings.big)
    for mode in ("sampled", "full"):
        one = measured(settings.scratch / f"{largest}", mode, *FEW)
        yield outcome(f"{largest:,} interactions, candidates={mode}, 2,000 requests", one.failures(2_000), told(one))
    if all(one.run for one in found.values()):
        yield from of_all(found)
    show(found)


def of_all(found: dict[int, Measured]) -> Iterator[Outcome]:
    """Of runs that ended well."""
    last = found[max(found)]
    yield outcome(
        f"no more than {SILENT:g} CPU seconds without progress on a terminal",
        [f"{last.silent:.0f} CPU seconds without a sign"] if last.silent > SILENT else [],
        f"at most {last.silent:.0f} s",
    )
    for one in found.values():
        slow = [stage for stage, cost in one.stages.items() if cost["seconds"] > 2 * SLOW]
        quiet = [f"nothing was said of the stage {stage}" for stage in slow if f"{stage}: " not in one.said]
        yield outcome("each slow stage says what it took", quiet)
    for before, after in zip(sorted(found), sorted(found)[1:], strict=False):
        ratio = found[after].cpu_seconds / found[before].cpu_seconds / (after / before)
        failures = [f"{ratio:.2f} times as many CPU seconds an interaction"] if ratio > CLOSE else []
        yield outcome("time close to linear", failures, f"{before:,} to {after:,}: {ratio:.2f} x an interaction")


def told(one: Measured) -> str:
    return f"{one.peak_mb / 1024:.1f} GB, {one.seconds:.0f} s ({one.cpu_seconds:.0f} s CPU)"


def measured(folder: Path, mode: str, *more: str, terminal: bool = False) -> Measured:
    """`train.py` on a generated folder; `terminal`: its stderr is one, so that bars are shown."""
    root = folder / mode
    words = [*WORDS, f"candidates={mode}", f"dataset.path={folder}", f"paths.root={root}", *more]
    reading, writing = pty.openpty() if terminal else os.pipe()
    started, before = time.perf_counter(), cpu_of_children()
    process = subprocess.Popen(
        command(*words), cwd=ROOT, env=environment(TERM="xterm"), stdout=subprocess.DEVNULL, stderr=writing
    )
    os.close(writing)
    watch = Watch(process.pid, reading)
    thread = threading.Thread(target=watch.read)
    thread.start()
    while process.poll() is None:
        watch.look()
        if time.perf_counter() - started > HOURS:
            process.kill()
        time.sleep(0.1)
    thread.join()
    os.close(reading)
    run = next((path.parent for path in root.glob("runs/*/manifest.json")), None)
    stages = {} if run is None else read_json(run / "cost.json")["stages"]
    return Measured(
        exit_code=process.returncode,
        seconds=time.perf_counter() - started,
        cpu_seconds=cpu_of_children() - before,
        peak_mb=max([watch.peak_mb, *(stage["peak_memory_mb"] for stage in stages.values())]),
        silent=watch.silent,
        said=watch.said.decode(errors="replace"),
        run=run,
    )


class Watch:
    """What a process says, its largest memory, and its CPU seconds between two outputs."""

    def __init__(self, pid: int, reading: int) -> None:
        self.about = Path(f"/proc/{pid}")
        self.reading, self.said = reading, b""
        self.peak_mb = self.silent = self.cpu = self.cpu_then = 0.0

    def look(self) -> None:
        try:
            status = (self.about / "status").read_text()
            times = (self.about / "stat").read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended, or this is not Linux
            return
        self.peak_mb = max(
            self.peak_mb, *(int(line.split()[1]) / 1024 for line in status.splitlines() if "VmHWM" in line), 0
        )
        self.cpu = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
        self.silent = max(self.silent, self.cpu - self.cpu_then)

    def read(self) -> None:
        while content := self._next():
            self.said += content
            self.cpu_then = self.cpu

    def _next(self) -> bytes:
        try:
            return os.read(self.reading, 1 << 16)
        except OSError:  # how a terminal ends
            return b""


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def show(found: dict[int, Measured]) -> None:
    """Seconds and peak memory of each stage, beside each other."""
    from rich.console import Console
    from rich.table import Table

    out = Table(title=f"seconds and peak MB of each stage; {REQUESTS:,} test requests at most")
    out.add_column("stage")
    for size in found:
        out.add_column(f"{size:,}", justify="right")
    for stage in next(iter(found.values())).stages:
        costs = [one.stages.get(stage, {"seconds": 0.0, "peak_memory_mb": 0.0}) for one in found.values()]
        if max(cost["seconds"] for cost in costs) >= 0.1:
            out.add_row(stage, *(f"{cost['seconds']:.1f} s {cost['peak_memory_mb']:7,.0f} MB" for cost in costs))
    out.add_section()
    out.add_row("whole command", *(f"{one.seconds:.1f} s {one.peak_mb:7,.0f} MB" for one in found.values()))
    out.add_row("its CPU", *(f"{one.cpu_seconds:.1f} s" for one in found.values()))
    Console(width=130).print(out)
