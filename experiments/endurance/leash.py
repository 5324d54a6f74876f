"""Commands that never outlive the case that started them, whatever ends it.

    python -m experiments.endurance.leash <process> python train.py reranker=random

ends with the command, whose exit code it has, and ends the command once `process`, its own parent, is gone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import Any

import psutil

from experiments.endurance.small import command, environment
from experiments.launch import ROOT

LOOK = 0.2  # seconds between two looks at whether the parent is there


def start(line: list[str], out: Any = subprocess.PIPE, **more: str) -> subprocess.Popen[str]:
    """`out`: a file for both outputs, which are pipes otherwise; `more`: environment variables."""
    leash = command("-m", "experiments.endurance.leash", str(os.getpid()), *line)
    return subprocess.Popen(leash, cwd=ROOT, env=environment(**more), stdout=out, stderr=out, text=True)


def kill(process: subprocess.Popen[Any]) -> bool:
    """With all below it: torchrun's workers are in groups of their own. Whether it was there still."""
    if process.poll() is not None:
        return False
    own = psutil.Process(process.pid)  # a child that is not waited for keeps its number
    for each in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            each.kill()
    process.wait()
    return True


def finish(process: subprocess.Popen[str], seconds: float = 600) -> subprocess.CompletedProcess[str]:
    """It is killed if it has not ended by then."""
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=seconds)
    finally:
        kill(process)
    return subprocess.CompletedProcess(process.args, process.returncode, *process.communicate())


def hold(parent: int, line: list[str]) -> int:
    process = subprocess.Popen(line)
    try:
        while process.poll() is None and os.getppid() == parent:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK)
    finally:
        kill(process)
    return process.returncode


if __name__ == "__main__":
    code = hold(int(sys.argv[1]), sys.argv[2:])
    sys.exit(code if code >= 0 else 128 - code)
