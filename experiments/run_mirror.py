"""One run folder in MLflow. All calls are made by a thread of its own, see `experiments.patience`.

The folder is the truth, the server knows how much of it it has. `mlflow.json` holds `key`, written before the
run is made and a tag of it, so that a run is found again when the answer was lost, `run_id`, and whether all is sent;
under `elsewhere` the same of each other server that it was sent to before.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.files import read_json, read_yaml, write_json
from experiments.curves import read_curves
from experiments.patience import Courier, GivenUpError, Patience, no_answer, tell
from experiments.run_names import shown
from experiments.run_tags import parameters_of, tags_of_run

if TYPE_CHECKING:
    from experiments.tracking import MLflowTracker

CURVE = "curve/"  # so that a curve and a final value never share a name
BATCH, SECONDS = 500, 10.0
AT_ONCE, LATER = 0.5, 60.0  # seconds until a call that failed is repeated: once at once, then while training goes on
HELD = 20 * BATCH  # points that wait for a server that hangs; the file has them all
ARTIFACTS = (  # enough for tables from the server alone
    "config.yaml overrides.yaml metrics.json cost.json environment.json manifest.json diagnosis.json patch.diff "
    "curves.jsonl per_request.parquet"
).split()


class RunMirror:
    """`parent` and `record` are the MLflow run and the file of the sweep."""

    def __init__(
        self, tracker: MLflowTracker, folder: Path, patience: Patience, parent: str | None, record: Path | None
    ) -> None:
        self.tracker, self.folder, self.parent, self.record = tracker, folder, parent, record
        found = mirrors(folder)
        self.state: dict[str, Any] = found.pop(tracker.uri, {})
        self.elsewhere = {"elsewhere": found} if found else {}
        self.known = bool(self.state)  # the server may have something of it
        self.in_doubt = self.known and "run_id" not in self.state  # a run may have been made without our knowing
        self.courier = Courier(patience)
        if not self.known:
            self._save(uri=tracker.uri, key=uuid.uuid4().hex, sweep=record.stem if record else None, finished=False)
        self.buffer: list[dict[str, Any]] = []
        self.sent: dict[str, int] = {}  # curve -> its last step there
        self.opened = self.down = self.told = self.asked = False
        self.behind = True  # the points to send are in the file, not all in the buffer
        self.tried_at = time.monotonic()

    def open(self) -> None:
        self._give(self._open)

    def points(self, points: list[dict[str, Any]]) -> None:
        """Sent every 10 s; a server that is down is asked again every minute."""
        self.behind |= len(self.buffer) > HELD
        if not self.behind:  # else they are read from the file, where they stand already
            self.buffer += points
        waited = time.monotonic() - self.tried_at
        if not self.asked and (waited > (LATER if self.down else SECONDS) or len(self.buffer) >= BATCH):
            self._give(self._catch_up)

    def finish(self, failed: bool) -> bool:
        """Whether the server has all of it."""
        self._give(lambda: self._end(failed))
        return self._wait()

    def adopt(self, parent: str, sweep: str) -> bool:
        """Puts a finished run under a sweep's; whether the server took it."""
        self._give(lambda: self._adopt(parent, sweep))
        return self._wait()

    def _wait(self) -> bool:
        if not self.courier.wait():
            self._failed(no_answer(self.courier.patience))
        return not self.down

    def _give(self, step: Callable[[], None]) -> None:
        self.asked = True
        self.courier.give(lambda: self._try(step))

    def _try(self, step: Callable[[], None]) -> None:
        """Every step can be repeated: it changes nothing that the server has already."""
        if self.down and time.monotonic() - self.tried_at < LATER:
            self.asked = False
            return
        try:
            try:
                step()
            except GivenUpError:
                raise
            except Exception:  # of a connection that was lost, say
                time.sleep(AT_ONCE)
                step()
            self.down = False
        except GivenUpError:
            raise
        except Exception as failure:
            error = failure
            self.courier.write(lambda: self._failed(error))
        self.tried_at, self.asked = time.monotonic(), False

    def _failed(self, error: Exception) -> None:
        self.down = self.behind = True
        self.buffer.clear()
        if not self.told:
            runs = next(above for above in self.folder.parents if above.name == "runs")  # evaluations are deeper
            tell(self.tracker.uri, runs.parent, error, "nothing is lost")
        self.told = True

    def _client(self, n_bytes: int = 0) -> Any:
        self.courier.before_call(n_bytes)
        return self.tracker.client()

    def _open(self) -> None:
        if self.opened:
            return
        self.courier.before_call()
        self.experiment_id = self.tracker.experiment_id()
        config = read_yaml(self.folder / "config.yaml")
        tags = tags_of_run(self.folder, config, self.record)
        known = self.known
        if "run_id" not in self.state:
            self._save(run_id=self._lost() or self._create(tags))
        elif not self.state.get("finished"):
            self._client().update_run(self.state["run_id"], status="RUNNING")
        if known:
            self._ask_what_is_there()
        if self.parent:
            self._adopt(self.parent, tags["sweep"])
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in parameters_of(config).items()]
        for start in range(0, len(params), 100):
            self._client().log_batch(self.state["run_id"], params=params[start : start + 100])
        self.opened = True

    def _create(self, tags: dict[str, str]) -> str:
        client, doubted = self._client(), self.in_doubt
        self.known = self.in_doubt = True
        tags["mirror_key"] = self.state["key"]
        run_id = client.create_run(self.experiment_id, tags=tags).info.run_id
        self.in_doubt = doubted
        return run_id

    def _lost(self) -> str | None:
        """The run that was made by a process, or for a request, whose answer never came. Another that was made late,
        when a server that hung went on, is deleted."""
        if not self.in_doubt:
            return None
        which = f"tags.mirror_key = '{self.state['key']}'"
        found = [run.info.run_id for run in self._client().search_runs([self.experiment_id], which)]
        own = self.state.get("run_id") or next(iter(found), None)
        for run_id in found:
            if run_id != own:
                self._client().delete_run(run_id)
        return own

    def _ask_what_is_there(self) -> None:
        """How far each curve is, as no answer that was lost can say."""
        run_id = self.state["run_id"]
        for name in self._client().get_run(run_id).data.metrics:
            if name.startswith(CURVE):
                steps = [point.step for point in self._client().get_metric_history(run_id, name)]
                self.sent[name.removeprefix(CURVE)] = max(steps)

    def _adopt(self, parent: str, sweep: str) -> None:
        """Unless it is under another sweep's."""
        run_id = self.state["run_id"]
        above = self._client().get_run(run_id).data.tags.get("mlflow.parentRunId")
        if above is None:
            self._client().set_tag(run_id, "sweep", sweep)
            self._client().set_tag(run_id, "mlflow.parentRunId", parent)
        self._save(parent=above or parent)

    def _catch_up(self) -> None:
        from mlflow.entities import Metric

        self._open()
        while self.buffer or self.behind:
            if self.behind:
                self.buffer.clear()  # the file has these too
                self.behind = False  # from here on training adds to the buffer's end
                self.buffer[:0] = read_curves(self.folder)
            part = self.buffer[:BATCH]
            sent, metrics = dict(self.sent), []
            for p in part:
                for name, value in ((p["name"], p["value"]), ("epoch", p["epoch"])):
                    if value is not None and p["step"] > sent.get(name, -1):
                        metrics.append(Metric(CURVE + name, value, p["timestamp"], p["step"]))
                        sent[name] = p["step"]
            if metrics:
                self._client().log_batch(self.state["run_id"], metrics=metrics)
            self.sent = sent
            del self.buffer[: len(part)]

    def _end(self, failed: bool) -> None:
        try:
            self._catch_up()
            if (path := self.folder / "diagnosis.json").exists():  # of a run that failed too: it says why
                self._client().set_tag(self.state["run_id"], "diagnosis", read_json(path)["tag"])
            if not failed:
                self._final()
        except GivenUpError:
            raise
        except Exception:  # refused, say: it must not look as if it were at work
            if "run_id" in self.state:
                with suppress(Exception):
                    self._client().set_terminated(self.state["run_id"], "FAILED")
            raise
        self._lost()
        self._client().set_terminated(self.state["run_id"], "FAILED" if failed else "FINISHED")
        self._save(finished=not failed)

    def _final(self) -> None:
        from mlflow.entities import Metric, RunTag

        run_id, path = self.state["run_id"], self.folder / "metrics.json"
        when = int(path.stat().st_mtime * 1000)  # of a second try too, so that the same value stays one point
        manifest = read_json(self.folder / "manifest.json")
        final = shown(read_json(path), read_json(self.folder / "cost.json"), manifest["primary"])
        tags = [
            RunTag("candidates.sha256", manifest["candidates_sha256"]),
            RunTag("data.sha256", manifest["data_sha256"]),
            RunTag("labels", "; ".join(manifest["labels"])),
        ]
        self._client().log_batch(run_id, [Metric(name, value, when, 0) for name, value in final.items()], tags=tags)
        for there in [path for name in ARTIFACTS if (path := self.folder / name).exists()]:
            self._client(there.stat().st_size).log_artifact(run_id, str(there))

    def _save(self, **changes: Any) -> None:
        state = self.state | changes
        self.courier.write(lambda: write_json(self.folder / "mlflow.json", state | self.elsewhere))
        self.state = state


def mirrored(folder: Path, uri: str) -> dict[str, Any]:
    """What the server at `uri` has of a run folder, as its file says."""
    return mirrors(folder).get(uri, {})


def mirrors(folder: Path) -> dict[str, dict[str, Any]]:
    """Address -> what the server there has of a run folder."""
    path = folder / "mlflow.json"
    state = read_json(path) if path.exists() else {}
    others = state.pop("elsewhere", {})
    return others | ({state["uri"]: state} if "uri" in state else {})
