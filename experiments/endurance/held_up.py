"""Runs a command and measures for how long MLflow holds up its main thread, which trains.

    python -m experiments.endurance.held_up /tmp/seconds.json train.py reranker=random

Counted is what the main thread spends in tracking, whichever part of it waits, in requests that it makes itself, and
between the command's end and the process's, when threads are waited for. MLflow's own import is not: seconds of this
machine's CPU, which no server changes.
"""

from __future__ import annotations

import atexit
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.endurance.killed import found, run_as_main

COUNTED = (
    "experiments.tracking.MLflowTracker.start",
    "experiments.tracking.MLflowTracker.points",
    "experiments.tracking.MLflowTracker.finish",
    "experiments.sweep_mirror.SweepMirror.open",
    "experiments.sweep_mirror.SweepMirror.complete",
    "experiments.sweep_mirror.SweepMirror.close",
    "experiments.sync.mirror_the_rest",
    "experiments.patience.Courier.wait",
    "requests.sessions.Session.send",
)
NOT_COUNTED = ("experiments.tracking.MLflowTracker.prepare",)


class Stopwatch:
    """Runs while the main thread is in a counted function, but not in one that is not to be counted below it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.seconds, self.since, self.running = clock, 0.0, 0.0, [False]

    def turn(self) -> None:
        now = self.clock()
        self.seconds += now - self.since if self.running[-1] else 0
        self.since = now

    def around(self, owner: Any, name: str, counted: bool) -> None:
        whole = getattr(owner, name)

        def patched(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return whole(*args, **kwargs)
            self.turn()
            self.running.append(counted)
            try:
                return whole(*args, **kwargs)
            finally:
                self.turn()
                self.running.pop()

        setattr(owner, name, patched)


def measure(words: list[str], out: Path) -> None:
    stopwatch = Stopwatch()

    def end() -> None:
        stopwatch.turn()
        out.write_text(json.dumps(stopwatch.seconds))

    atexit.register(end)  # the first that is registered is the last that is called, once all threads have ended
    for names, counted in ((COUNTED, True), (NOT_COUNTED, False)):
        for name in names:
            stopwatch.around(*found(name), counted)
    try:
        run_as_main(words)
    finally:
        stopwatch.turn()
        stopwatch.running.append(True)


if __name__ == "__main__":
    place, *words = sys.argv[1:]
    measure(words, Path(place))
