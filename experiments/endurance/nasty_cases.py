"""Files made to hurt, each with the outcome that is right: what is refused says why, what is read is read whole.

    python -m experiments.endurance.nasty_cases "a .gz of 10 GB of zeros" /tmp/x    # one of them, as it runs here

Each is a process of its own with 2 GB of memory and a minute.
"""

# mypy: disable-error-code="misc,operator"
from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.errors import UserError
from data.sources.amazon import AmazonReviews
from data.sources.movielens import MovieLens100K
from data.sources.sequences import Sequences
from experiments.endurance.breaking import Files
from experiments.endurance.fuzzing import limit_memory
from experiments.endurance.outcome import Endurance, Outcome
from experiments.endurance.read_datasets import check_dataset
from experiments.endurance.readers import json_lines
from experiments.endurance.small import command, environment
from experiments.launch import ROOT

SECONDS = 60
MODULES = ("nasty_values", "nasty_sizes", "nasty_archives", "nasty_lists", "nasty_pictures")  # each adds its own cases
Case = Callable[[Path], None]  # gets an empty folder; AssertionError where the outcome is not the right one
CASES: dict[str, tuple[str, Case]] = {}  # case -> the row of the table it belongs to, and the case


def case(row: str, name: str) -> Callable[[Case], Case]:
    """Adds a case to `CASES`."""

    def keep(function: Case) -> Case:
        CASES[name] = row, function
        return function

    return keep


def refused(read: Callable[[], Any], *parts: str) -> None:
    """By a sentence with all `parts`."""
    try:
        read()
    except UserError as error:
        lacking = [part for part in parts if part not in str(error)]
        assert not lacking, f"the error does not say {lacking}: {error}"
    else:
        raise AssertionError(f"it was read, though the error {parts} is right")


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def ratings(folder: Path, *rows: str, skip: bool = False) -> Dataset:
    """MovieLens with these rows, and an item for each that they name."""
    items = dict.fromkeys(row.split("\t")[1] for row in rows)
    films = "".join(f"{item}|Title {n}|||" + "|0" * 19 + "\n" for n, item in enumerate(items))
    write(folder, {"u.data": "\n".join(rows).encode(), "u.item": films.encode("latin-1")})
    dataset = MovieLens100K(name="ml_100k", path=str(folder), on_bad_row="skip" if skip else "error").load(folder)
    check_dataset(dataset)
    return dataset


def published(folder: Path, lines: str, items: list[dict[str, Any]] | None = None) -> Dataset:
    write(folder, {"sequences.txt": lines.encode()} | ({"items.jsonl": json_lines(items)} if items else {}))
    source = Sequences(name="sequences", path=str(folder), items="items.jsonl" if items else None)
    source.missing_titles = "keep"
    dataset = source.load(folder)
    check_dataset(dataset, rated=False)
    return dataset


def amazon(folder: Path, files: Files, skip: bool = False) -> Dataset:
    write(folder, files)
    return AmazonReviews(name="amazon", path=str(folder), on_bad_row="skip" if skip else "error").load(folder)


def noted(dataset: Dataset, part: str) -> None:
    assert any(part in note for note in dataset.provenance.notes), f"no note says {part!r}: {dataset.provenance.notes}"


def tried(name: str, row: str, folder: Path) -> Outcome:
    words = command("-m", "experiments.endurance.nasty_cases", name, str(folder))
    try:
        ended = subprocess.run(
            words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=SECONDS, check=False
        )
        said = "" if ended.returncode == 0 else " ".join(ended.stderr.split()[-60:]) or f"exit {ended.returncode}"
    except subprocess.TimeoutExpired:
        said = f"over {SECONDS} s"
    lost = "a traceback, a hang or a wrong outcome" if said else "nothing"
    return Outcome(row, 1, int(not said), lost, failures=[f"{name}: {said}"] if said else [])


def outcomes(settings: Endurance) -> Iterator[Outcome]:
    for number, (name, (row, _)) in enumerate(sorted(all_cases().items(), key=lambda item: item[1][0])):
        yield tried(name, row, settings.scratch / f"nasty-{number}")


def all_cases() -> dict[str, tuple[str, Case]]:
    for name in MODULES:
        importlib.import_module(f"experiments.endurance.{name}")
    return CASES


if __name__ == "__main__":
    from experiments.endurance import nasty_cases  # not this module, which is __main__

    chosen = nasty_cases.all_cases()[sys.argv[1]][1]
    (into := Path(sys.argv[2])).mkdir(parents=True, exist_ok=True)
    limit_memory()
    chosen(into)
    print(json.dumps("survived"))
