"""Progress bars for whatever takes more than two seconds; where stderr is no terminal, now and then a line."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
PATIENCE = 2.0  # seconds before a bar appears
REDRAWN = 0.1  # seconds between two updates
SAID = 30.0  # seconds between two lines
log = logging.getLogger(__name__)


def bar(steps: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields the steps; after two seconds a bar shows how far it is. `total`: of steps that have no length."""
    started, shown = time.perf_counter(), None
    total, drawn = len(steps) if isinstance(steps, Sized) else total, started
    terminal, said = sys.stderr.isatty() and os.environ.get("RANK", "0") == "0", started  # one bar of all processes
    try:
        for done, step in enumerate(steps):
            if (now := time.perf_counter()) - drawn > REDRAWN:
                drawn = now
                if not terminal and now - said > SAID:
                    said = now
                    log.info("  %s: %s after %.0f s", description, _how_far(done, total), now - started)
                if shown is None and terminal and now - started > PATIENCE:
                    shown = _progress(TimeRemainingColumn())
                    shown.start()
                    task = shown.add_task(description, total=total)
                if shown is not None:
                    shown.update(task, completed=done)
            yield step
    finally:  # an error in the caller's loop must not be printed into a bar
        if shown is not None:
            shown.stop()


def _how_far(done: int, total: int | None) -> str:
    return f"{done:,}" if total is None else f"{done:,} of {total:,}"


def download_bar(chunks: Iterable[bytes], total: int) -> Iterator[bytes]:
    with _progress(DownloadColumn(), TimeRemainingColumn()) as shown:
        task = shown.add_task("downloading", total=total or None)
        for chunk in chunks:
            yield chunk
            shown.update(task, advance=len(chunk))


def _progress(*columns: TextColumn | BarColumn | DownloadColumn | TimeRemainingColumn) -> Progress:
    from rich.console import Console

    console = Console(stderr=True)
    return Progress(TextColumn("{task.description}"), BarColumn(), *columns, console=console, transient=True)
