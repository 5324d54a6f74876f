"""MLflow's tables in a new SQLite file, whole or not at all: making them takes seconds, and MLflow can never again use
a file of which only some were made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

SQLITE = "sqlite:///"


def is_new(uri: str) -> bool:
    return uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists()


def make_database(uri: str, client: Callable[[str], Any]) -> None:
    """Where `uri` is a file that is not there. One process at a time. `client`: of an address."""
    if not is_new(uri):
        return
    path = Path(uri.removeprefix(SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        client(f"{SQLITE}{partial}").get_experiment("0")  # the first question makes the tables
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
