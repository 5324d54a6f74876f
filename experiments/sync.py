"""Sends to MLflow what a server that was down has missed: python -m experiments.sync [tracking.uri=...]

Every run folder under paths.root whose mirror is not finished is sent from where it stopped; nothing is sent twice.
"""

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from experiments.launch import job, launch


def sync(cfg: DictConfig) -> None:
    from data.errors import UserError
    from data.files import read_json
    from experiments.building import build
    from experiments.tracking import MLflowTracker, send

    tracking: Any = OmegaConf.to_container(cfg.tracking, resolve=True)
    tracker = build(tracking, "tracking")
    if not isinstance(tracker, MLflowTracker):
        raise UserError("tracking=none has no server to send to; choose tracking=mlflow")
    sent = 0
    for manifest in sorted(Path(cfg.paths.root).glob("runs/**/manifest.json")):
        mirror = manifest.parent / "mlflow.json"
        config = OmegaConf.load(manifest.parent / "config.yaml")
        if config.tracking["_target_"] != "experiments.tracking.MLflowTracker":  # the run asked for none
            continue
        state = read_json(mirror) if mirror.exists() else {}
        if state.get("finished") and state.get("uri") == tracker.uri:
            continue
        if not send(manifest.parent, tracker):
            raise UserError(f"{sent} runs sent, then {tracker.uri} failed; start the server and repeat the command")
        sent += 1
        print(f"sent {manifest.parent.name}")
    print(f"{sent} runs sent to {tracker.uri}; the others were there already")


if __name__ == "__main__":
    launch(hydra.main(version_base="1.3", config_path="../conf", config_name="sync")(job(sync)))
