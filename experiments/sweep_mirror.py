"""A sweep in MLflow: one parent run for one sweep, however often it is called, and its finished runs under it.

The parent is made before the jobs fan out, by the launcher's process alone, because parallel jobs on a new database
kill each other. Each call of the server has some seconds. The first failure is told once; from then on neither the
sweep nor its jobs ask the server again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.patience import Patience, patience_for, patiently, tell
from experiments.run_mirror import mirrored
from experiments.runs import Run, is_free
from experiments.tracking import DOWN, PARENT, MLflowTracker, send


class SweepMirror:
    def __init__(self, tracker: MLflowTracker, record: Path, patience: Patience | None = None) -> None:
        self.patience = patience or patience_for(tracker.uri)
        self.tracker, self.record, self.name, self.run_id, self.down = tracker, record, record.stem, "", False

    def open(self, known: dict[str, Any] | None, tags: dict[str, str]) -> dict[str, Any] | None:
        """Makes the sweep's run, or takes up the one that is `known` or that the server has; what to record of it."""
        os.environ.pop(DOWN, None)  # of a sweep before
        self._try(lambda: self._open(known, tags))
        if self.down:
            os.environ[DOWN] = self.tracker.uri
            return known
        os.environ[PARENT] = self.run_id
        return {"uri": self.tracker.uri, "run_id": self.run_id}

    def complete(self, folders: list[Path]) -> None:
        """Finished runs: one that was made without a sweep comes under this one, and one whose mirror was cut off
        after its manifest is sent again. Those of another sweep stay there."""
        for folder in folders:
            if not self._gone():
                self._complete(folder)

    def knows(self, record: dict[str, Any] | None, folders: list[Path]) -> bool:
        """Whether the server has all of it already, by what the files say: then it need not be asked."""
        mirrors = [mirrored(folder, self.tracker.uri) for folder in folders]
        there = all(m.get("finished") and m.get("parent") for m in mirrors)
        return bool(record and record["uri"] == self.tracker.uri and record.get("finished") and there)

    def close(self, finished: bool) -> bool:
        """Ends the parent, and what jobs that were killed have left running; whether the server took it."""
        self._try(self._end_the_dead)
        status = "FINISHED" if finished else "FAILED"
        self._try(lambda: self.tracker.client().set_terminated(self.run_id, status))
        os.environ.pop(PARENT, None)
        return not self.down

    def _gone(self) -> bool:
        """Whether the server failed here, or a job has waited for it in vain."""
        self.down |= os.environ.get(DOWN) == self.tracker.uri
        return self.down

    def _try(self, step: Callable[[], Any]) -> None:
        if self._gone():
            return
        self.tracker.prepare()
        if error := patiently(self.patience, step):
            self.down = True
            tell(self.tracker.uri, self.record.parent.parent, error, "the sweep goes on")

    def _open(self, known: dict[str, Any] | None, tags: dict[str, str]) -> None:
        experiment_id, client = self.tracker.experiment_id(), self.tracker.client()
        if known and known["uri"] == self.tracker.uri:
            which = f"attributes.run_id = '{known['run_id']}'"
        else:  # its record is lost, or was written for another server
            which = f"tags.kind = 'sweep' and tags.sweep = '{self.name}'"
        if found := client.search_runs([experiment_id], which, max_results=1):  # not among the deleted ones
            self.run_id = found[0].info.run_id
            client.update_run(self.run_id, status="RUNNING")
            return
        tags = {"mlflow.runName": self.name} | tags | {"kind": "sweep", "sweep": self.name}
        self.run_id = client.create_run(experiment_id, tags=tags).info.run_id

    def _complete(self, folder: Path) -> None:
        state = mirrored(folder, self.tracker.uri)
        if not state.get("finished"):
            with Run(folder).lock(folder.parent.parent):
                self.down = not send(folder, self.tracker, self.patience, self.run_id, self.record)
        elif "parent" not in state:
            mirror = self.tracker.mirror_of(folder, self.patience)
            self.down = not mirror.adopt(self.run_id, self.name)

    def _end_the_dead(self) -> None:
        client = self.tracker.client()
        which = f"tags.mlflow.parentRunId = '{self.run_id}' and attributes.status = 'RUNNING'"
        for run in client.search_runs([self.tracker.experiment_id()], which):
            folder = Path(run.data.tags.get("run_folder", ""))
            if not folder.name or not folder.parent.is_dir():  # another machine's
                continue
            if is_free(Run(folder).lock(folder.parent.parent)):  # no process is at work on it
                client.set_terminated(run.info.run_id, "KILLED")
