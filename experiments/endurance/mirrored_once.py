"""Whether an MLflow server has the finished runs of a root, each once and whole."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from data.files import read_json
from experiments.curves import read_curves
from experiments.run_mirror import ARTIFACTS, CURVE
from experiments.run_names import shown

EXPERIMENT = "rerankers"


def differences(uri: str, root: Path) -> list[str]:
    """What the server has more or less than the folders; nothing if all is there exactly once."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    of = client.get_experiment_by_name(EXPERIMENT)
    if of is None:
        return ["no experiment"]
    folders = [path.parent for path in sorted(root.glob("runs/**/manifest.json"))]
    runs = client.search_runs([of.experiment_id])
    there = [run for run in runs if Path(run.data.tags.get("run_folder", "")).is_relative_to(root)]
    out = [] if folders else ["no finished run"]
    if len(there) != len(folders):
        out.append(f"{len(there)} runs where {len(folders)} are finished")
    for folder in folders:
        own = [run for run in there if run.data.tags["run_folder"] == str(folder)]
        out += of_run(client, own[0], folder) if len(own) == 1 else [f"{len(own)} runs of {folder.name}"]
    return out


def of_run(client: Any, run: Any, folder: Path) -> list[str]:
    out = [] if run.info.status == "FINISHED" else [f"{folder.name} is {run.info.status}"]
    points = Counter(
        (f"{CURVE}{p['name']}", p["step"], p["value"]) for p in read_curves(folder) if p["value"] is not None
    )
    points |= Counter({(f"{CURVE}epoch", p["step"], p["epoch"]): 1 for p in read_curves(folder)})
    primary = read_json(folder / "manifest.json")["primary"]
    final = shown(read_json(folder / "metrics.json"), read_json(folder / "cost.json"), primary)
    points |= Counter({(name, 0, value): 1 for name, value in final.items()})
    names = {*run.data.metrics, *(name for name, _, _ in points)}
    sent = Counter(
        (m.key, m.step, m.value) for name in names for m in client.get_metric_history(run.info.run_id, name)
    )
    if sent != points:
        less, more = points - sent, sent - points
        out.append(f"points: {less.total()} missing {list(less)[:2]}, {more.total()} too many {list(more)[:2]}")
    wanted = {name for name in ARTIFACTS if (folder / name).exists()}
    if (files := {file.path for file in client.list_artifacts(run.info.run_id)}) != wanted:
        out.append(f"files {sorted(files ^ wanted)} are missing or too many")
    with tempfile.TemporaryDirectory() as place:
        for name in files & wanted:
            copy = Path(client.download_artifacts(run.info.run_id, name, place))
            if copy.read_bytes() != (folder / name).read_bytes():
                out.append(f"{name} differs")
    return out
