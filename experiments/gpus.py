"""One GPU for each job that runs beside others. Light on purpose: it comes before CUDA and before torch.

The process that launches says which GPUs there are; each process of a job takes the first free one by a file lock that
it holds as long as it lives (joblib's workers take several jobs one after the other), and sees that one alone.
"""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
import time
from pathlib import Path

log = logging.getLogger(__name__)
GPUS = "RERANK_GPUS"  # environment variable: those to share out; submitit_local hides CUDA_VISIBLE_DEVICES
_held: list[object] = []  # the lock of this process


def visible() -> list[str]:
    """The names that CUDA_VISIBLE_DEVICES may have here, without starting CUDA."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []
    parts = [line.split("UUID:")[1].strip(" )") for line in lines if line.strip().startswith("MIG")]
    return parts or [str(number) for number in range(sum(line.startswith("GPU ") for line in lines))]


def take() -> str | None:
    """Gives this process a GPU of those that were offered; waits for one while others have them all."""
    offered = [name for name in os.environ.get(GPUS, "").split(",") if name]
    if not offered or _held:
        return None
    told = False
    while True:
        for name in offered:
            if (lock := _lock(name)) is not None:
                _held.append(lock)
                os.environ["CUDA_VISIBLE_DEVICES"] = name
                return name
        if not told:
            log.warning("all %d GPUs are taken by other jobs; this one waits", len(offered))
            told = True
        time.sleep(1)


def _lock(name: str) -> object | None:
    from filelock import FileLock, Timeout

    lock = FileLock(Path(tempfile.gettempdir()) / f"rerankers-{user()}-gpu-{name.replace('/', '-')}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def user() -> int:
    """Part of the name of a lock that all of a user's processes share."""
    return os.getuid() if hasattr(os, "getuid") else 0
