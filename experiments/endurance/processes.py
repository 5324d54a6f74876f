"""One training on two processes (torchrun, gloo), and several commands on one cache at once.

With dropout off and rows that no chance draws, two processes with batches of 8 are one process with batches of 16 but
for the order of additions: LOSS and METRIC say how near.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.curves import read_curves
from experiments.endurance import leash
from experiments.endurance.outcome import NOTHING, Endurance, Outcome
from experiments.endurance.small import command, results, words

LOSS, METRIC = 1e-3, 0.01  # largest difference of a step's loss, and of a metric of 128 requests
EXACT = ["dataset.n_users=128", "trainer.max_steps=-1", "trainer.num_train_epochs=4", "trainer.learning_rate=3e-3"]
UNDRAWN = {
    "bert4rec": ["reranker.dropout=0", "reranker.random_crop=0", "reranker.last_only=1"],
    "viranker": ["reranker.dropout=0", "reranker.loss=listwise"],
}
TIMEOUT = 600


def torchrun(*given: str) -> list[str]:
    """`given`: `train.py`, or `-m` and a module, and its words. It chooses a free port itself."""
    return command("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *given)


def finish(*running: subprocess.Popen[str]) -> list[str]:
    """What each that failed said last."""
    try:
        ended = [leash.finish(process) for process in running]
    finally:
        for process in running:
            leash.kill(process)
    return [f"exit code {done.returncode}: {done.stderr[-800:]}" for done in ended if done.returncode]


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
    alone = leash.start(command("train.py", *given["one"], "trainer.per_device_train_batch_size=16"))
    (notes := scratch / f"{reranker}-written").mkdir()
    noted = ["-m", "experiments.endurance.writers", str(notes)]
    failures = finish(alone, leash.start(torchrun(*noted, "train.py", *given["two"], *tracked)))
    same = "two processes train and score like one"
    once = "one run in MLflow, no file and no point written twice"
    if failures:
        yield Outcome(same, 1, 0, "the run", failures=failures)
        return
    one, two = folder_of(roots["one"]), folder_of(roots["two"])
    loss, metric = differences(one, two)
    near = loss <= LOSS and metric <= METRIC
    note = f"{reranker}: loss within {loss:.1g}, metrics within {metric:.1g}"
    yield Outcome(same, 1, int(near), NOTHING if near else "equality", note, [] if near else [note])
    wrong = [*written_twice(one, two, notes), *runs_in_mlflow(f"sqlite:///{roots['two']}/mlflow.db")]
    yield Outcome(once, 1, int(not wrong), NOTHING if not wrong else "; ".join(wrong), failures=wrong)

    stopped = killed_at_a_checkpoint(torchrun("train.py", *given["killed"]), roots["killed"])
    failures = [] if stopped else ["no checkpoint was there, or the run was over, when both were to be killed"]
    failures += finish(leash.start(torchrun("train.py", *given["killed"])))
    failures += differing(roots["killed"], results(roots["two"]))
    lost = "the same numbers" if failures else NOTHING
    yield Outcome("both processes killed, and started again", 1, int(not failures), lost, failures=failures)


def killed_at_a_checkpoint(line: list[str], root: Path) -> bool:
    process = leash.start(line)
    deadline = time.monotonic() + TIMEOUT
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if list(root.glob("runs/*/checkpoints/checkpoint-*/complete")):
                return leash.kill(process) and not results(root)
            time.sleep(0.05)
        return False
    finally:
        leash.finish(process, 0)


def differing(root: Path, expected: dict[str, bytes]) -> list[str]:
    """Runs whose numbers are not those that are expected, or that are there too much or too little."""
    found = results(root)
    return [f"other numbers of {name}" for name in sorted(found | expected) if found.get(name) != expected.get(name)]


def written_twice(one: Path, two: Path, notes: Path) -> list[str]:
    """What of a run on two processes is not there once, as of one on one process, or was written by both. The second
    may write into the cache, if it is there first, and its generators' states into a checkpoint."""
    root = two.parent.parent
    of_first, of_second = (
        {path for path in json.loads((notes / f"{rank}.json").read_text()) if path.startswith(f"{root}/")}
        for rank in (0, 1)
    )
    twice = {path for path in of_first & of_second if not path.endswith(".lock")}
    own = re.compile(f"{re.escape(str(root))}/(cache/|runs/[^/]+/checkpoints/[^/]+/rng_state_1\\.pth$)")
    elsewhere = {path for path in of_second if not own.match(path)}
    unseen = [name for name in (".safetensors", ".pt") if not any(path.endswith(name) for path in of_first)]
    extra = {
        name for name in files(root) ^ files(one.parent.parent) if not re.search("^outputs|mlflow|^mlartifacts", name)
    }
    keys = [(point["name"], point["step"]) for point in read_curves(two)]
    found = [f"files that only one of both has: {sorted(extra)}"] if extra else []
    found += [f"written by both: {sorted(twice)}"] if twice else []
    found += [f"written by the second: {sorted(elsewhere)}"] if elsewhere else []
    found += [f"the first is not seen to write any of {unseen}"] if unseen else []
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
    failures = finish(*[leash.start(command("train.py", *own[name])) for name in ("bert4rec", "sasrec", "bert4rec")])
    for name in own:
        alone = scratch / f"alone-{name}"
        failures += finish(leash.start(command("train.py", *words(name, alone))))
        expected |= results(alone)
    failures += differing(shared, expected)
    drawn = list((shared / "cache" / "candidates").glob("*"))
    whole = [path.name for path in drawn if path.suffix not in (".parquet", ".lock")]
    failures += [f"left over: {whole}"] if whole else []
    lost = "the same numbers" if failures else NOTHING
    yield Outcome(
        "three commands at once on one new cache and database", 1, int(not failures), lost, failures=failures
    )


def outcomes(settings: Endurance) -> Iterator[Outcome]:
    scratch = settings.scratch
    yield from itertools.chain(*(like_one_process(name, scratch) for name in UNDRAWN if name in settings.rerankers))
    yield from on_one_cache(scratch)
