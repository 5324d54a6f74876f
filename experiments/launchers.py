"""Hydra's launchers as a sweep uses them: jobs that fail or whose process dies do not end it; one GPU for each.

python train.py -m seed=0,1,2 hydra/launcher=joblib hydra.launcher.n_jobs=2
python train.py -m seed=0,1,2 hydra/launcher=submitit_local
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from experiments import gpus
from experiments.launch import ROOT, sentence

log = logging.getLogger(__name__)
Words = Sequence[str]


class Patient:
    """In the place of a launcher. `failed` is told each job that failed; `state` says of a job `finished`, `died`
    (begun, and no process is at work on it) or `waiting`."""

    def __init__(
        self, launcher: Any, failed: Callable[[Words, BaseException], None], state: Callable[[Words], str]
    ) -> None:
        self.launcher, self.failed, self.state = launcher, failed, state

    def launch(self, job_overrides: Sequence[Words], initial_job_idx: int) -> list[Any]:
        """The results of the jobs that ended well; none for no jobs, which joblib and submitit do not take."""
        results: list[Any] = []
        groups = [list(job_overrides)] if job_overrides else []
        while groups:
            group = groups.pop(0)
            try:
                returned = self.launcher.launch(group, initial_job_idx=initial_job_idx)
            except Exception as error:  # of the launcher itself, or a process was killed, for want of memory say
                log.error("the launcher failed: %s", sentence(error) or repr(error))
                groups += self._again(group, error)
                continue
            for words, result in zip(group, returned, strict=True):
                if isinstance(returned_error := result._return_value, Exception):
                    self.failed(words, returned_error)
                else:
                    results.append(result)
        return results

    def _again(self, group: list[Words], error: Exception) -> list[list[Words]]:
        """Those that have not begun, together; then each whose process died by itself, as one may have killed all."""
        states = {tuple(words): self.state(words) for words in group}
        waiting = [words for words in group if states[tuple(words)] == "waiting"]
        died = [words for words in group if states[tuple(words)] == "died"]
        if len(group) == 1 or len(waiting) == len(group):
            for words in [*waiting, *died]:
                self.failed(words, error)
            return []
        return [*([waiting] if waiting else []), *([words] for words in died)]


def prepare(launcher: Any, n_jobs: int, given: str) -> None:
    """The plugins' defaults that a training cannot use, where the command has `given` no other: joblib's jobs as many
    as cores, and an hour for each of submitit_local's, which also starts all at once with all threads."""
    kind = type(launcher).__name__
    offered = share_gpus(kind)
    if kind == "LocalLauncher":
        share = max(1, (os.cpu_count() or 1) // n_jobs)
        os.environ.setdefault("OMP_NUM_THREADS", str(share))
        if "hydra.launcher.timeout_min" not in given:
            launcher.params["timeout_min"] = 60 * 24 * 30
    elif kind == "JoblibLauncher":
        if "hydra.launcher.n_jobs" not in given:
            launcher.joblib["n_jobs"] = len(offered) or 2
        if "hydra.launcher.pre_dispatch" not in given:
            launcher.joblib["pre_dispatch"] = "n_jobs"  # a job is handed out when a process is free for it
        if offered and not 1 <= launcher.joblib["n_jobs"] <= len(offered):
            print(f"hydra.launcher.n_jobs={launcher.joblib['n_jobs']} becomes {len(offered)}: one job for each GPU")
            launcher.joblib["n_jobs"] = len(offered)


def share_gpus(launcher: str) -> list[str]:
    """Offers the GPUs to jobs that run side by side on this machine, and lets their processes find the project."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(ROOT) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, paths)])
    if launcher not in ("JoblibLauncher", "LocalLauncher"):  # a scheduler gives them itself; a job alone has all
        return []
    offered = gpus.visible()
    os.environ[gpus.GPUS] = ",".join(offered)
    return offered
