"""MLflow as a mirror of run folders: it may be slow, down or absent, and training never notices.

Points are buffered and sent with `log_batch` (one call for each costs 20 ms on sqlite). The first failure is told
once; from then on nothing is sent, and `python -m experiments.sync` sends the rest later. `mlflow.json` in the run
folder says how far the mirror is, so nothing is sent twice.
"""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import OmegaConf

from data.files import read_json, write_json
from experiments.curves import read_curves
from experiments.gpus import user
from experiments.run_names import NO_NUMBER, labels, shown

log = logging.getLogger(__name__)
PARENT = "RERANK_MLFLOW_PARENT"  # environment variable: the sweep's run, made once before the jobs fan out
RECORD = "RERANK_SWEEP_RECORD"  # environment variable: the sweep's file, see `experiments.sweeps`
DOWN = "RERANK_MLFLOW_DOWN"  # environment variable: the server that the sweep has warned of already
CURVE = "curve/"  # so that a curve and a final value never share a name
BATCH, SECONDS = 500, 10.0
ARTIFACTS = (  # enough for tables from the server alone
    "config.yaml overrides.yaml metrics.json cost.json environment.json manifest.json diagnosis.json patch.diff "
    "curves.jsonl per_request.parquet"
).split()


class Tracker:
    """The null object: nothing is mirrored."""

    def start(self, folder: Path) -> None: ...

    def points(self, points: list[dict[str, Any]]) -> None: ...

    def finish(self, failed: bool = False) -> None: ...


@dataclass
class NullTracker(Tracker):
    pass


@dataclass
class MLflowTracker(Tracker):
    uri: str
    experiment: str = "rerankers"
    artifacts: str | None = None  # where artifacts of a new experiment go; null: the server's choice

    def start(self, folder: Path) -> None:
        """Opens the mirror of a run, or goes on with the one that `mlflow.json` names."""
        self.folder, self.sent_at, self.down = folder, time.monotonic(), os.environ.get(DOWN) == self.uri
        self.buffer: list[dict[str, Any]] = []
        path = folder / "mlflow.json"
        self.state: dict[str, Any] = read_json(path) if path.exists() else {}
        if self.state.get("uri") != self.uri:  # another server has none of it yet
            self.state = {}
        self._try(self._open)

    def points(self, points: list[dict[str, Any]]) -> None:
        if self.down:
            return  # `sync` reads curves.jsonl
        self.buffer += [p for p in points if p["step"] > self.state.get("sent", {}).get(p["name"], -1)]
        if len(self.buffer) >= BATCH or time.monotonic() - self.sent_at > SECONDS:
            self._try(self._flush)

    def finish(self, failed: bool = False) -> None:
        self._try(self._flush)
        self._try(self._diagnosis)
        if not failed:
            self._try(self._final)
        self._try(lambda: self._client().set_terminated(self.state["run_id"], "FAILED" if failed else "FINISHED"))
        if not failed and not self.down:
            self._save(finished=True)

    def _try(self, step: Callable[[], Any]) -> None:
        if self.down:
            return
        try:
            step()
        except Exception as error:
            self.down = True
            tell(self.uri, error, "nothing is lost")

    def _client(self) -> Any:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for noisy in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        import mlflow

        return mlflow.MlflowClient(self.uri)

    def experiment_id(self) -> str:
        """Made here the first time. Two processes that make a database's tables at once kill each other, so they
        take turns; a server makes its own."""
        who = hashlib.sha256(f"{self.uri} {user()}".encode()).hexdigest()[:16]
        turn = FileLock(Path(tempfile.gettempdir()) / f"rerankers-mlflow-{who}.lock")
        with nullcontext() if self.uri.startswith("http") else turn:
            client = self._client()
            found = client.get_experiment_by_name(self.experiment)
            if found:
                return found.experiment_id
            try:
                return client.create_experiment(self.experiment, self.artifacts)
            except Exception:  # another machine was faster
                if found := client.get_experiment_by_name(self.experiment):
                    return found.experiment_id
                raise

    def _open(self) -> None:
        experiment_id, client = self.experiment_id(), self._client()
        config = OmegaConf.to_container(OmegaConf.load(self.folder / "config.yaml"))
        assert isinstance(config, dict)
        tags, parent = self._tags({str(name): node for name, node in config.items()}), os.environ.get(PARENT)
        if "run_id" not in self.state and (lost := self._lost(experiment_id)):
            self._save(run_id=lost, uri=self.uri, sent={}, finished=False)
        if "run_id" in self.state:
            client.update_run(self.state["run_id"], status="RUNNING")
        else:
            run = client.create_run(experiment_id, tags=tags)
            self._save(run_id=run.info.run_id, uri=self.uri, sent={}, finished=False)
        if parent:
            self.adopt(parent, tags["sweep"])
        from mlflow.entities import Param

        kept = {name: node for name, node in config.items() if name not in NO_NUMBER}  # these may change later
        params = [Param(name, str(value)[:6000]) for name, value in flatten(kept).items()]
        for start in range(0, len(params), 100):  # sending equal ones again changes nothing
            client.log_batch(self.state["run_id"], params=params[start : start + 100])

    def adopt(self, parent: str, sweep: str) -> None:
        """Puts the run under a sweep's, unless it is under another."""
        client, run_id = self._client(), self.state["run_id"]
        above = client.get_run(run_id).data.tags.get("mlflow.parentRunId")
        if above is None:
            client.set_tag(run_id, "sweep", sweep)
            client.set_tag(run_id, "mlflow.parentRunId", parent)
        self._save(parent=above or parent)

    def _lost(self, experiment_id: str) -> str | None:
        """A run of this folder that was begun by a process killed before `mlflow.json` was written."""
        if "'" in str(self.folder):
            return None
        which = f"tags.run_folder = '{self.folder}' and attributes.status = 'RUNNING'"
        found = self._client().search_runs([experiment_id], which, max_results=1)
        return found[0].info.run_id if found else None

    def _tags(self, config: dict[str, Any]) -> dict[str, str]:
        """What the UI groups and filters by; runs that differ in seed or fold alone share `row`."""
        environment = read_json(self.folder / "environment.json")
        overrides = [str(word) for word in OmegaConf.load(self.folder / "overrides.yaml")]
        record = os.environ.get(RECORD)
        known = read_json(Path(record)) if record and Path(record).exists() else {}
        named = labels(config, overrides, known.get("swept", ()))
        kind = "run"
        if config["protocol"]["split"]["_target_"].endswith(".QueryFolds"):
            kind = "pool" if config["protocol"].get("fold") is None else "fold"
        if self.folder.parent.name == "evaluations":
            kind = "evaluation"
        return {
            "mlflow.runName": named["name"],
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": environment["command"][0],
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": str(environment["git_sha"]),
            "kind": kind,
            "dataset": config["dataset"]["name"],
            "reranker": config["reranker"]["name"],
            "candidates": config["candidates"]["mode"],
            "seed": str(config["seed"]),
            "row": named["row"],
            "experiment": named["experiment"],
            "sweep": Path(record).stem if record else "none",
            "run": self.folder.name,
            "git.dirty": str(environment["git_dirty"]),
            "run_folder": str(self.folder),
        }

    def _flush(self) -> None:
        from mlflow.entities import Metric

        while self.buffer:
            sent, metrics = dict(self.state.get("sent", {})), []
            for p in self.buffer[:BATCH]:
                for name, value in ((p["name"], p["value"]), ("epoch", p["epoch"])):
                    if value is not None and p["step"] > sent.get(name, -1):
                        metrics.append(Metric(CURVE + name, value, p["timestamp"], p["step"]))
                        sent[name] = p["step"]
            self._client().log_batch(self.state["run_id"], metrics=metrics)
            self._save(sent=sent)
            self.buffer = self.buffer[BATCH:]
        self.sent_at = time.monotonic()

    def _diagnosis(self) -> None:
        """Of a run that failed too: it says why."""
        if (path := self.folder / "diagnosis.json").exists():
            self._client().set_tag(self.state["run_id"], "diagnosis", read_json(path)["tag"])

    def _final(self) -> None:
        from mlflow.entities import Metric, RunTag

        client, run_id, path = self._client(), self.state["run_id"], self.folder / "metrics.json"
        when = int(path.stat().st_mtime * 1000)  # of a second try too, so that the same value stays one point
        manifest = read_json(self.folder / "manifest.json")
        final = shown(read_json(path), read_json(self.folder / "cost.json"), manifest["primary"])
        tags = [
            RunTag("candidates.sha256", manifest["candidates_sha256"]),
            RunTag("data.sha256", manifest["data_sha256"]),
            RunTag("labels", "; ".join(manifest["labels"])),
        ]
        client.log_batch(run_id, [Metric(name, value, when, 0) for name, value in final.items()], tags=tags)
        for there in [path for name in ARTIFACTS if (path := self.folder / name).exists()]:
            client.log_artifact(run_id, str(there))

    def _save(self, **changes: Any) -> None:
        self.state |= changes
        write_json(self.folder / "mlflow.json", self.state)


def tell(uri: str, error: Exception, consequence: str) -> None:
    """That a server failed, its first line alone, and how to go on."""
    hint = f"python -m experiments.sync tracking.uri={uri}"
    log.warning("MLflow at %s failed (%s); %s, send it later: %s", uri, first_line(error), consequence, hint)


def first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:200]


def send(folder: Path, tracker: MLflowTracker) -> bool:
    """Sends what is missing of a finished run folder; False if the server failed again."""
    tracker.start(folder)
    tracker.points(read_curves(folder))
    tracker.finish()
    return not tracker.down


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix.rstrip("."): config}
    return {name: value for key, node in config.items() for name, value in flatten(node, f"{prefix}{key}.").items()}
