"""Progress bars for whatever takes more than two seconds; silent where the terminal is not one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
PATIENCE = 2.0  # seconds before a bar appears


def bar(steps: Sequence[T], description: str) -> Iterator[T]:
    """Yields the steps; after two seconds a bar shows how far it is."""
    started, shown = time.perf_counter(), None
    for done, step in enumerate(steps):
        if shown is None and sys.stderr.isatty() and time.perf_counter() - started > PATIENCE:
            shown = _progress(TimeRemainingColumn())
            shown.start()
            task = shown.add_task(description, total=len(steps))
        if shown is not None:
            shown.update(task, completed=done)
        yield step
    if shown is not None:
        shown.stop()


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
