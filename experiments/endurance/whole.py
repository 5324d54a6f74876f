"""Whether every file under a root that claims to be whole is: what is looked at after each kill and each full disk."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

MADE = (
    "config.yaml overrides.yaml environment.json metrics.json cost.json per_request.parquet predictions.parquet "
    "curves.jsonl model/training.json"
).split()
CHECKPOINT = "optimizer.pt scheduler.pt rng_state.pth trainer_state.json".split()  # what each Trainer here writes
COPIES = "mlartifacts"
RUNS = (
    "SELECT runs.run_uuid, status, artifact_uri FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid "
    "WHERE key = 'run_folder' AND value = ?"
)
POINTS = "SELECT substr(key, 7), step FROM metrics WHERE run_uuid = ? AND key LIKE 'curve/%'"


def torn(root: Path) -> list[str]:
    """What is wrong, in words. A partial file, and what stands in a checkpoint without its mark, claims nothing."""
    out = []
    for path in sorted(path for path in root.rglob("*") if path.is_file() and not claims_nothing(path)):
        if (read := READERS.get(path.suffix)) is None:
            continue
        try:
            read(path)
        except Exception as error:  # whatever a torn file leads its reader to
            out.append(f"{path.relative_to(root)} is torn: {error!r}"[:300])
    for manifest in root.rglob("runs/**/manifest.json"):
        lacking = [name for name in MADE if not (manifest.parent / name).exists()]
        out += [f"{manifest.relative_to(root)} without {name}" for name in lacking]
    for mark in root.rglob("checkpoint-*/complete"):
        lacking = [name for name in CHECKPOINT if not (mark.parent / name).exists()]
        if not list(mark.parent.glob("*.safetensors")):
            lacking.append("weights")
        out += [f"{mark.relative_to(root)} without {name}" for name in lacking]
    return out


def claims_nothing(path: Path) -> bool:
    checkpoint = next((up for up in path.parents if up.parent.name == "checkpoints"), None)
    if any(part.endswith(".partial") for part in path.parts):
        return True
    return checkpoint is not None and not (checkpoint / "complete").exists()


def leftovers(root: Path) -> list[str]:
    """Of a root whose last command ended well: nothing partial, no checkpoint."""
    partial = [path for path in root.rglob("*.partial") if COPIES not in path.parts]
    return [f"{path.relative_to(root)} is left over" for path in [*partial, *root.glob("runs/*/checkpoints")]]


def unlike(root: Path, database: Path) -> list[str]:
    """What MLflow's database has of the finished runs under `root` that their folders have not, or the other way."""
    out = []
    base = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    for folder in (path.parent for path in root.glob("runs/*/manifest.json")):
        found = base.execute(RUNS, [str(folder)]).fetchall()
        if [status for _, status, _ in found] != ["FINISHED"]:
            out.append(f"{folder.name} has the runs {[status for _, status, _ in found]} in MLflow")
            continue
        ((run, _, artifacts),) = found
        sent = Counter(base.execute(POINTS, [run]).fetchall())
        lines = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
        wanted = {(point["name"], point["step"]) for point in lines if point["value"] is not None}
        out += [f"{folder.name} has {n} points of {key} in MLflow" for key, n in sent.items() if n > 1]
        out += [f"{folder.name} has no point of {key} in MLflow" for key in sorted(wanted - set(sent))]
        stray = sorted(key for key in sent if key not in wanted and key[0] != "epoch")
        out += [f"{folder.name} has a point of {key} in MLflow alone" for key in stray]
        for name in ("metrics.json", "manifest.json", "curves.jsonl", "per_request.parquet", "config.yaml"):
            copy = Path(artifacts.removeprefix("file://")) / name
            if not copy.exists() or copy.read_bytes() != (folder / name).read_bytes():
                out.append(f"{folder.name}: MLflow's copy of {name} is not that of the folder")
    return out


def _json(path: Path) -> None:
    json.loads(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    if not (path.parent / "manifest.json").exists():  # a kill may tear the last line of a run that is not finished
        lines = lines[:-1]
    for line in lines:
        json.loads(line)


def _yaml(path: Path) -> None:
    from data.files import read_yaml

    if read_yaml(path) is None:
        raise ValueError("empty")


def _parquet(path: Path) -> None:
    import pyarrow.parquet

    pyarrow.parquet.read_table(path)


def _safetensors(path: Path) -> None:
    from safetensors.torch import load_file

    load_file(path)


def _arrays(path: Path) -> None:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays:
            arrays[name]


def _zip(path: Path) -> None:
    if (bad := zipfile.ZipFile(path).testzip()) is not None:
        raise ValueError(bad)


def _hash(path: Path) -> None:
    from data.files import file_sha256

    if len(recorded := path.read_text().strip()) != 64:
        raise ValueError(f"{recorded} is no hash")
    if path.with_suffix("").exists() and file_sha256(path.with_suffix("")) != recorded:
        raise ValueError("another hash than the file's")


def _database(path: Path) -> None:
    (said,) = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()
    if said != "ok":
        raise ValueError(said)


READERS: dict[str, Callable[[Path], None]] = {
    ".json": _json,
    ".jsonl": _lines,
    ".yaml": _yaml,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
    ".npz": _arrays,
    ".zip": _zip,
    ".pt": _zip,  # torch's files are such archives; what is in them is a pickle and stays unread
    ".pth": _zip,
    ".bin": _zip,
    ".sha256": _hash,
    ".db": _database,
}
