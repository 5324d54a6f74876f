"""Work for a server that may be slow, hang or be gone, in a thread of its own: whoever gives it never waits for more
than some seconds. A timeout of requests is not enough: a server that sends a byte a second, or a name that is looked
up for ever, never runs into it.
"""

from __future__ import annotations

import logging
import math
import shlex
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from experiments.launch import ROOT

log = logging.getLogger(__name__)
LOOK = 0.05  # seconds between two looks at whether the work is done


class Patience(NamedTuple):
    """How long the end of a run waits: `seconds`, and what a server that answers needs, up to `at_most` in all."""

    seconds: float
    a_call: float  # seconds more for each call
    bytes_a_second: float  # of files
    at_most: float = math.inf  # seconds


TRAINING = Patience(5, 0.25, 1e7, at_most=8)
DATABASE = Patience(30, 1, 1e7, at_most=60)  # this process makes its tables itself, which takes 5 to 10 s
SENDING = Patience(60, 30, 1e5)  # nothing else waits


def patience_for(uri: str) -> Patience:
    return TRAINING if uri.startswith("http") else DATABASE


class GivenUpError(Exception):
    """Nobody waits any more: the thread ends, and writes nothing."""


class Courier:
    """Does the steps that it is given, in order, in a daemon thread, so that none can hold up the process's end."""

    def __init__(self, patience: Patience) -> None:
        self.patience, self.credit, self.given_up = patience, 0.0, False
        self.turn = threading.Lock()
        self.steps: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread: threading.Thread | None = None

    def give(self, step: Callable[[], None]) -> None:
        """`step` handles its own errors."""
        self.steps.put(step)
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, daemon=True)
            self.thread.start()

    def wait(self) -> bool:
        """Until all is done, or patience ends; whether it is done. It takes nothing more."""
        self.steps.put(None)
        self.credit, began = 0.0, time.monotonic()
        while self.thread and self.thread.is_alive():
            self.thread.join(LOOK)
            if time.monotonic() - began > min(self.patience.seconds + self.credit, self.patience.at_most):
                with self.turn:
                    self.given_up = True
                return False
        return True

    def before_call(self, n_bytes: int = 0) -> None:
        """To be called by a step before each call of the server."""
        self.write(lambda: None)
        self.credit += self.patience.a_call + n_bytes / self.patience.bytes_a_second

    def write(self, write: Callable[[], Any]) -> None:
        """Lets a step write a file, unless it was given up: others may be at work on it by now."""
        with self.turn:
            if self.given_up:
                raise GivenUpError
            write()

    def _work(self) -> None:
        while (step := self.steps.get()) is not None:
            try:
                step()
            except GivenUpError:
                return


def patiently(patience: Patience, step: Callable[[], Any]) -> Exception | None:
    """Does one step and waits for it; what went wrong, a TimeoutError if it was given up."""
    errors: list[Exception] = []

    def caught() -> None:
        try:
            step()
        except Exception as error:  # MLflow's own and those of requests, urllib3, SQLAlchemy and drivers
            errors.append(error)

    courier = Courier(patience)
    courier.give(caught)
    return (errors[0] if errors else None) if courier.wait() else no_answer(patience)


def no_answer(patience: Patience) -> TimeoutError:
    return TimeoutError(f"it had not answered after {patience.seconds:g} s")


def tell(uri: str, root: Path, error: Exception, consequence: str) -> None:
    """That a server failed, its first line alone, and how to go on with what is under `root`."""
    words = [f"tracking.uri={uri}", *([f"paths.root={root}"] if root != ROOT else [])]
    hint = f"python -m experiments.sync {shlex.join(words)}"
    log.warning("MLflow at %s failed (%s); %s, send it later: %s", uri, first_line(error), consequence, hint)


def first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:200]
