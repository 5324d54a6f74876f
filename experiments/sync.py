"""Sends to MLflow what a server that was down has missed: python -m experiments.sync [tracking.uri=...]

Every run folder under paths.root whose mirror is not finished is sent from where it stopped; nothing is sent twice.
A run that the server refuses does not keep the others back; a server that does not answer is asked no further.
"""

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from experiments.launch import job, launch


def sync(cfg: DictConfig) -> None:
    from filelock import Timeout

    from data.errors import UserError
    from experiments.building import build
    from experiments.runs import Run
    from experiments.tracking import MLflowTracker, send

    tracking: Any = OmegaConf.to_container(cfg.tracking, resolve=True)
    tracker = build(tracking, "tracking")
    if not isinstance(tracker, MLflowTracker):
        raise UserError("tracking=none has no server to send to; choose tracking=mlflow")
    root = Path(cfg.paths.root).expanduser().resolve()
    to_send = unsent(root, tracker.uri)
    sent, refused = 0, []
    for number, folder in enumerate(to_send, start=1):
        try:
            with Run(folder).lock(root).acquire(timeout=0):
                if send(folder, tracker):
                    sent += 1
                    print(f"sent {folder.name}", flush=True)
                    continue
        except Timeout:
            print(f"left out {folder.name}: another process is at work on it", flush=True)
            continue
        refused.append(folder.name)
        if not answers(tracker):
            rest = len(to_send) - number
            raise UserError(
                f"{sent} runs sent, then {tracker.uri} did not answer at {folder.name}, {rest} runs not tried; "
                "start the server and repeat the command"
            )
    if refused:
        raise UserError(
            f"{sent} runs sent to {tracker.uri}, {len(refused)} failed, each for the reason above: "
            f"{', '.join(refused)}; the same command tries them again"
        )
    print(f"{sent} runs sent to {tracker.uri}; the others were there already")


def unsent(root: Path, uri: str) -> list[Path]:
    """The finished run folders whose mirror at `uri` is not finished, but for runs that asked for none."""
    from data.files import read_json

    out = []
    for manifest in sorted(root.glob("runs/**/manifest.json")):
        folder, mirror = manifest.parent, manifest.parent / "mlflow.json"
        config = OmegaConf.load(folder / "config.yaml")
        if config.tracking["_target_"] != "experiments.tracking.MLflowTracker":
            continue
        state = read_json(mirror) if mirror.exists() else {}
        if not state.get("finished") or state.get("uri") != uri:
            out.append(folder)
    return out


def answers(tracker: Any) -> bool:
    """Whether the server or database is there at all; whatever else goes wrong is no answer to that."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        tracker.experiment_id()
    except (MlflowException, SQLAlchemyError, OSError):
        return False
    return True


if __name__ == "__main__":
    launch(hydra.main(version_base="1.3", config_path="../conf", config_name="sync")(job(sync)))
