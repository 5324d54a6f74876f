"""MLflow as a mirror of run folders: it may be slow, hang, answer nonsense or be absent, and training never notices.

Points are buffered and sent with `log_batch` (one call for each costs 20 ms on sqlite), by a thread that training does
not wait for; the end of a run waits some seconds. What fails is told once, tried again each minute while training
goes on, and sent by `python -m experiments.sync` where that was not enough. Nothing is there twice.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from experiments.gpus import user
from experiments.mlflow_database import is_new, make_database
from experiments.patience import SENDING, Patience, patience_for
from experiments.run_mirror import RunMirror

PARENT = "RERANK_MLFLOW_PARENT"  # environment variable: the sweep's run, made once before the jobs fan out
RECORD = "RERANK_SWEEP_RECORD"  # environment variable: the sweep's file, see `experiments.sweeps`
DOWN = "RERANK_MLFLOW_DOWN"  # environment variable: the server that this process, or its sweep, has given up


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
        self.silent = os.environ.get(DOWN) == self.uri  # `sync` sends it
        record = os.environ.get(RECORD)
        self.mirror = self.mirror_of(
            folder, patience_for(self.uri), os.environ.get(PARENT), Path(record) if record else None
        )
        if not self.silent:
            self.prepare()
            self.mirror.open()

    def points(self, points: list[dict[str, Any]]) -> None:
        if not self.silent:
            self.mirror.points(points)

    def finish(self, failed: bool = False) -> None:
        if not self.silent and not self.mirror.finish(failed) and self.mirror.courier.given_up:
            os.environ[DOWN] = self.uri

    def mirror_of(
        self, folder: Path, patience: Patience, parent: str | None = None, record: Path | None = None
    ) -> RunMirror:
        return RunMirror(self, folder, patience, parent, record)

    def prepare(self) -> None:
        """Imports, which take seconds for which no server is to blame. Nothing is opened."""
        # a request that MLflow repeats by itself, though the server has done it, makes a run twice
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for noisy in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        import mlflow
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    def client(self) -> Any:
        """Of a database whose tables are there: a client makes them where they are not, and a kill leaves a part."""
        self.prepare()
        from mlflow import MlflowClient

        if is_new(self.uri):
            with self._turn():
                make_database(self.uri, MlflowClient)
        return MlflowClient(self.uri)

    def _turn(self) -> FileLock:
        who = hashlib.sha256(f"{self.uri} {user()}".encode()).hexdigest()[:16]
        return FileLock(Path(tempfile.gettempdir()) / f"rerankers-mlflow-{who}.lock")

    def experiment_id(self) -> str:
        """Made here the first time. Two processes that make a database's tables at once kill each other, so they
        take turns; a server makes its own."""
        client = self.client()
        with nullcontext() if self.uri.startswith("http") else self._turn():
            found = client.get_experiment_by_name(self.experiment)
            if found:
                return found.experiment_id
            try:
                return client.create_experiment(self.experiment, self.artifacts)
            except Exception:  # another machine was faster
                if found := client.get_experiment_by_name(self.experiment):
                    return found.experiment_id
                raise


def send(
    folder: Path,
    tracker: MLflowTracker,
    patience: Patience = SENDING,
    parent: str | None = None,
    record: Path | None = None,
) -> bool:
    """Sends what is missing of a finished run folder, under a sweep's run if there is one; False if the server failed
    again."""
    tracker.prepare()
    return tracker.mirror_of(folder, patience, parent, record).finish(failed=False)
