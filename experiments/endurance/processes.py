"""One training on two processes (torchrun, gloo), and several commands on one cache at once.

With dropout off and rows that no chance draws, two processes with batches of 8 are one process with batches of 16 but
for the order of additions: LOSS and METRIC say how near.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from experiments.curves import read_curves
from experiments.endurance.outcome import NOTHING, Endurance, Outcome
from experiments.endurance.small import command, environment, results, words
from experiments.launch import ROOT

LOSS, METRIC = 1e-3, 0.01  # largest difference of a step's loss, and of a metric of 128 requests
EXACT = ["dataset.n_users=128", "trainer.max_steps=-1", "trainer.num_train_epochs=4", "trainer.learning_rate=3e-3"]
UNDRAWN = {
    "bert4rec": ["reranker.dropout=0", "reranker.random_crop=0", "reranker.last_only=1"],
    "viranker": ["reranker.dropout=0", "reranker.loss=listwise"],
}
TIMEOUT = 600


def torchrun(*given: str) -> list[str]:
    """`given`: `train.py`, or `-m` and a module, and its words."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return command("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", *given)


def start(line: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        line, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )


def finish(*running: subprocess.Popen[str]) -> list[str]:
    """What each that failed said last."""
    said = [process.communicate(timeout=TIMEOUT)[1] for process in running]
    return [errors[-800:] for process, errors in zip(running, said, strict=True) if process.returncode]


def folder_of(root: Path) -> Path:
    (folder,) = (path.parent for path in root.glob("runs/*/manifest.json"))
    return folder


def files(root: Path) -> set[str]:
    """Under `root`, with the hashes in names left out."""
    found = [path.relative_to(root) for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {"/".join(part.rpartition("-")[0] or part for part in path.parts) for path in found}


def differences(one: Path, two: Path) -> tuple[float, float]:
    """The largest of a step's loss and of a final metric."""
    first, second = (
        {(p["name"], p["step"]): p["value"] for p in read_curves(folder) if p["name"] == "train_loss"}
        for folder in (one, two)
    )
    a, b = (json.loads((folder / "metrics.json").read_text()) for folder in (one, two))
    of_loss = max(abs(first[key] - second[key]) for key in first) if first.keys() == second.keys() else float("inf")
    asked = [name for name in a if name.startswith(("valid/", "test/recall", "test/ndcg", "test/mrr"))]
    return of_loss, max(abs(a[name] - b[name]) for name in asked)


def like_one_process(reranker: str, scratch: Path) -> Iterator[Outcome]:
    roots = {name: scratch / f"{reranker}-{name}" for name in ("one", "two", "killed")}
    exact = [*EXACT, *UNDRAWN[reranker]]
    tracked = ["tracking=mlflow", f"tracking.uri=sqlite:///{roots['two']}/mlflow.db"]
    given = {name: words(reranker, root, *exact) for name, root in roots.items()}
    alone = start(command("train.py", *given["one"], "trainer.per_device_train_batch_size=16"))
    (notes := scratch / f"{reranker}-written").mkdir()
    noted = ["-m", "experiments.endurance.writers", str(notes)]
    failures = finish(alone, start(torchrun(*noted, "train.py", *given["two"], *tracked)))
    same = "two processes train and score like one"
    once = "one run in MLflow, no file and no point written twice"
    if failures:
        yield Outcome(same, 1, 0, "the run", failures=failures)
        return
    one, two = folder_of(roots["one"]), folder_of(roots["two"])
    loss, metric = differences(one, two)
    near = loss <= LOSS and metric <= METRIC
    note = f"{reranker}: loss within {loss:.1g}, metrics within {metric:.1g}"
    yield Outcome(same, 1, int(near), NOTHING if near else "equality", note)
    wrong = [*written_twice(one, two, notes), *runs_in_mlflow(f"sqlite:///{roots['two']}/mlflow.db")]
    yield Outcome(once, 1, int(not wrong), NOTHING if not wrong else "; ".join(wrong), failures=wrong)

    process = start(torchrun("train.py", *given["killed"]))
    deadline = time.monotonic() + TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        if list(roots["killed"].glob("runs/*/checkpoints/checkpoint-*/complete")):
            break
        time.sleep(0.05)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:  # torchrun's are groups of their own
        each.kill()
    process.communicate()
    stopped = not results(roots["killed"])
    failures = finish(start(torchrun("train.py", *given["killed"])))
    equal = stopped and not failures and results(roots["killed"]) == results(roots["two"])
    lost = NOTHING if equal else "the same numbers"
    yield Outcome("both processes killed, and started again", 1, int(equal), lost, failures=failures)


def written_twice(one: Path, two: Path, notes: Path) -> list[str]:
    """What of a run on two processes is not there once, as of one on one process, or was written by both. The second
    may write into the cache alone, if it is there first."""
    root = two.parent.parent
    of_first, of_second = (
        {path for path in json.loads((notes / f"{rank}.json").read_text()) if path.startswith(f"{root}/")}
        for rank in (0, 1)
    )
    twice = {path for path in of_first & of_second if not path.endswith((".lock", "/"))}
    elsewhere = {path for path in of_second if not path.startswith(f"{root}/cache/") and not path.endswith("/")}
    extra = {
        name for name in files(root) ^ files(one.parent.parent) if not re.search("^outputs|mlflow|^mlartifacts", name)
    }
    keys = [(point["name"], point["step"]) for point in read_curves(two)]
    found = [f"files that only one of both has: {sorted(extra)}"] if extra else []
    found += [f"written by both: {sorted(twice)}"] if twice else []
    found += [f"written by the second: {sorted(elsewhere)}"] if elsewhere else []
    found += ["the first is said to have written nothing"] if not of_first else []
    found += ["points of a curve twice"] if len(keys) != len(set(keys)) else []
    found += ["more than one folder of Hydra's"] if len(list((root / "outputs").glob("*/*"))) != 1 else []
    return found


def runs_in_mlflow(uri: str) -> list[str]:
    import mlflow

    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    states = [run.info.status for run in runs]
    return [] if states == ["FINISHED"] else [f"runs in MLflow: {states}"]


def on_one_cache(scratch: Path) -> Iterator[Outcome]:
    """Two rerankers, and one of them twice, on one new root and one new database; then each by itself."""
    shared = scratch / "shared"
    expected: dict[str, bytes] = {}
    own = {name: words(name, shared, "tracking=mlflow", f"tracking.uri=sqlite:///{shared}/mlflow.db") for name in
           ("bert4rec", "sasrec")}  # fmt: skip
    failures = finish(*(start(command("train.py", *own[name])) for name in ("bert4rec", "sasrec", "bert4rec")))
    for name in own:
        alone = scratch / f"alone-{name}"
        failures += finish(start(command("train.py", *words(name, alone))))
        expected |= results(alone)
    equal = not failures and results(shared) == expected
    drawn = list((shared / "cache" / "candidates").glob("*"))
    whole = [path.name for path in drawn if path.suffix not in (".parquet", ".lock")]
    failures += [f"left over: {whole}"] if whole else []
    survived = int(equal and not whole)
    yield Outcome("three commands at once on one new cache and database", 1, survived,
                  NOTHING if survived else "the same numbers", failures=failures)  # fmt: skip


def outcomes(settings: Endurance) -> Iterator[Outcome]:
    scratch = settings.scratch
    yield from itertools.chain(*(like_one_process(name, scratch) for name in UNDRAWN if name in settings.rerankers))
    yield from on_one_cache(scratch)
