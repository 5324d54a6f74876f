"""One training on several processes: torchrun --nproc_per_node=2 train.py reranker=bert4rec

Each process runs the whole command on the same data. The Trainer averages their gradients and each scores its share
of the requests; the first alone writes, prints, tracks and diagnoses. What a process does next depends on what the
first one found on the disk (`agreed`), or on what was there before all of them met (`wait`).

A batch is `per_device_train_batch_size` of each process, so the number of processes is part of a run's identity.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import UserError
from experiments.runs import Run
from experiments.tracking import NullTracker, Tracker
from rerankers.processes import n_processes

if TYPE_CHECKING:
    from experiments.config import Experiment
    from experiments.evaluation import ScoreFn

WAIT = timedelta(days=2)  # for the others, who may diagnose or wait for another run's lock


def is_first() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def join() -> None:
    """Meets the others. All but the first print nothing but what they end with, and leave no folder of Hydra's."""
    import torch

    if lacking := {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} - os.environ.keys():
        raise UserError(
            f"WORLD_SIZE={n_processes()} is set but not {min(lacking)}; start with torchrun, or unset WORLD_SIZE"
        )
    backend = "gloo"
    if torch.cuda.is_available():
        place, n_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= n_gpus:
            raise UserError(f"{place + 1} processes have {n_gpus} GPUs here; give torchrun --nproc_per_node={n_gpus}")
        torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(backend, timeout=WAIT)
    atexit.register(torch.distributed.destroy_process_group)
    if not is_first():
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        sys.argv += [f"hydra.run.dir={folder}", "hydra/job_logging=none"]
        logging.disable(logging.CRITICAL)


def follow(experiment: Experiment) -> None:
    """What only the first process does is switched off in the others."""
    if n_processes() > 1 and experiment.check:
        raise UserError("check=true checks one process; run it without torchrun")
    if not is_first():
        experiment.tracker, experiment.diagnose = NullTracker(), "off"


def run_of(folder: Path) -> Run:
    return Run(folder) if is_first() else Follower(folder)


class Follower(Run):
    """A run as all processes but the first see it: nothing is written."""

    @contextmanager
    def alone(self, root: Path) -> Iterator[None]:
        yield

    @contextmanager
    def start(self, resolved: dict[str, Any], force: bool, tracker: Tracker) -> Iterator[None]:
        yield

    def begin_training(self) -> None:
        self.start_clocks(0.0, 0.0)

    def log(self, values: dict[str, float], step: int) -> list[dict[str, Any]]:
        return []

    def save_model(self, save: Callable[[Path], None], record: dict[str, Any], keep: bool = False) -> None: ...

    def put_checkpoints_away(self, keep: bool) -> None: ...


def wait() -> None:
    """Until all are here: what the first wrote before can be read by the others after."""
    if n_processes() > 1:
        import torch

        torch.distributed.barrier()


def agreed(found: bool) -> bool:
    """What the first process found, in all."""
    if n_processes() == 1:
        return found
    import torch

    told = torch.tensor([int(found)])
    torch.distributed.broadcast(told, src=0)
    return bool(told.item())


def shared(score: ScoreFn) -> ScoreFn:
    """`score` with each process at work on its share of the requests; all get all scores, float32 [R, N]."""
    if n_processes() == 1:
        return score
    import torch

    n = n_processes()

    def scored(requests: Any) -> np.ndarray:
        shares = [np.arange(len(requests))[i::n] for i in range(n)]
        own = shares[int(os.environ["RANK"])]
        mine = np.zeros((len(shares[0]), requests.width), dtype=np.float32)  # the first share is the largest
        if len(own):
            mine[: len(own)] = score(requests.take(own))
        parts = [torch.empty(mine.shape) for _ in shares]
        torch.distributed.all_gather(parts, torch.from_numpy(mine))
        out = np.empty((len(requests), requests.width), dtype=np.float32)
        for rows, part in zip(shares, parts, strict=True):
            out[rows] = part.numpy()[: len(rows)]
        return out

    return scored
