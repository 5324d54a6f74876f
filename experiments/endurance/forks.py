"""Commands as forks of one process that has imported everything: 3 s where a command of its own takes 10.

    with Forks() as forks:
        forks.run(["train.py", "reranker=bert4rec"], log, place="half:metrics.json")

Each is a process of its own, which ends, or is killed, alone.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from experiments.endurance import small
from experiments.endurance.killed import arm, run_as_main
from experiments.launch import ROOT

IMPORTED = (
    "torch transformers sentence_transformers trl peft pyarrow.parquet mlflow mlflow.store.tracking.sqlalchemy_store "
    "alembic.command alembic.script alembic.migration PIL.Image train experiments.conclude "
    "experiments.stages experiments.summary experiments.findings experiments.folds rerankers.bert4rec "
    "rerankers.letter.trainer rerankers.cross_encoder.trainer rerankers.vip5.vip5"
).split()
GLANCE = 0.01  # seconds between two looks at a process that is to be killed


class Forks:
    def __enter__(self) -> Forks:
        server, own = small.command("-m", "experiments.endurance.forks"), small.environment()
        self.process = subprocess.Popen(
            server, cwd=ROOT, env=own, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(self, *args: object) -> None:
        self.process.communicate()

    def run(self, words: list[str], log: Path, **ask: Any) -> tuple[int, float]:
        """Exit code and seconds of `python <words>`, whose output goes to `log`. `place` and `nth`: where it kills
        itself; `seconds`: when it is killed."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"words": words, "log": str(log), **ask}) + "\n")
        self.process.stdin.flush()
        code, seconds = json.loads(self.process.stdout.readline())
        return code, seconds


def serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        ask, started = json.loads(line), time.monotonic()
        if not (child := os.fork()):
            become(ask)
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() - started > ask.get("seconds", small.LIMIT):
                os.kill(child, 9)
            time.sleep(GLANCE)
        seconds = time.monotonic() - started
        hung = "seconds" not in ask and seconds > small.LIMIT
        print(json.dumps([small.HUNG if hung else os.waitstatus_to_exitcode(ended[1]), seconds]), flush=True)


def become(ask: dict[str, Any]) -> None:
    """The fork is the command, to its end."""
    log = os.open(ask["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code: Any = 0
    try:
        if "place" in ask:
            arm(ask["place"], ask.get("nth", 1))
        run_as_main(ask["words"])
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve()
