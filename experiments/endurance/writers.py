"""Runs a command and notes the files that this process of it writes or puts into their place.

python -m experiments.endurance.writers /tmp/notes train.py reranker=random
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any

from experiments.endurance.killed import found, run_as_main

WRITING = os.O_WRONLY | os.O_RDWR
UNSEEN = (  # what opens a file in C or Rust, of which Python is told nothing; the path is the second argument
    "safetensors.torch.serialize_file",
    "safetensors.numpy.serialize_file",
    "torch.save",
    "pyarrow.parquet.ParquetWriter.__init__",
    "transformers.PreTrainedTokenizerBase.save_pretrained",  # a folder
)


def note(folder: Path) -> None:
    """At the end `<folder>/<rank>.json` has the paths."""
    written: set[str] = set()

    def add(path: Any) -> None:
        if isinstance(path, str | os.PathLike):
            written.add(str(Path(path).absolute()))

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and (args[2] or 0) & WRITING:
            add(args[0])
        elif event == "os.rename":
            add(args[1])

    sys.addaudithook(hook)
    for name in UNSEEN:
        noted(*found(name), add)
    rank = os.environ.get("RANK", "0")
    atexit.register(lambda: (folder / f"{rank}.json").write_text(json.dumps(sorted(written))))


def noted(owner: Any, name: str, add: Any) -> None:
    whole = getattr(owner, name)

    def patched(first: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        add(path)
        return whole(first, path, *args, **kwargs)

    setattr(owner, name, patched)


if __name__ == "__main__":
    place, *words = sys.argv[1:]
    note(Path(place))
    run_as_main(words)
