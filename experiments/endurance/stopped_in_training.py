"""A training that is killed in its middle: after its first whole checkpoint, without a chance to put anything away."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from experiments.endurance import small
from experiments.launch import ROOT


def killed(words: list[str], root: Path, **more: str) -> bool:
    """Whether SIGKILL came while the training was under way; `root` is the command's."""
    process = subprocess.Popen(
        small.command(*words),
        cwd=ROOT,
        env=small.environment(**more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not any(root.glob("runs/*/checkpoints/*/complete")):
        time.sleep(0.005)
    process.kill()
    return process.wait() == -9 and not any(root.glob("runs/*/manifest.json"))
