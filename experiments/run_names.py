"""What a run is called in MLflow: `bert4rec seed=1 learning_rate=0.001`, and its row, the same without the seed.

Both are made of what the command changed, sorted, so that runs that differ in the seed (or the fold) alone share their
row: group by it in the UI. The UI cuts names off after some 15 letters, so what tells the runs of a sweep apart comes
first in the name, and how training is watched comes last. And of a run's numbers those that the UI shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NO_NUMBER = ("force", "check", "diagnose", "paths", "tracking")  # how and where, not what
SILENT = (*NO_NUMBER, "run", "reranker", "seed", "protocol.fold")  # named elsewhere, or not of the row
SHORT = ("trainer.", "reranker.")  # their keys go without the prefix
DETAILS = re.compile(r"/(chance_)?(low|high)/|^test/vs_\w+/(effect_size|p_t|p_permutation|smallest_difference)$")
REFERENCES = re.compile(r"^test/(conditional/\w+|conditional|ceiling|planted|popularity)/")
WATCHING = ("trainer.logging_", "trainer.eval_", "trainer.save_")


def split_word(word: str) -> tuple[str, str]:
    """Key and value of an override; `+key=value` and `++key=value` have the same key."""
    key, _, value = word.partition("=")
    return key.lstrip("+"), value


def matters(word: str) -> bool:
    """Whether an override can change a number."""
    return split_word(word)[0].partition(".")[0] not in NO_NUMBER


def labels(config: dict[str, Any], overrides: list[str], swept: Sequence[str] = ()) -> dict[str, str]:
    """Name, row and experiment of a run, from its resolved config, the words of its command and its sweep's keys."""
    shown = {}
    experiment = "none"
    for key, value in map(split_word, overrides):
        last = key.rpartition(".")[2]
        if key == "experiment":
            experiment = value
        if key in SILENT or not matters(key) or last == "path" or last.endswith("_path"):
            continue
        shown[key] = f"{shortened(key)}={plain(config, key, value)}"
    # the reranker's and the trainer's first
    order = sorted(shown, key=lambda key: (key.startswith(WATCHING), "." in shortened(key), shortened(key)))
    reranker, fold = str(config["reranker"]["name"]), config["protocol"].get("fold")
    of_run = [reranker, *[f"fold={fold}"] * (fold is not None), f"seed={config['seed']}"]
    in_sweep = sorted(order, key=lambda key: key not in swept)
    row = " ".join([reranker, *(shown[key] for key in order)])[:200]
    return {"name": " ".join([*of_run, *(shown[key] for key in in_sweep)])[:220], "row": row, "experiment": experiment}


def shortened(key: str) -> str:
    return next((key.removeprefix(prefix) for prefix in SHORT if key.startswith(prefix)), key)


def plain(config: dict[str, Any], key: str, value: str) -> str:
    """The typed value, so that 1e-3 and 0.001 are one name, and 5.0 is 5; of a path its last part."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if isinstance(node, float) and float(f"{node:g}") == node:
        node = f"{node:g}"
    text = str(node) if node is not None and not isinstance(node, dict) else value
    return Path(text).name if "/" in text else text


def shown(metrics: dict[str, float], cost: dict[str, Any], primary: str) -> dict[str, float]:
    """What MLflow gets of metrics.json and cost.json, which go along as files. Some 200 numbers hid those that matter:
    of intervals and tests their details stay out, and some references are there of the primary metric alone."""
    kept = {
        name: value
        for name, value in metrics.items()
        if not DETAILS.search(name) and (not REFERENCES.search(name) or name.endswith(f"/{primary}"))
    }
    costs = {f"cost/{name}": value for name, value in cost.items() if type(value) in (int, float)}
    return kept | costs
