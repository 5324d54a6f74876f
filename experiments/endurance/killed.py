"""A command that kills itself (SIGKILL) in the middle of something; the product knows nothing of it.

    python -m experiments.endurance.killed half:metrics.json 1 train.py reranker=bert4rec
    python -m experiments.endurance.killed called:data.image_features._vectors 2 -m experiments.enrich model=random

The place, and the how manyth time that it is reached:

    half:<file>      half of a file of that name (or <folder>/<name>, with wildcards) is on the disk, whoever writes it
    before:<file>    it is whole, but not yet under its name
    after:<file>     it is under its name, and nothing has come after it
    deleting:<name>  half of a folder's files are deleted
    called:<name>    a function has returned, but its caller does not know it
    calling:<name>   a function is about to begin
    full:<file>      half of it is on the disk, and no more fits on it: an error, no death
    scoring          a network's layer has answered while test requests are scored
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import re
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

UNFINISHED = (r"\.partial$", r"\.[^./]+\.partial$")  # what a partial file has behind its name
LINE = 10  # bytes: less than the last line of an appended file
POINTS = 8  # sent to MLflow at a time, so that a training of seconds sends some before its end


class Death:
    """Comes at the `nth` call."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def due(self) -> bool:
        self.left -= 1
        return self.left == 0

    def __call__(self, *args: Any) -> None:
        if self.due():
            die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def arm(place: str, nth: int) -> None:
    """Patches the running interpreter, before the product is imported."""
    import experiments.run_mirror

    experiments.run_mirror.BATCH = POINTS
    death = Death(nth)
    kind, _, what = place.partition(":")
    if kind in ("half", "full"):
        _halve(what, death, die if kind == "half" else refuse)
    elif kind in ("before", "after"):
        _around(os, "replace", kind, lambda source, target: death() if is_file(target, what) else None)
    elif kind == "deleting":
        half = partial(_half_of, pattern=what, death=death)
        _around(shutil, "rmtree", "before", lambda path, *args, **kwargs: half(path))
    elif kind in ("called", "calling"):
        owner, name = found(what)
        _around(owner, name, "after" if kind == "called" else "before", lambda *args, **kwargs: death())
    elif place == "scoring":
        owner, name = found("experiments.conclude.conclude")
        hook = found("torch.nn.modules.module.register_module_forward_hook")
        _around(owner, name, "before", lambda *args, **kwargs: getattr(*hook)(death))
    else:
        raise SystemExit(f"{place} is not a place; see {__file__}")


def found(name: str) -> tuple[Any, str]:
    """What holds `package.module.Class.method`, and the last part of the name. It must be there."""
    parts = name.split(".")
    for n in range(len(parts) - 1, 0, -1):
        try:
            owner = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:-1]:
            owner = getattr(owner, part)
        getattr(owner, parts[-1])
        return owner, parts[-1]
    raise SystemExit(f"{name} does not exist")


def is_file(path: Any, pattern: str) -> bool:
    """Whether a path, without what a partial file has behind its name, ends in the pattern."""
    names = [str(path), *(re.sub(ending, "", str(path)) for ending in UNFINISHED)]
    return any(fnmatch(name, f"*/{pattern}") for name in names)


def _around(owner: Any, name: str, when: str, act: Callable[..., Any]) -> None:
    whole = getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            act(*args, **kwargs)
        result = whole(*args, **kwargs)
        if when == "after":
            act(*args, **kwargs)
        return result

    setattr(owner, name, patched)


def _halve(pattern: str, death: Death, end: Callable[[], None]) -> None:
    """Every way in which this project puts bytes into a file."""

    def tear(path: Any, appended: bool = False) -> None:
        if isinstance(path, str | Path) and is_file(path, pattern) and death.due():
            size = Path(path).stat().st_size
            os.truncate(path, size - LINE if appended else size // 2)
            end()

    def synced(file: int) -> None:
        tear(Path(f"/proc/self/fd/{file}").readlink(), bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_APPEND))

    _around(os, "fsync", "after", synced)
    import pyarrow.parquet
    import safetensors.torch
    import torch

    _around(safetensors.torch, "serialize_file", "after", lambda tensors, path, *args, **kwargs: tear(path))
    _around(torch, "save", "after", lambda value, path, *args, **kwargs: tear(path))
    _around(pyarrow.parquet, "write_table", "after", lambda table, path, *args, **kwargs: tear(path))
    from experiments.runs import Run

    _around(Run, "log", "after", lambda run, *args, **kwargs: tear(run.folder / "curves.jsonl", appended=True))


def _half_of(folder: Any, pattern: str, death: Death) -> None:
    """Deletes in the order that hurts most: what says that the folder is whole goes last."""
    if not (is_file(folder, pattern) and death.due()):
        return
    files = sorted((path for path in Path(folder).rglob("*") if path.is_file()), key=lambda path: path.name)
    for path in files[len(files) // 2 :]:
        path.unlink()
    die()


def run_as_main(words: list[str]) -> None:
    """`python <words>`, in this process."""
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    place, nth, *words = sys.argv[1:]
    arm(place, int(nth))
    run_as_main(words)
