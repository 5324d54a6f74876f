"""The outermost wrapper of every command: one sentence and exit code 2 for a user's mistake, sweeps that keep going.

Light on purpose (Hydra alone), so that `--help` answers in a second.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from data.errors import UserError

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parent.parent


OmegaConf.register_new_resolver("project", lambda: str(ROOT), replace=True)


left_out: list[str] = []  # one sentence for each job of a sweep that could not be composed
failed: list[Exception] = []  # of a single run
failed_jobs: dict[str, int] = {}  # of a sweep, a sentence and the exit code of each


def launch(main: Callable[[], Any]) -> None:
    """Runs a `hydra.main` function as a command."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets exceptions reach us instead of Hydra's own printer
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while waiting cost 10x on a busy machine
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts, for deterministic kernels
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # each process would wait for the others' run folder
        print("error: one training on several processes (torchrun) is not supported yet", file=sys.stderr)
        sys.exit(2)
    Sweeper.validate_batch_is_legal = keep_composable  # type: ignore[assignment, method-assign]
    try:
        main()
        if failed:
            raise failed[0]
        if left_out:
            raise UserError(f"{len(left_out)} jobs of the sweep were left out; the first: {left_out[0]}")
    except (
        UserError,
        HydraException,
        OmegaConfBaseException,
        OSError,
        YAMLError,
    ) as error:  # OSError: no space, no permission
        many = (
            f"{len(failed_jobs)} jobs of the sweep failed; the first: {next(iter(failed_jobs))}" if failed_jobs else ""
        )
        print(f"error: {many or sentence(error)}", file=sys.stderr)
        sys.exit(max(failed_jobs.values(), default=getattr(error, "exit_code", 2)))
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


_hydras_check = Sweeper.validate_batch_is_legal


def keep_composable(sweeper: Any, batch: list[Sequence[str]]) -> None:
    """Removes from a batch of jobs those that cannot be composed, and says why.

    Takes the place of Hydra's check, which gives up a whole grid for one unknown option in one job.
    """
    if type(sweeper).__name__ != "BasicSweeper":  # a search like Optuna's wants a result for every job
        return _hydras_check(sweeper, batch)
    for overrides in list(batch):
        try:
            sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            batch.remove(overrides)
            left_out.append(sentence(error))
            log.error("job %s is left out: %s", " ".join(overrides), left_out[-1])


def job(task: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Keeps Hydra from wrapping a user's mistake in its own words; inside a sweep, says at once why a job failed."""

    @functools.wraps(task)
    def wrapped(cfg: Any) -> Any:
        sweeping = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            return task(cfg)
        except (UserError, OmegaConfBaseException) as error:
            if not sweeping:
                failed.append(error)
                return None
            said = f"{sentence(error)} ({' '.join(HydraConfig.get().overrides.task)})"
            failed_jobs[said] = getattr(error, "exit_code", 2)
            log.error("job failed: %s", said)
            raise
        except Exception as error:
            if sweeping:
                log.exception("job failed: %r", error)
            raise

    return wrapped


def sentence(error: BaseException) -> str:
    """Hydra's and OmegaConf's composition errors, in one line that says what to do."""
    text = str(error)
    if isinstance(error, UserError | OSError) and not isinstance(error, HydraException):
        return text
    if (found := re.search(r"Could not override '([^']+)'", text)) and "nterpolation" not in text:
        return f"unknown key {found[1]}; `python train.py --cfg job` shows every key"
    if found := re.search(
        r"Could not find '([^']+)/([^'/]+)'\s+Available options in '[^']+':\s+(.*)", text, re.DOTALL
    ):
        options = found[3].partition("Config search path")[0].split()
        return f"{found[1]}={found[2]} does not exist; choose {', '.join(options)}"
    if "Missing mandatory value" in text and (found := re.search(r"full_key: (\S+)", text)):
        return f"{found[1]} is missing; give {found[1]}=..."
    return " ".join(text.split())
