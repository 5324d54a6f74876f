"""The same command gives the same numbers: in another process and folder, with loading workers, after a kill.

Bytes are compared: metrics.json, and every score of predictions.parquet. With another number of threads sums are taken
in another order; whether that changed a number here is told, and promised nowhere.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from experiments.endurance import small
from experiments.endurance.outcome import Endurance, Outcome

BASELINES = ["random", "popularity", "first_stage"]
WORKERS = "trainer.dataloader_num_workers=2"


def outcomes(settings: Endurance) -> Iterator[Outcome]:
    threads: dict[str, list[str]] = {}  # what is not the same
    broken: list[str] = []
    for reranker in BASELINES:
        place = settings.scratch / reranker
        given = small.words("bert4rec", Path(), f"seed={settings.seed}")
        kept = [word for word in given if not word.startswith(("reranker", "paths.root"))]
        one, two = ([*kept, f"reranker={reranker}", f"paths.root={place / name}"] for name in ("one", "two"))
        found = [ended(each, place / name) for each, name in ((one, "one"), (two, "two"))]
        yield same("the same command in another process", reranker, found[0], found[1])
    for reranker in settings.rerankers:
        place = settings.scratch / reranker

        def words(name: str, *more: str, reranker: str = reranker, place: Path = place) -> list[str]:
            return small.words(reranker, place / name, f"seed={settings.seed}", *more)

        first = ended(words("one"), place / "one")
        yield same("the same command in another process", reranker, first, ended(words("two"), place / "two"))
        loaded = ended(words("workers", WORKERS), place / "workers")
        yield same("2 data-loading workers instead of none", reranker, first, loaded)
        stopped = stopped_in_training(words("killed"))
        went_on = stopped or ended(words("killed"), place / "killed")
        yield same("SIGKILL in the middle of training, then the same command", reranker, first, went_on)
        other = ended(words("threads"), place / "threads", OMP_NUM_THREADS="2")
        broken += [f"{reranker}: {other}"] if isinstance(other, str) else []
        threads[reranker] = differences(first, other)
    unlike = [name for name, differ in threads.items() if differ]
    note = f"the same numbers but for {', '.join(unlike)}" if unlike else "the same numbers"
    n, lost = len(threads), "the run" if broken else "nothing"
    yield Outcome("2 threads instead of 1, numbers not promised", n, n - len(broken), lost, note, broken)


def stopped_in_training(words: list[str]) -> str:
    """SIGKILL once the first checkpoint is whole; or why it did not come."""
    place = "called:rerankers.checkpoints.MarkComplete.on_save"
    done = small.run("-m", "experiments.endurance.killed", place, "1", "train.py", *words)
    killed = done.returncode == -signal.SIGKILL
    return "" if killed else f"the training ended with {done.returncode}, not by SIGKILL: {done.stderr[-300:]}"


def ended(words: list[str], root: Path, **more: str) -> str | Path:
    """The finished run's folder, or why there is none."""
    done = small.run("train.py", *words, timeout=600, **more)
    folders = [path.parent for path in root.glob("runs/*/manifest.json")]
    return folders[0] if done.returncode == 0 and len(folders) == 1 else f"{done.returncode}: {done.stderr[-300:]}"


def same(fault: str, reranker: str, one: str | Path, two: str | Path) -> Outcome:
    differ = differences(one, two)
    lost = "the numbers differ" if differ else "nothing"
    return Outcome(fault, 1, int(not differ), lost, failures=[f"{reranker}: {each}" for each in differ])


def differences(one: str | Path, two: str | Path) -> list[str]:
    """What is not equal to the bit in two finished runs' folders."""
    if isinstance(one, str) or isinstance(two, str):
        return [str(each) for each in (one, two) if isinstance(each, str)]
    out = []
    if (one / "metrics.json").read_bytes() != (two / "metrics.json").read_bytes():
        out.append("metrics.json")
    a, b = (pd.read_parquet(folder / "predictions.parquet") for folder in (one, two))
    if not a.equals(b):
        apart = (a["score"] - b["score"]).abs().max() if len(a) == len(b) else "other rows"
        out.append(f"predictions.parquet, largest difference of a score: {apart}")
    return out
