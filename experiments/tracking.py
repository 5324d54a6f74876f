"""MLflow as a mirror of run folders: it may be slow, down or absent, and training never notices.

Points are buffered and sent with `log_batch` (one call for each costs 20 ms on sqlite). The first failure is told
once; from then on nothing is sent, and `python -m experiments.sync` sends the rest later. `mlflow.json` in the run
folder says how far the mirror is, so nothing is sent twice.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from data.files import read_json, write_json
from experiments.curves import read_curves

log = logging.getLogger(__name__)
PARENT = "RERANK_MLFLOW_PARENT"  # environment variable: the sweep's run, made once before the jobs fan out
NO_PARAMS = (
    "force",
    "check",
    "diagnose",
    "paths",
    "tracking",
)  # may change when a run is continued; MLflow's params may not
CURVE = "curve/"  # so that a curve and a final value never share a name
BATCH, SECONDS = 500, 10.0
INTERVALS = re.compile(r"/(chance_)?(low|high)/")  # in metrics.json, which goes along; here they hide the rest
ARTIFACTS = "config.yaml metrics.json cost.json environment.json manifest.json diagnosis.json patch.diff".split()


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
        self.folder, self.sent_at, self.down = folder, time.monotonic(), False
        self.buffer: list[dict[str, Any]] = []
        mirror = folder / "mlflow.json"
        self.state: dict[str, Any] = read_json(mirror) if mirror.exists() else {}
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
            first = str(error).split("\n")[0][:200]
            hint = f"python -m experiments.sync tracking.uri={self.uri}"
            log.warning("MLflow at %s failed (%s); nothing is lost, send it later: %s", self.uri, first, hint)

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
        client = self._client()
        found = client.get_experiment_by_name(self.experiment)
        return found.experiment_id if found else client.create_experiment(self.experiment, self.artifacts)

    def _open(self) -> None:
        client = self._client()
        if "run_id" in self.state:
            client.update_run(self.state["run_id"], status="RUNNING")
        config = OmegaConf.to_container(OmegaConf.load(self.folder / "config.yaml"))
        environment = read_json(self.folder / "environment.json")
        assert isinstance(config, dict)
        tags = {
            "mlflow.runName": self.folder.name,
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": environment["command"][0],
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": str(environment["git_sha"]),
            "kind": "evaluation" if self.folder.parent.name == "evaluations" else "run",
            "dataset": config["dataset"]["name"],
            "reranker": config["reranker"]["name"],
            "candidates": config["candidates"]["mode"],
            "seed": str(config["seed"]),
            "git.dirty": str(environment["git_dirty"]),
            "run_folder": str(self.folder),
        }
        if parent := os.environ.get(PARENT):
            tags["mlflow.parentRunId"] = parent
        if "run_id" not in self.state:
            run = client.create_run(self.experiment_id(), tags=tags)
            self._save(run_id=run.info.run_id, uri=self.uri, sent={}, finished=False)
        from mlflow.entities import Param

        kept = {name: node for name, node in config.items() if name not in NO_PARAMS}
        params = [Param(name, str(value)[:6000]) for name, value in flatten(kept).items()]
        for start in range(0, len(params), 100):  # sending equal ones again changes nothing
            client.log_batch(self.state["run_id"], params=params[start : start + 100])

    def _flush(self) -> None:
        if not self.buffer:
            return
        from mlflow.entities import Metric

        points = [p for p in self.buffer if p["value"] is not None]
        metrics = [Metric(CURVE + p["name"], p["value"], p["timestamp"], p["step"]) for p in points]
        epochs = {p["step"]: Metric(CURVE + "epoch", p["epoch"], p["timestamp"], p["step"]) for p in points}
        everything = metrics + list(epochs.values())
        for start in range(0, len(everything), 1000):
            self._client().log_batch(self.state["run_id"], metrics=everything[start : start + 1000])
        sent = dict(self.state.get("sent", {}))
        for p in self.buffer:
            sent[p["name"]] = max(p["step"], sent.get(p["name"], -1))
        self._save(sent=sent)
        self.buffer, self.sent_at = [], time.monotonic()

    def _diagnosis(self) -> None:
        """Of a run that failed too: it says why."""
        path = self.folder / "diagnosis.json"
        if path.exists():
            self._client().set_tag(self.state["run_id"], "diagnosis", read_json(path)["tag"])

    def _final(self) -> None:
        from mlflow.entities import Metric, RunTag

        client, run_id, now = self._client(), self.state["run_id"], int(time.time() * 1000)
        final = read_json(self.folder / "metrics.json")
        final |= {
            f"cost/{n}": v for n, v in read_json(self.folder / "cost.json").items() if isinstance(v, int | float)
        }
        metrics = [Metric(name, value, now, 0) for name, value in final.items() if not INTERVALS.search(name)]
        manifest = read_json(self.folder / "manifest.json")
        tags = [
            RunTag("candidates.sha256", manifest["candidates_sha256"]),
            RunTag("data.sha256", manifest["data_sha256"]),
        ]
        tags += [RunTag("labels", "; ".join(manifest["labels"]))]
        client.log_batch(run_id, metrics=metrics, tags=tags)
        for name in ARTIFACTS:
            if (self.folder / name).exists():
                client.log_artifact(run_id, str(self.folder / name))

    def _save(self, **changes: Any) -> None:
        self.state |= changes
        write_json(self.folder / "mlflow.json", self.state)


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


class SweepParent(Callback):
    """One parent run for a sweep, made before its jobs start: parallel jobs on a new database kill each other."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        tracking = OmegaConf.to_container(config.tracking, resolve=True)
        assert isinstance(tracking, dict)
        if tracking.pop("_target_", None) != "experiments.tracking.MLflowTracker":
            return
        try:
            self.tracker = MLflowTracker(**{str(name): value for name, value in tracking.items()})
            client = self.tracker._client()
            tags = {
                "mlflow.runName": "sweep",
                "kind": "sweep",
                "command": " ".join(config.hydra.overrides.task),
            }
            self.run_id = client.create_run(self.tracker.experiment_id(), tags=tags).info.run_id
        except Exception as error:
            log.warning("MLflow at %s failed (%s); the sweep has no parent run", tracking.get("uri"), str(error)[:200])
            return
        os.environ[PARENT] = self.run_id
        import atexit

        atexit.register(self._close, "FAILED")  # Hydra does not call on_multirun_end when a job failed

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        self._close("FINISHED")

    def _close(self, status: str) -> None:
        if os.environ.pop(PARENT, None):
            try:
                self.tracker._client().set_terminated(self.run_id, status)
            except Exception as error:
                log.warning("MLflow failed at the sweep's end (%s)", str(error)[:200])
