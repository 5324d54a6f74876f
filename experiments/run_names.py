"""What a run is called in MLflow: `bert4rec learning_rate=0.001 seed=1`, and its row, the same without the seed.

The name is made of what the command changed, sorted, so that two commands with the same words give the same name, and
runs that differ in the seed (or the fold) alone share their row: group by it in the UI.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

NO_NUMBER = ("force", "check", "diagnose", "paths", "tracking")  # how and where, not what
SILENT = (*NO_NUMBER, "run", "reranker", "seed", "protocol.fold")  # named elsewhere, or not of the row
SHORT = ("trainer.", "reranker.")  # their keys go without the prefix


def split_word(word: str) -> tuple[str, str]:
    """Key and value of an override; `+key=value` and `++key=value` have the same key."""
    key, _, value = word.partition("=")
    return key.lstrip("+"), value


def matters(word: str) -> bool:
    """Whether an override can change a number."""
    return split_word(word)[0].partition(".")[0] not in NO_NUMBER


def labels(config: dict[str, Any], overrides: list[str]) -> dict[str, str]:
    """Name, row and experiment of a run, from its resolved config and the words of its command."""
    shown = {}
    experiment = "none"
    for key, value in map(split_word, overrides):
        last = key.rpartition(".")[2]
        if key == "experiment":
            experiment = value
        if key in SILENT or not matters(key) or last == "path" or last.endswith("_path"):
            continue
        short = next((key.removeprefix(prefix) for prefix in SHORT if key.startswith(prefix)), key)
        shown[short] = f"{short}={plain(config, key, value)}"
    order = sorted(shown, key=lambda key: ("." in key, key))  # the reranker's and the trainer's first
    row = " ".join([str(config["reranker"]["name"]), *(shown[key] for key in order)])[:200]
    fold = config["protocol"].get("fold")
    last_words = [f"fold={fold}"] * (fold is not None) + [f"seed={config['seed']}"]
    return {"name": " ".join([row, *last_words]), "row": row, "experiment": experiment}


def plain(config: dict[str, Any], key: str, value: str) -> str:
    """The typed value, so that 1e-3 and 0.001 are one name; of a path its last part."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    text = str(node) if node is not None and not isinstance(node, dict) else value
    return Path(text).name if "/" in text else text
