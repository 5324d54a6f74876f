"""The command that breaks everything: a case that is killed, a command that is, what is asked wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import command

from data.errors import UserError
from experiments.endurance.outcome import Endurance
from experiments.endurance.small import environment
from experiments.launch import ROOT


def wait_for(found: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    until = time.monotonic() + 120
    while not (there := found()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return there


def named(pid: int, words: str) -> list[psutil.Process]:
    """The descendants whose command has these words."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [child for child in children if words in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize("whole", [False, True], ids=["a case", "the command"])
def test_what_was_killed_leaves_nothing_running(whole: bool, tmp_path: Path) -> None:
    words = ["cases=[memory]", "rerankers=[bert4rec]", f"out={tmp_path / 'out.json'}", f"paths.root={tmp_path}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.endure", *words],
        cwd=ROOT, env=environment(TMPDIR=str(tmp_path)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    (case,) = wait_for(lambda: named(process.pid, "spawn_main"))
    training = wait_for(lambda: named(process.pid, "experiments.endurance.memory"))
    time.sleep(2)  # so that the command has looked once at what the case has started
    (process if whole else case).kill()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == (-9 if whole else 1), said
    assert not psutil.wait_procs([case, *training], timeout=60)[1], "they go on alone"
    if not whole:
        (outcome,) = json.loads((tmp_path / "out.json").read_text())["cases"]["memory"]
        assert (outcome["tried"], outcome["survived"]) == (1, 0)
        assert outcome["failures"] == ["its process ended with -9"]
        assert "1 outcomes did not survive" in said


def test_a_case_that_does_not_exist() -> None:
    done = command("-m", "experiments.endure", "cases=[disk,fire]")
    assert done.returncode == 2 and "error: cases=fire does not exist; choose big, " in done.stderr


@pytest.mark.parametrize(
    ("asked", "says"),
    [({"rerankers": ["bert5rec"]}, "rerankers=bert5rec"), ({"evaluation_rounds": 29}, "evaluation_rounds=29")],
)
def test_settings_that_would_try_nothing(asked: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Endurance(**{"rerankers": ["bert4rec"], **asked})  # type: ignore[arg-type]
