"""A real MLflow server behind a proxy that fails in each way, while bert4rec is trained; then `experiments.sync`.

Survived: the same numbers as without MLflow, no more seconds than are promised, one warning; afterwards the server has
the run once, finished, with each point, value and file once, and a second sync asks it nothing. Promised is what the
end of a run may wait (experiments/patience.py): 5 s, and .25 s a call. Two trainings differ by some more on a shared
machine: by how much is measured with a healthy server, and a training that took longer is tried once more.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError
from experiments.curves import read_curves
from experiments.endurance import small
from experiments.endurance.faulty_proxy import Proxy, free_port, server
from experiments.endurance.mirrored_once import differences
from experiments.endurance.outcome import NOTHING, Endurance, Outcome
from experiments.launch import ROOT
from experiments.patience import TRAINING
from experiments.sync import Sending
from experiments.tracking import MLflowTracker

POINTS = (2, 5, 9, 16)  # requests after which experiments.sync is killed
FAULTS = {  # what the table says -> the proxy's fault, requests that pass before it
    "MLflow stopped": ("refused", 0),
    "MLflow answers 500": ("500", 0),
    "MLflow answers 429, Retry-After 60": ("429", 0),
    "MLflow hangs": ("hang", 0),
    "MLflow sends a byte a second": ("drip", 0),
    "MLflow answers after 3 s": ("slow", 0),
    "MLflow stores without an answer": ("unanswered", 0),
    "every third answer of MLflow is lost": ("lossy", 0),
    "requests reach MLflow after the training": ("late", 0),
    "MLflow stops while the run is opened": ("cut", 3),
    "MLflow stops while the files are sent": ("cut", 12),
    "MLflow started late": ("refused", 0),
}


def outcomes(settings: Endurance) -> Iterator[Outcome]:
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    with server(settings.scratch) as port, Proxy(port, free_port()) as proxy:
        case = Case(settings.scratch, proxy, f"http://127.0.0.1:{port}")
        yield case.healthy()
        for fault in FAULTS:
            yield from case.training(fault)
        yield case.sweep()
        yield case.evaluation()


class Case:
    def __init__(self, scratch: Path, proxy: Proxy, server: str) -> None:
        self.scratch, self.proxy, self.server = scratch, proxy, server
        self.uri = f"http://127.0.0.1:{proxy.port}"
        self.tracking = ["tracking=mlflow", f"tracking.uri={self.uri}", "tracking.artifacts=null"]

    def healthy(self) -> Outcome:
        began = time.monotonic()
        small.run("train.py", *small.words("bert4rec", self.scratch / "without"))
        plain = time.monotonic() - began
        self.wanted = small.results(self.scratch / "without")
        self.proxy.become("pass")
        done, first = self._trained("healthy")
        problems = self._problems_of(done, "healthy", (0,)) + differences(self.server, self.scratch / "healthy")
        self.proxy.become("pass")
        second = self._again()
        self.usual, self.noise = min(first, second), abs(first - second)
        note = f"{plain:.1f} s without MLflow, {first:.1f} and {second:.1f} s with it"
        return outcome("MLflow is well", problems, note)

    def training(self, fault: str) -> Iterator[Outcome]:
        """And one sync, or several."""
        kind, left = FAULTS[fault]
        root = re.sub(r"\W+", "-", fault)
        late = self.proxy if fault == "MLflow started late" else None
        self._break(kind, left)
        done, seconds = self._trained(root, late)
        promised = self._promised()
        problems = self._problems_of(done, root, (0, 1) if kind in ("slow", "lossy") else (1,))
        self._mend()
        if seconds - self.usual > promised + self.noise:  # the machine was slower for a while, say
            self._break(kind, left)
            seconds = min(seconds, self._again(late))
            promised = max(promised, self._promised())
            self._mend()
        allowed = f"{promised:.1f} s promised and {self.noise:.1f} s of noise"
        if seconds - self.usual > promised + self.noise:
            problems.append(f"{seconds:.1f} s where {self.usual:.1f} s are usual, {allowed}")
        if kind == "500":
            yield self._killed_syncs(self.scratch / root)
        if kind == "hang":
            yield self._two_syncs(self.scratch / root)
        problems += self._synced(self.scratch / root)
        yield outcome(fault, problems, f"{seconds - self.usual:+.1f} s; {allowed}")

    def _killed_syncs(self, root: Path) -> Outcome:
        """SIGKILL after each of some numbers of requests, each time of a root of which nothing is sent and which has
        no key in common with another. A sync that ended before is no trial."""
        keyless = shutil.ignore_patterns("mlflow.json")
        trials = []
        for n in POINTS:
            copy = shutil.copytree(root, self.scratch / f"killed-after-{n}-requests", ignore=keyless)
            self.proxy.become("pass")
            process = self._sync_started(copy)
            while process.poll() is None and self.proxy.seen < n:
                time.sleep(0.001)
            process.kill()
            process.communicate()
            if process.wait() == -signal.SIGKILL:
                trials.append([f"after {n} requests: {problem}" for problem in self._synced(copy)])
        problems = [problem for trial in trials for problem in trial]
        note = f"{len(trials)} of {len(POINTS)} kills came before its end"
        survived = sum(not trial for trial in trials)
        return Outcome(
            "SIGKILL of experiments.sync", len(trials), survived, "; ".join(problems) or NOTHING, note, problems
        )

    def _two_syncs(self, root: Path) -> Outcome:
        self.proxy.become("pass")
        both = [self._sync_started(root) for _ in range(2)]
        said = [process.communicate(timeout=300) for process in both]
        problems = [
            f"exit code {p.returncode}: {s[1][-300:]}" for p, s in zip(both, said, strict=True) if p.returncode
        ]
        return outcome("two experiments.sync at once", problems + differences(self.server, root))

    def sweep(self) -> Outcome:
        """Its runs come under its own run."""
        from mlflow import MlflowClient

        root = self.scratch / "sweep"
        self.proxy.stop()
        words = small.words("bert4rec", root, *self.tracking)
        words = [word for word in words if not word.startswith(("tracking=none", "reranker", "trainer"))]
        done = small.run("train.py", "-m", "reranker=random,first_stage", *words)
        problems = [] if done.returncode == 0 else [f"exit code {done.returncode}: {done.stderr[-300:]}"]
        if (n := (done.stdout + done.stderr).count("send it later")) != 1:
            problems.append(f"{n} warnings")
        self._mend()
        problems += self._synced(root)
        client = MlflowClient(self.server)
        runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
        parents = [(run.info.run_id, run.info.status) for run in runs if run.data.tags["kind"] == "sweep"]
        own = [run.data.tags for run in runs if str(root) in run.data.tags.get("run_folder", "")]
        above = [(tags.get("mlflow.parentRunId"), "FINISHED") for tags in own]
        if len(parents) != 1 or above != parents * 2:
            problems.append(f"sweeps {parents}, runs under {above}")
        return outcome("a sweep while MLflow is stopped", problems)

    def evaluation(self) -> Outcome:
        root = self.scratch / "healthy"
        self.proxy.become("hang")
        done = small.run("evaluate.py", f"paths.root={root}", "run=latest", "protocol.filter_seen=false")
        problems = [] if done.returncode == 0 else [f"exit code {done.returncode}: {done.stderr[-300:]}"]
        self._mend()
        problems += self._synced(root)
        if len(list(root.glob("runs/*/evaluations/*/mlflow.json"))) != 1:
            problems.append("no evaluation was mirrored")
        return outcome("evaluate.py while MLflow hangs", problems)

    def _trained(self, name: str, late: Proxy | None = None) -> tuple[subprocess.CompletedProcess[str], float]:
        """`late`: it starts when half of the steps are done."""
        words = [w for w in small.words("bert4rec", self.scratch / name, *self.tracking) if w != "tracking=none"]
        began = time.monotonic()
        process = started("train.py", *words)
        while late and process.poll() is None:
            if any(p["step"] >= 6 for path in self.scratch.glob(f"{name}/runs/*") for p in read_curves(path)):
                late.become("pass")
                late.start()
                break
            time.sleep(0.02)
        said = process.communicate(timeout=300)
        return subprocess.CompletedProcess([], process.returncode, *said), time.monotonic() - began

    def _problems_of(self, done: subprocess.CompletedProcess[str], name: str, warnings: tuple[int, ...]) -> list[str]:
        problems = [] if done.returncode == 0 else [f"exit code {done.returncode}: {done.stderr[-300:]}"]
        if small.results(self.scratch / name) != self.wanted:
            problems.append("other metrics than without MLflow")
        if (n := (done.stdout + done.stderr).count("send it later")) not in warnings:
            problems.append(f"{n} warnings")
        return problems

    def _again(self, late: Proxy | None = None) -> float:
        """The seconds of one more training, of which nothing else is looked at."""
        return self._trained(tempfile.mkdtemp(dir=self.scratch), late)[1]

    def _promised(self) -> float:
        """A call is a request or more; one at least was made, even where no server heard it."""
        return TRAINING.seconds + TRAINING.a_call * max(self.proxy.seen, 1)

    def _break(self, kind: str, left: int) -> None:
        self.proxy.become(kind, left)
        if kind == "refused":
            self.proxy.stop()

    def _mend(self) -> None:
        self.proxy.stop()
        self.proxy.become("pass")
        self.proxy.start()

    def _sync_started(self, root: Path) -> subprocess.Popen[str]:
        return started("-m", "experiments.sync", f"paths.root={root}", *self.tracking)

    def _synced(self, root: Path) -> list[str]:
        """What is wrong after one sync, and whether a second asks the server anything."""
        first = small.run("-m", "experiments.sync", f"paths.root={root}", *self.tracking)
        problems = [] if first.returncode == 0 else [f"sync: {first.stderr[-300:]}"]
        self.proxy.become("pass")
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                Sending(MLflowTracker(self.uri), root).all()
            except UserError as error:
                problems.append(str(error))
        if self.proxy.seen:
            problems.append(f"the second sync made {self.proxy.seen} requests")
        return problems + differences(self.server, root)


def outcome(fault: str, problems: list[str], note: str = "", tried: int = 1) -> Outcome:
    return Outcome(fault, tried, 0 if problems else tried, "; ".join(problems) or NOTHING, note, problems)


def started(*words: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        small.command(*words), cwd=ROOT, env=small.environment(), stdout=pipe, stderr=pipe, text=True
    )
