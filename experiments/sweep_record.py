"""`<root>/sweeps/<name>.json`: what a sweep is, which run each of its jobs is, and what became of it.

The name is a hash of the jobs, so that the same command finds its record again, whatever ended it the last time. One
process at a time writes it.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from data.dataset import sha256
from data.files import read_json, write_json
from experiments.run_names import matters, shortened, split_word
from experiments.runs import Run
from experiments.tracking import RECORD


def record_path(root: Path, experiment: str | None, jobs: list[list[str]]) -> Path:
    kept = sorted(sorted(word for word in words if matters(word)) for words in jobs)
    return root / "sweeps" / f"{experiment or 'sweep'}-{sha256(json.dumps(kept))[:10]}.json"


def content_of(config: DictConfig, name: str, jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """What a record holds; `python -m experiments.tables` makes a table of it."""
    table = OmegaConf.select(config, "table")
    return {
        "name": name,
        "experiment": config.hydra.runtime.choices.get("experiment"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "swept": swept([job["overrides"] for job in jobs]),
        "jobs": jobs,
        "table": OmegaConf.to_container(table, resolve=True) if table is not None else {},
        "mlflow": None,
        "metric": OmegaConf.select(config, "protocol.primary"),
    }


def tags_of(content: dict[str, Any], datasets: list[str]) -> dict[str, str]:
    """Of the parent run."""
    command = " ".join(content["command"])
    return {
        "mlflow.runName": " ".join([content["name"], *map(shortened, content["swept"])]),
        "dataset": ", ".join(datasets) or "none",
        "experiment": content["experiment"] or "none",
        "command": command,
        "mlflow.note.content": f"`{command}`",
        "mlflow.source.name": content["command"][0],
        "mlflow.source.type": "LOCAL",
        **dict.fromkeys(("row", "reranker", "seed"), "sweep"),  # so that it is a group of its own
    }


def swept(jobs: list[list[str]]) -> list[str]:
    """The keys that differ between jobs."""
    values: dict[str, set[str]] = {}
    for key, value in map(split_word, itertools.chain.from_iterable(jobs)):
        values.setdefault(key, set()).add(value)
    keys = [{split_word(word)[0] for word in words} for words in jobs]
    return [key for key, found in values.items() if len(found) > 1 or not all(key in of_job for of_job in keys)]


def varying(jobs: list[list[str]]) -> list[str]:
    """Of each job the words that not all have; all of them if they have the same."""
    keys = swept(jobs)
    return [" ".join([word for word in words if split_word(word)[0] in keys] or words) for words in jobs]


def turn(record: Path) -> Any:
    """The lock of a record: one process at a time reads and writes it."""
    return Run(record.with_suffix("")).lock(record.parent.parent)


def place() -> str:
    """`3/9`: the job's number in the plan; a search has none."""
    hydra, record = HydraConfig.get(), os.environ.get(RECORD)
    jobs = [job["overrides"] for job in read_json(Path(record))["jobs"]] if record else []
    words = list(hydra.overrides.task)
    return f"{jobs.index(words) + 1}/{len(jobs)}" if words in jobs else f"{int(hydra.job.num) + 1}"


def note(record: Path, words: list[str], run: str) -> None:
    """Records the run of a job that was not known before, as all of a search are."""
    with turn(record):
        content = read_json(record)
        if run in [job["run"] for job in content["jobs"]]:
            return
        own = next((job for job in content["jobs"] if job["overrides"] == words), None)
        if own is None:
            content["jobs"].append(own := {"overrides": words, "run": run, "error": None})
        own["run"] = run
        content["swept"] = swept([job["overrides"] for job in content["jobs"]])
        write_json(record, content)
