"""Broken files, thousands for each reader: refused in one sentence or read right, never anything else.

    python -m experiments.endurance.fuzzing experiments.endurance.readers sequences 0 17 18 /tmp/x   # example 17 again

Each reader is tried in a process of its own with a limit of memory, so that a crash of the interpreter, a hang and a
bomb are failures of one example and the next one goes on.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from data.errors import UserError
from experiments.endurance.breaking import Files, broken
from experiments.endurance.outcome import Outcome
from experiments.endurance.small import command, environment
from experiments.launch import ROOT

SECONDS = 10  # for one file
MEMORY = 2 << 30  # bytes above what the reader holds after its whole files
LONGEST = 600  # characters of a refusal
STRUCTURED = 20  # one example in so many is made by hypothesis
MOST = 40  # failures with their evidence; and deaths of the process
OUTCOMES = ("read", "compared", "refused", "failed")  # compared: read, and each value is the one of a naive reading


@dataclass(frozen=True)
class Reader:
    """`read(folder, skip)` raises UserError, and AssertionError where what was read is wrong. It returns whether all
    was compared with a naive reading of the same bytes; else its form alone was checked, as such a file leaves open
    what is right. `skip`: bad rows are to be counted and left out."""

    name: str
    whole: Callable[[], list[Files]]  # files that are right, in some variants: BOM, CRLF, unicode
    read: Callable[[Path, bool], bool]
    structured: Callable[[], Any] | None = None  # a hypothesis strategy of Files; may import hypothesis


class TooSlow(BaseException):
    """Not an Exception, so that no reader can take it for a broken file."""


def slow(*_: Any) -> None:
    raise TooSlow("it takes too long")


def attempt(reader: Reader, files: Files, folder: Path, skip: bool) -> tuple[str, str]:
    """(one of OUTCOMES, what was said)."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        compared = reader.read(folder, skip)
    except UserError as error:
        return refusal(str(error), folder)
    except (Exception, TooSlow) as error:
        at = traceback.extract_tb(error.__traceback__)[-3:]
        said = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(at))
        return "failed", f"{type(error).__name__}: {str(error)[:200]!r} at {said}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ("compared" if compared else "read"), ""


def refusal(said: str, folder: Path) -> tuple[str, str]:
    """One sentence that can be printed and names the file."""
    problem = None
    names = [str(folder), *(path.name for path in folder.rglob("*"))]
    if len(said) > LONGEST:
        problem = f"{len(said):,} characters"
    elif any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in said):
        problem = "a line break or a character that cannot be printed"
    elif not any(name in said for name in names) and not re.match(r"dataset \w+ ", said):
        problem = "no file's name"
    return ("failed", f"the error has {problem}: {said[:300]!r}") if problem else ("refused", said)


def fuzz(reader: Reader, seed: int, first: int, stop: int, folder: Path) -> dict[str, int]:
    """Examples `first` to `stop`; counts by outcome. `folder` gets `at`, how far it is, and `failures.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(OUTCOMES, 0)
    signal.signal(signal.SIGALRM, slow)
    whole = reader.whole()
    for files in whole:
        for skip in (False, True):
            outcome, said = attempt(reader, files, folder / "files", skip)
            if outcome not in ("read", "compared"):
                raise AssertionError(f"{reader.name}: the whole files {sorted(files)} are {outcome}: {said}")
    at = os.open(folder / "at", os.O_CREAT | os.O_WRONLY, 0o600)
    guarded = -20

    def one(number: int, files: Files) -> None:
        nonlocal guarded
        os.pwrite(at, b"%-199s" % json.dumps([number, counts]).encode(), 0)
        if number >= guarded + 20:  # ends even what holds the interpreter; a thread each time
            faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
            guarded = number
        outcome, said = attempt(reader, files, folder / "files", skip=number % 2 == 0)
        counts[outcome] += 1
        if outcome == "failed":
            report(folder, number, said)
        if number % 500 == 0:
            gc.collect()

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            done = first
            if first == 0:
                done = structured(reader, whole, seed, stop // STRUCTURED, one)
            for number in range(done, stop):
                rng = Random(f"{seed} {reader.name} {number}")
                one(number, broken(rng, rng.choice(whole)))
    finally:
        faulthandler.cancel_dump_traceback_later()
        os.close(at)
    return counts


def structured(reader: Reader, whole: list[Files], seed: int, examples: int, one: Callable[[int, Files], None]) -> int:
    """Files that hypothesis makes: well-formed rows with any values, or edits of whole files; how many were tried."""
    try:
        import hypothesis
    except ImportError:
        raise UserError("bad_input needs hypothesis; install the project with its extra [dev]") from None
    made = 0

    def tried(files: Files) -> None:
        nonlocal made
        one(made, files)
        made += 1

    quiet = hypothesis.settings(
        max_examples=max(1, examples),
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    made_up = reader.structured() if reader.structured else edits(whole)
    hypothesis.seed(seed)(quiet(hypothesis.given(made_up)(tried)))()
    return made


def edits(whole: list[Files]) -> Any:
    """A strategy: one of the files has some bytes replaced, by any others or by text, in one to four places."""
    from hypothesis import strategies as st

    new = st.one_of(st.binary(max_size=16), st.text(max_size=8).map(str.encode))
    places = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 64), new), min_size=1, max_size=4)

    def edited(files: Files, name: str, places: list[tuple[float, int, bytes]]) -> Files:
        content = files[name]
        for share, length, new in places:
            start = int(share * len(content))
            content = content[:start] + new + content[start + length :]
        return files | {name: content}

    return st.sampled_from(whole).flatmap(
        lambda files: st.builds(edited, st.just(files), st.sampled_from(sorted(files)), places)
    )


def report(folder: Path, number: int, said: str) -> None:
    """The example can be made again from its number and the seed, see above."""
    with (folder / "failures.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps([number, said]) + "\n")


def fuzz_apart(module: str, reader: str, examples: int, seed: int, folder: Path) -> Outcome:
    """`fuzz` in processes of their own: one that dies is followed by one that begins behind its last example."""
    first, deaths, counts = 0, 0, dict.fromkeys(OUTCOMES, 0)
    words = ["-m", "experiments.endurance.fuzzing", module, reader, str(seed)]
    folder.mkdir(parents=True)
    while first < examples and deaths < MOST:
        (folder / "at").unlink(missing_ok=True)
        given = command(*words, str(first), str(examples), str(folder))
        ended = subprocess.run(given, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        if ended.returncode == 0:
            found = json.loads(ended.stdout.splitlines()[-1])
            counts = {name: counts[name] + found[name] for name in counts}
            break
        said = " ".join(ended.stderr.split()[-40:])
        if not (folder / "at").exists():
            return Outcome(f"{reader}: broken files", 1, 0, "the harness itself", failures=[said])
        number, found = json.loads((folder / "at").read_bytes())
        report(folder, number, f"the process ended with {ended.returncode}: {said}")
        counts = {name: counts[name] + found[name] for name in counts}
        counts["failed"] += 1
        first, deaths = number + 1, deaths + 1
    tried = sum(counts.values())
    failures = []
    if (folder / "failures.jsonl").exists():
        for row in (folder / "failures.jsonl").read_text().splitlines()[:MOST]:
            number, said = json.loads(row)
            failures.append(f"example {number} of {reader} with seed {seed}: {said}")
    lost = "nothing" if not counts["failed"] else "a traceback, a hang or a wrong number"
    read = counts["read"] + counts["compared"]
    note = f"{counts['refused']:,} refused in a sentence, {read:,} read, {counts['compared']:,} of them compared"
    return Outcome(f"{reader}: broken files", tried, tried - counts["failed"], lost, note, failures)


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def reader_named(module: str, name: str) -> Reader:
    readers: list[Reader] = importlib.import_module(module).READERS
    return next(reader for reader in readers if reader.name == name)


if __name__ == "__main__":
    module, name, seed, first, stop, folder = sys.argv[1:]
    reader = reader_named(module, name)
    fuzz(reader, int(seed), 0, 0, Path(folder) / "warm")  # all is imported and every thread started
    limit_memory()
    print(json.dumps(fuzz(reader, int(seed), int(first), int(stop), Path(folder))))
