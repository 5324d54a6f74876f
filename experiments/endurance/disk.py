"""A disk that fills up in the middle of a training: one sentence, nothing torn, and the same command goes on.

The root is a tmpfs of a few kilobytes, which grows after each try until the training has room: so it is full at the
log, at the candidates, at weights and optimizers of checkpoints. Then a file takes what room is left before the
results are written, and at last a sweep meets a full disk. Where nothing can be mounted, writes are refused by
`killed.py` instead, and the note says so.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from experiments.endurance import small
from experiments.endurance.forks import Forks
from experiments.endurance.outcome import Endurance, Outcome
from experiments.endurance.whole import leftovers, torn

FIRST, GROWTH, LARGEST = 40_000, 1.7, 200_000_000  # bytes of the disk
SENTENCE = "no space left on "
STAGES = {  # what is there -> what the disk was too full for
    "runs/*/model": "the results",
    "runs/*/checkpoints": "a checkpoint",
    "runs/*/config.yaml": "the training",
    "cache/candidates/*.parquet": "the run's first files",
}
REFUSED = [  # where nothing can be mounted
    ("the candidates", "full:candidates/*.parquet"),
    ("a checkpoint", "full:checkpoint-*/optimizer.pt"),
    ("the results", "full:per_request.parquet"),
]


def outcomes(settings: Endurance) -> Iterator[Outcome]:
    mounted = mountable(settings.scratch)
    for reranker in settings.rerankers:
        folder = settings.scratch / reranker
        (root := folder / "disk").mkdir(parents=True)
        unbroken = small.run("train.py", *small.words(reranker, folder / "unbroken"))
        if unbroken.returncode:
            failures = [unbroken.stderr[-500:]]
            yield Outcome(f"an unbroken run of {reranker}", 1, 0, "the run", failures=failures)
            continue
        with Forks() as forks:
            disk = Disk(forks, root, small.words(reranker, root), small.results(folder / "unbroken"))
            if mounted:
                with tmpfs(root, FIRST):
                    disk.grow()
                with tmpfs(root, LARGEST):
                    disk.fill_before_the_results()
                with tmpfs(root, FIRST):
                    disk.sweep()
            else:
                disk.refuse()
        note = "" if mounted else "writes refused, as no tmpfs could be mounted"
        if not disk.tried:
            yield Outcome(f"the disk is full for {reranker}", 0, 0, "any try")
        for fault in dict.fromkeys(fault for fault, _ in disk.tried):
            wrong = [said for what, said in disk.tried if what == fault]
            failures = [f"{reranker}: {'; '.join(said)}" for said in wrong if said]
            lost = "see its failures" if failures else "nothing"
            yield Outcome(f"the disk is full at {fault}", len(wrong), len(wrong) - len(failures), lost, note, failures)


class Disk:
    """One command under a root whose disk is too small for it."""

    def __init__(self, forks: Forks, root: Path, given: list[str], expected: dict[str, bytes]) -> None:
        self.forks, self.root, self.given, self.expected = forks, root, given, expected
        self.log = root.with_suffix(".log")
        self.tried: list[tuple[str, list[str]]] = []  # at what, and what was wrong

    def grow(self) -> None:
        size = float(FIRST)
        while (code := self._run()) and size < LARGEST:
            self._look(code, self._reached())
            size *= GROWTH
            remount(self.root, int(size))
        self._end(code)

    def fill_before_the_results(self) -> None:
        first = len(self.tried)
        self._run(place="half:per_request.parquet")
        with (self.root / "ballast").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 12))
        self._look(self._run(), self._reached())
        (self.root / "ballast").unlink()
        self._end(self._run(), first)

    def sweep(self) -> None:
        first = len(self.tried)
        self._look(self._run("seed=0,1", flag=["-m"]), "the jobs of a sweep")
        remount(self.root, LARGEST)
        if code := self._run("seed=0,1", flag=["-m"]):
            self.tried[first][1].append(f"with room the sweep ended with {code}: {self.log.read_text()[-500:]}")
        found = small.results(self.root)
        if len(found) != 2 or not self.expected.items() <= found.items():
            self.tried[first][1].append("the sweep has other metrics than the run that nobody disturbed")

    def refuse(self) -> None:
        for stage, place in REFUSED:
            self._look(self._run(place=place), stage)
        self._end(self._run())

    def _run(self, *more: str, flag: list[str] | None = None, **ask: Any) -> int:
        return self.forks.run(["train.py", *(flag or []), *self.given, *more], self.log, **ask)[0]

    def _reached(self) -> str:
        return next(
            (what for there, what in STAGES.items() if list(self.root.glob(there))), "the candidates or before"
        )

    def _look(self, code: int, stage: str) -> None:
        said, wrong = self.log.read_text(), []
        if code != 2:
            wrong.append(f"it ended with {code}, not with 2")
        if SENTENCE not in said[said.strip().rfind("\n") + 1 :] or "Traceback" in said:
            wrong.append(f"it said {said[-700:]!r}")
        self.tried.append((stage, wrong + torn(self.root)))

    def _end(self, code: int, first: int = 0) -> None:
        """Of the command that had room. What is wrong cannot be told from which try it comes: it counts for all."""
        wrong = [f"with room it ended with {code}: {self.log.read_text()[-500:]}"] if code else []
        if small.results(self.root) != self.expected:
            wrong.append("other metrics than those of the run that nobody disturbed")
        for _, said in self.tried[first:]:
            said += wrong + torn(self.root) + leftovers(self.root)


@contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


def mountable(folder: Path) -> bool:
    try:
        with tmpfs(folder, FIRST):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
