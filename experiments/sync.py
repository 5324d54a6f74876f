"""Sends to MLflow what a server that was down has missed: python -m experiments.sync [tracking.uri=...]

Every run folder under paths.root whose mirror is not finished is sent from where it stopped, the runs of a sweep under
the sweep's run; nothing is sent twice. A run that the server refuses does not keep the others back; a server that does
not answer is asked no further.
"""

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from experiments.launch import job, launch


def sync(cfg: DictConfig) -> None:
    from data.errors import UserError
    from experiments.building import build
    from experiments.tracking import MLflowTracker

    tracking: Any = OmegaConf.to_container(cfg.tracking, resolve=True)
    tracker = build(tracking, "tracking")
    if not isinstance(tracker, MLflowTracker):
        raise UserError("tracking=none has no server to send to; choose tracking=mlflow")
    Sending(tracker, Path(cfg.paths.root).expanduser().resolve()).all()


class Sending:
    def __init__(self, tracker: Any, root: Path) -> None:
        self.tracker, self.root = tracker, root
        self.to_send = unsent(root, tracker.uri)
        self.sent, self.refused, self.tried = 0, list[str](), 0

    def all(self) -> None:
        from data.errors import UserError

        of_sweeps = by_sweep(self.root, self.to_send, self.tracker.uri)
        for record, folders in of_sweeps.items():
            self._sweep(record, folders)
        in_sweeps = {folder for folders in of_sweeps.values() for folder in folders}
        for folder in self.to_send:
            if folder not in in_sweeps:
                self._run(folder)
        if self.refused:
            raise UserError(
                f"{self.sent} runs sent to {self.tracker.uri}, {len(self.refused)} failed, each for the reason above: "
                f"{', '.join(self.refused)}; the same command tries them again"
            )
        print(f"{self.sent} runs sent to {self.tracker.uri}; the others were there already")

    def _sweep(self, record: Path, folders: list[Path]) -> None:
        """The sweep's run, and its runs under it. Finished if all its jobs are."""
        from data.files import read_json, read_yaml, write_json
        from experiments.patience import SENDING
        from experiments.runs import Run
        from experiments.sweep_mirror import SweepMirror
        from experiments.sweep_record import tags_of, turn

        mirror = SweepMirror(self.tracker, record, SENDING)
        with turn(record):
            content = read_json(record)
            datasets = sorted({read_yaml(folder / "config.yaml")["dataset"]["name"] for folder in folders})
            content["mlflow"] = mirror.open(content.get("mlflow"), tags_of(content, datasets))
            if mirror.down:
                raise self._gone(record.stem)
            write_json(record, content)
        for folder in folders:
            self._run(folder, mirror.run_id, record)
        runs = [self.root / "runs" / job["run"] if job["run"] else None for job in content["jobs"]]
        whole = all(folder and Run(folder).complete for folder in runs)
        took = mirror.close(whole)
        with turn(record):
            content = read_json(record)
            content["mlflow"]["finished"] = whole and took
            write_json(record, content)

    def _run(self, folder: Path, parent: str | None = None, record: Path | None = None) -> None:
        from filelock import Timeout

        from experiments.patience import SENDING
        from experiments.runs import Run
        from experiments.tracking import send

        self.tried += 1
        try:
            with Run(folder).lock(self.root).acquire(timeout=0):
                if self._is_there(folder):  # another `sync` was faster
                    return
                if send(folder, self.tracker, SENDING, parent, record):
                    self.sent += 1
                    print(f"sent {folder.name}", flush=True)
                    return
        except Timeout:
            print(f"left out {folder.name}: another process is at work on it", flush=True)
            return
        self.refused.append(folder.name)
        if not answers(self.tracker):
            raise self._gone(folder.name)

    def _is_there(self, folder: Path) -> bool:
        from experiments.run_mirror import mirrored

        return bool(mirrored(folder, self.tracker.uri).get("finished"))

    def _gone(self, at: str) -> Exception:
        from data.errors import UserError

        return UserError(
            f"{self.sent} runs sent, then {self.tracker.uri} did not answer at {at}, "
            f"{len(self.to_send) - self.tried} runs not tried; start the server and repeat the command"
        )


def unsent(root: Path, uri: str) -> list[Path]:
    """The finished run folders whose mirror at `uri` is not finished, but for runs that asked for none."""
    from data.files import read_yaml
    from experiments.run_mirror import mirrored

    out = []
    for manifest in sorted(root.glob("runs/**/manifest.json")):
        folder = manifest.parent
        if read_yaml(folder / "config.yaml")["tracking"]["_target_"] != "experiments.tracking.MLflowTracker":
            continue
        if not mirrored(folder, uri).get("finished"):
            out.append(folder)
    return out


def by_sweep(root: Path, folders: list[Path], uri: str) -> dict[Path, list[Path]]:
    """Record -> what is to be sent under it: the runs that the sweep has made. A sweep whose runs are all there is to
    be ended, if its server was gone by then."""
    from data.files import read_json

    out: dict[Path, list[Path]] = {}
    for folder in folders:
        mirror = folder / "mlflow.json"
        name = read_json(mirror).get("sweep") if mirror.exists() else None
        if name and (record := root / "sweeps" / f"{name}.json").exists():
            out.setdefault(record, []).append(folder)
    for record in sorted(root.glob("sweeps/*.json")):
        content = read_json(record)
        where, runs = content.get("mlflow"), [job["run"] for job in content["jobs"]]
        whole = all(run and (root / "runs" / run / "manifest.json").exists() for run in runs)
        if where and where["uri"] == uri and whole and not where.get("finished"):
            out.setdefault(record, [])
    return out


def mirror_the_rest(folder: Path, tracker: Any) -> None:
    """Of a finished run whose mirror was begun and cut off, by a kill after the manifest: the same command ends it."""
    from experiments.patience import patience_for
    from experiments.run_mirror import mirrored
    from experiments.tracking import MLflowTracker, send

    if isinstance(tracker, MLflowTracker) and mirrored(folder, tracker.uri).get("finished") is False:
        send(folder, tracker, patience_for(tracker.uri))


def answers(tracker: Any) -> bool:
    """Whether the server or database is there at all; whatever else goes wrong is no answer to that."""
    from experiments.patience import SENDING, patiently

    return patiently(SENDING, tracker.experiment_id) is None


if __name__ == "__main__":
    launch(hydra.main(version_base="1.3", config_path="../conf", config_name="sync")(job(sync)))
