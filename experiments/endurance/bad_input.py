"""Broken and hostile data files: thousands for each reader, and those that are made by hand.

Refused in one sentence that names the file, or read right; never a traceback, a hang, a bomb or a wrong number.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from experiments.endurance import nasty_cases, nasty_prompts, nasty_requests, nasty_tables
from experiments.endurance.fuzzing import fuzz_apart
from experiments.endurance.outcome import Endurance, Outcome

READERS = ("readers", "list_readers", "passage_readers")  # modules of this folder with a list READERS
BY_HAND = (nasty_cases.outcomes, nasty_tables.cases, nasty_prompts.cases, nasty_requests.cases)
MEMORY = Path("/dev/shm")  # some 200,000 small files are written: not to a disk where that can be


def outcomes(settings: Endurance) -> Iterator[Outcome]:
    for make in BY_HAND:
        yield from make(settings)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else settings.scratch) as folder:
        for name in READERS:
            module = f"experiments.endurance.{name}"
            for reader in importlib.import_module(module).READERS:
                kept = Path(folder) / reader.name.replace(" ", "-")
                yield fuzz_apart(module, reader.name, settings.fuzz_examples, settings.seed, kept)
