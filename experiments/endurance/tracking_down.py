"""A real MLflow server behind a proxy that fails in each way, while bert4rec is trained; then `experiments.sync`.

Survived: the same numbers as without MLflow, one warning, and the main thread, which trains, held up for CAP seconds
at most in all (see `held_up`); afterwards the server has the run once, finished, with each point, value and file once,
and a second sync asks it nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError
from experiments.curves import read_curves
from experiments.endurance import leash, small
from experiments.endurance.faulty_proxy import Proxy, server
from experiments.endurance.mirrored_once import differences
from experiments.endurance.outcome import NOTHING, Endurance, Outcome, outcome
from experiments.sync import Sending
from experiments.tracking import MLflowTracker

CAP = 9.0  # seconds, whatever the server does: what the product promises (8) and a busy machine
KILLS = (("mute", 1), ("mute", 4), ("hang", 8), ("mute", 15))  # of experiments.sync: fault, requests before it
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
    with server(settings.scratch) as port, Proxy(port) as proxy:
        downtime = Downtime(settings.scratch, proxy, f"http://127.0.0.1:{port}")
        yield downtime.healthy()
        for fault in FAULTS:
            yield from downtime.training(fault)
        yield downtime.sweep()
        yield downtime.evaluation()


class Downtime:
    def __init__(self, scratch: Path, proxy: Proxy, server: str) -> None:
        self.scratch, self.proxy, self.server = scratch, proxy, server
        self.uri = f"http://127.0.0.1:{proxy.port}"
        self.tracking = ["tracking=mlflow", f"tracking.uri={self.uri}", "tracking.artifacts=null"]
        self.seconds = scratch / "seconds.json"

    def healthy(self) -> Outcome:
        small.run("train.py", *small.words("bert4rec", self.scratch / "without"))
        self.wanted = small.results(self.scratch / "without")
        problems, note = self._problems_of(self._trained("healthy"), (0,))
        problems += differences(self.server, self.scratch / "healthy")
        return outcome("MLflow is well", problems + self._other_metrics("healthy"), note)

    def training(self, fault: str) -> Iterator[Outcome]:
        """And one sync, or several."""
        kind, left = FAULTS[fault]
        root = re.sub(r"\W+", "-", fault)
        self.proxy.become(kind, left)
        if kind == "refused":
            self.proxy.stop()
        done = self._trained(root, late=fault == "MLflow started late")
        problems, note = self._problems_of(done, (0, 1) if kind in ("slow", "lossy") else (1,))
        problems += self._other_metrics(root)
        self._mend()
        if kind == "500":
            yield self._killed_syncs(self.scratch / root)
        if kind == "hang":
            yield self._two_syncs(self.scratch / root)
        yield outcome(fault, problems + self._synced(self.scratch / root), note)

    def _killed_syncs(self, root: Path) -> Outcome:
        """SIGKILL while a request hangs, each time of a root of which nothing is sent and which has no key in common
        with another."""
        keyless = shutil.ignore_patterns("mlflow.json")
        trials = []
        for kind, left in KILLS:
            copy = shutil.copytree(root, self.scratch / f"killed-after-{left}-requests", ignore=keyless)
            self.proxy.become(kind, left)
            process = self._sync_started(copy)
            hung = self.proxy.hanging.wait(120)
            there = leash.kill(process)
            self._mend()
            wrong = [] if hung and there else ["it ended, or never came to the request at which it was to be killed"]
            trials.append([f"{kind} after {left} requests: {problem}" for problem in wrong + self._synced(copy)])
        problems = [problem for trial in trials for problem in trial]
        survived = sum(not trial for trial in trials)
        lost = "; ".join(problems) or NOTHING
        return Outcome("SIGKILL of experiments.sync", len(trials), survived, lost, failures=problems)

    def _two_syncs(self, root: Path) -> Outcome:
        self.proxy.become("pass")
        both = [self._sync_started(root) for _ in range(2)]
        ended = [leash.finish(process) for process in both]
        problems = [f"exit code {done.returncode}: {done.stderr[-300:]}" for done in ended if done.returncode]
        return outcome("two experiments.sync at once", problems + differences(self.server, root))

    def sweep(self) -> Outcome:
        """The sweep's run is made, then MLflow hangs. Its runs come under it."""
        from mlflow import MlflowClient

        root = self.scratch / "sweep"
        words = small.words("bert4rec", root, *self.tracking)
        words = [word for word in words if not word.startswith(("tracking=none", "reranker", "trainer"))]
        self.proxy.become("hang", 3)
        done = self._measured("train.py", "-m", "reranker=random,first_stage", *words)
        problems, note = self._problems_of(done, (1,))
        self._mend()
        problems += self._synced(root)
        client = MlflowClient(self.server)
        runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
        parents = [(run.info.run_id, run.info.status) for run in runs if run.data.tags["kind"] == "sweep"]
        own = [run.data.tags for run in runs if Path(run.data.tags.get("run_folder", "")).is_relative_to(root)]
        above = [(tags.get("mlflow.parentRunId"), "FINISHED") for tags in own]
        if len(parents) != 1 or above != parents * 2:
            problems.append(f"sweeps {parents}, runs under {above}")
        return outcome("MLflow hangs in the middle of a sweep", problems, note)

    def evaluation(self) -> Outcome:
        root = self.scratch / "healthy"
        self.proxy.become("hang")
        done = self._measured("evaluate.py", f"paths.root={root}", "run=latest", "protocol.filter_seen=false")
        problems, note = self._problems_of(done, (1,))
        self._mend()
        problems += self._synced(root)
        if len(list(root.glob("runs/*/evaluations/*/mlflow.json"))) != 1:
            problems.append("no evaluation was mirrored")
        return outcome("evaluate.py while MLflow hangs", problems, note)

    def _measured(self, *words: str, late: Path | None = None) -> subprocess.CompletedProcess[str]:
        """`late`: a root; the server starts when half of the steps of its run are done."""
        self.seconds.unlink(missing_ok=True)
        measured = small.command("-m", "experiments.endurance.held_up", str(self.seconds), *words)
        process = leash.start(measured)
        while late and process.poll() is None:
            if any(point["step"] >= 6 for path in late.glob("runs/*") for point in read_curves(path)):
                self._mend()
                break
            time.sleep(0.02)
        return leash.finish(process, 300)

    def _trained(self, name: str, late: bool = False) -> subprocess.CompletedProcess[str]:
        root = self.scratch / name
        words = [word for word in small.words("bert4rec", root, *self.tracking) if word != "tracking=none"]
        return self._measured("train.py", *words, late=root if late else None)

    def _problems_of(self, done: subprocess.CompletedProcess[str], warnings: tuple[int, ...]) -> tuple[list[str], str]:
        """And for how long it was held up."""
        problems = [] if done.returncode == 0 else [f"exit code {done.returncode}: {done.stderr[-300:]}"]
        if (n := (done.stdout + done.stderr).count("send it later")) not in warnings:
            problems.append(f"{n} warnings")
        if not self.seconds.exists():
            return [*problems, "how long it was held up is not known"], ""
        seconds = json.loads(self.seconds.read_text())
        if seconds > CAP:
            problems.append(f"held up for {seconds:.1f} s")
        return problems, f"held up for {seconds:.1f} s"

    def _other_metrics(self, name: str) -> list[str]:
        same = self.wanted and small.results(self.scratch / name) == self.wanted
        return [] if same else ["other metrics than without MLflow"]

    def _mend(self) -> None:
        self.proxy.stop()
        self.proxy.become("pass")
        self.proxy.start()

    def _sync_started(self, root: Path) -> subprocess.Popen[str]:
        return leash.start(small.command("-m", "experiments.sync", f"paths.root={root}", *self.tracking))

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
