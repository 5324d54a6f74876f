"""Seconds and peak memory of each stage of a run, in the order in which they ran; they stand in its cost.json."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)
SLOW = 5.0  # seconds; a stage that takes longer says what it took


class Clock:
    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times a stage; a stage that comes again adds up. Peaks are of the stage alone where the system can tell
        (Linux), else of the process so far."""
        start_peak_again()
        started = time.perf_counter()
        yield
        seconds, peak = time.perf_counter() - started, peak_memory_mb()
        if seconds > SLOW:
            log.info("  %s: %.0f s, at most %s MB", stage, seconds, f"{peak:,.0f}")
        before = self.stages.get(stage, {"seconds": 0.0, "peak_memory_mb": 0.0})
        self.stages[stage] = {
            "seconds": round(before["seconds"] + seconds, 2),
            "peak_memory_mb": max(before["peak_memory_mb"], peak),
        }

    @property
    def peak_memory_mb(self) -> float:
        return max((stage["peak_memory_mb"] for stage in self.stages.values()), default=peak_memory_mb())


def start_peak_again() -> None:
    """The peak starts from what is in memory now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float:
    """Of this process (in a sweep: of its jobs so far, where the peak cannot be reset), plus the GPU's."""
    import torch

    try:
        import resource
    except ImportError:  # Windows
        import psutil

        memory = psutil.Process().memory_info().peak_wset / 2**20
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    if torch.cuda.is_available():
        memory += torch.cuda.max_memory_allocated() / 2**20
    return round(memory, 1)
