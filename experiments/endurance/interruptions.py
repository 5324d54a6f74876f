"""SIGKILL in the middle of everything that a training does, and the same command again.

For each trained reranker one root, one command and a chain of kills: each restart goes on with what the last kill
left, up to the next place of STAGES. After each, every file that claims to be whole must be; after the last the
command ends by itself, with the metrics, byte for byte, of a run that nobody disturbed, with nothing partial left over
and with one finished run in MLflow that has each point once. A second chain is killed at random moments.
Captions, which are a command of their own, have a chain in `killed_captions`.
"""

from __future__ import annotations

import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from experiments.curves import read_curves
from experiments.endurance import small
from experiments.endurance.films import write_films
from experiments.endurance.forks import Forks
from experiments.endurance.killed_captions import killed_captions
from experiments.endurance.outcome import Endurance, Outcome
from experiments.endurance.whole import leftovers, torn, unlike
from experiments.tracking import MLflowTracker

SIDE_BY_SIDE = 2
RANDOM = 4  # kills at random moments for each reranker
STEP = "called:transformers.trainer_callback.CallbackHandler.on_step_end"
CLIENT = "called:mlflow.MlflowClient"
# stage -> place and the how manyth time there, in the order of the chain; a checkpoint comes each 3 of 12 steps
STAGES = [
    ("the download", "called:http.client.HTTPResponse.read", 3),
    ("the download", "half:ml-100k.zip.sha256", 1),
    ("the download", "half:u.item", 1),
    ("candidate writing", "half:candidates/*.parquet", 1),
    ("candidate writing", "before:candidates/*.parquet", 1),
    ("MLflow logging", f"{CLIENT}.create_run", 1),
    ("MLflow logging", "half:mlflow.json", 1),
    ("enrichment", "called:data.image_features._vectors", 1),
    ("enrichment", "half:image_features-*.npz", 1),
    ("training", STEP, 5),
    ("checkpointing", "half:checkpoint-*/*.safetensors", 1),
    ("checkpointing", "half:checkpoint-*/optimizer.pt", 1),
    ("checkpointing", "calling:rerankers.checkpoints.MarkComplete.on_save", 1),
    ("training", STEP, 4),
    ("training", "half:curves.jsonl", 2),
    ("checkpointing", "deleting:checkpoint-*[0-9]", 1),
    ("checkpointing", "half:model.partial/*.safetensors", 1),
    ("checkpointing", "before:model", 1),
    ("checkpointing", "deleting:checkpoints", 1),
    ("evaluation", "scoring", 5),
    ("evaluation", "half:per_request.parquet", 1),
    ("evaluation", "after:metrics.json", 1),
    ("evaluation", "half:manifest.json", 1),
    ("MLflow logging", f"{CLIENT}.log_batch", 4),
    ("MLflow logging", f"{CLIENT}.log_artifact", 4),
    ("MLflow logging", f"{CLIENT}.set_terminated", 1),
]


@dataclass
class Trial:
    stage: str
    place: str
    wrong: list[str] = field(default_factory=list)  # what did not hold after this kill


def outcomes(settings: Endurance) -> Iterator[Outcome]:
    films, pictures = write_films(settings.scratch)
    shown = f"dataset.images={pictures}"
    with serving(films) as url, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:

        def endured(reranker: str) -> list[Outcome]:
            return chains(reranker, settings, [f"dataset.url={url}", *([shown] if reranker == "vip5" else [])])

        captions = pool.submit(killed_captions, settings.scratch / "captions", [f"dataset.url={url}", shown])
        for found in pool.map(endured, settings.rerankers):
            yield from found
        yield captions.result()


def words(reranker: str, root: Path, *more: str) -> list[str]:
    """As the small demo's, of films that are downloaded, and with MLflow."""
    kept = [word for word in small.words(reranker, root) if not word.startswith(("dataset.", "tracking="))]
    return [*kept, "dataset=ml_100k", *more]


def chains(reranker: str, settings: Endurance, more: list[str]) -> list[Outcome]:
    """The unbroken run, and both chains of kills of one reranker."""
    folder = settings.scratch / reranker
    whole = small.run("train.py", *words(reranker, folder / "unbroken", *more))
    if whole.returncode:
        return [Outcome(f"an unbroken run of {reranker}", 1, 0, "the run", failures=[whole.stderr[-500:]])]
    stages = [stage for stage in STAGES if reranker == "vip5" or stage[0] != "enrichment"]
    drawn = random.Random(f"{settings.seed} {reranker}")
    with Forks() as forks:
        placed = Chain(forks, folder / "placed", words(reranker, folder / "placed", *more), folder / "unbroken")
        MLflowTracker(f"sqlite:///{placed.root}/mlflow.db").client()  # its tables: made meanwhile, they take all of it
        for stage, place, nth in stages:
            placed.kill(stage, place, nth)
        placed.end()
        moments = Chain(forks, folder / "moments", words(reranker, folder / "moments", *more), folder / "unbroken")
        code, seconds = moments.run()
        if code:
            moments.trials = [Trial("", "undisturbed", [f"it ended with {code}: {moments.log.read_text()[-500:]}"])]
        for _ in range(0 if code else 2 * RANDOM):
            if len(moments.trials) < RANDOM:
                moments.kill_after(drawn.uniform(0, seconds))
        moments.end()
    faults = dict.fromkeys(stage for stage, _, _ in stages)
    out = [
        outcome_of(f"SIGKILL in {fault}", reranker, [t for t in placed.trials if t.stage == fault]) for fault in faults
    ]
    return [*out, outcome_of("SIGKILL at a random moment", reranker, moments.trials)]


def outcome_of(fault: str, reranker: str, trials: list[Trial]) -> Outcome:
    failures = [f"{reranker}, {trial.place}: {'; '.join(trial.wrong)}" for trial in trials if trial.wrong]
    lost = "see its failures" if failures else "nothing"
    return Outcome(fault, len(trials), len(trials) - len(failures), lost, failures=failures)


@dataclass
class Chain:
    """One root, one command, killed again and again."""

    forks: Forks
    root: Path
    given: list[str]
    unbroken: Path
    trials: list[Trial] = field(default_factory=list)

    def kill(self, stage: str, place: str, nth: int) -> None:
        code, _ = self.run(place=place, nth=nth)
        self._look(Trial(stage, f"{place} {nth}"), code)

    def kill_after(self, seconds: float) -> None:
        """No trial where it ended well before; then the next begins anew."""
        if small.results(self.root):
            shutil.rmtree(self.root)
        code, took = self.run(seconds=seconds)
        if code or finished(self.root, self.unbroken):
            self._look(Trial("", f"after {took:.2f} s"), code)

    def end(self) -> None:
        """The command once more, in a process that is no fork. What is wrong then cannot be told from which kill it
        comes, so it is counted for all."""
        last = small.run("train.py", *self.given)
        wrong = [f"the last command ended with {last.returncode}: {last.stderr[-500:]}"] if last.returncode else []
        wrong += finished(self.root, self.unbroken)
        for trial in self.trials:
            trial.wrong += wrong

    def run(self, **ask: Any) -> tuple[int, float]:
        self.log = self.root.with_suffix(".log")
        return self.forks.run(["train.py", *self.given], self.log, **ask)

    def _look(self, trial: Trial, code: int) -> None:
        if code != -signal.SIGKILL:
            trial.wrong.append(f"it ended with {code}, not by SIGKILL: {self.log.read_text()[-500:]}")
        trial.wrong += torn(self.root)
        self.trials.append(trial)


def finished(root: Path, unbroken: Path) -> list[str]:
    """What a root whose last command ended well has otherwise than one that nobody disturbed."""
    found, expected = small.results(root), small.results(unbroken)
    wrong = [] if found == expected else [f"{sorted(found)} has other metrics than {sorted(expected)}"]
    wrong += [f"{name} is in one of them alone" for name in sorted(names(root) ^ names(unbroken))]
    if damaged := torn(root):
        return wrong + damaged
    for name in sorted(names(root) & names(unbroken)):
        read = CONTENT.get(Path(name).name)
        if read and read(root / name) != read(unbroken / name):
            wrong.append(f"{name} is not that of the unbroken run")
    return wrong + leftovers(root) + unlike(root, root / "mlflow.db")


def points(path: Path) -> list[tuple[Any, ...]]:
    """Without their clocks."""
    return [tuple(point[key] for key in ("name", "step", "epoch", "value")) for point in read_curves(path.parent)]


CONTENT: dict[str, Callable[[Path], Any]] = {"predictions.parquet": pq.read_table, "curves.jsonl": points}


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.glob("runs/**/*") if path.is_file()}


@contextmanager
def serving(file: Path) -> Iterator[str]:
    """The file's address on a server of this machine that goes on where a download broke off."""
    content = file.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            with suppress(ConnectionError):  # whoever asked was killed
                self.wfile.write(content[start:])

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/ml-100k.zip"
        server.shutdown()
