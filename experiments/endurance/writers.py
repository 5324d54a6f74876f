"""Runs a command and notes the files that this process of it opens for writing or puts into their place.

python -m experiments.endurance.writers /tmp/notes train.py reranker=random
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any

from experiments.endurance.killed import run_as_main

WRITING = os.O_WRONLY | os.O_RDWR


def note(folder: Path) -> None:
    """At the end `<folder>/<rank>.json` has the paths. Libraries in C write under a partial name, which Python
    renames, or into a checkpoint, whose folder Python makes."""
    written: set[str] = set()

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str | os.PathLike) and (args[2] or 0) & WRITING:
            written.add(str(Path(args[0]).absolute()))
        elif event == "os.rename":
            written.add(str(Path(args[1]).absolute()))
        elif event == "os.mkdir":
            written.add(f"{Path(args[0]).absolute()}/")

    sys.addaudithook(hook)
    atexit.register(lambda: (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(sorted(written))))


if __name__ == "__main__":
    place, *words = sys.argv[1:]
    note(Path(place))
    run_as_main(words)
