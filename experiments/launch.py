"""The outermost wrapper of every command: one sentence and exit code 2 for a user's mistake, sweeps that keep going.

Light on purpose (Hydra alone), so that `--help` answers in a second.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data.errors import UserError

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parent.parent


class KeepGoingSweeper(BasicSweeper):
    """Hydra's grid sweep, but a job that cannot be composed is reported and the others run.

    (Hydra 1.3 composes all jobs first and gives up the whole sweep for one unknown option.)
    """

    def get_job_batch(self) -> list[list[str]]:
        assert self.hydra_context is not None and self.config is not None
        good, self.failed = [], getattr(self, "failed", [])
        for overrides in super().get_job_batch():
            try:
                self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
                good.append(list(overrides))
            except (HydraException, OmegaConfBaseException) as error:
                self.failed.append(sentence(error))
                log.error("job %s left out: %s", " ".join(overrides), self.failed[-1])
        return good

    def validate_batch_is_legal(self, batch: Any) -> None:
        """Done above, job by job."""

    def sweep(self, arguments: list[str]) -> Any:
        returns = super().sweep(arguments)
        if self.failed:
            raise UserError(f"{len(self.failed)} jobs were left out, the first: {self.failed[0]}")
        return returns


KeepGoingSweeper.__module__ = "hydra_plugins.keep_going"  # the only package in which Hydra looks for plugins
Plugins.instance().register(KeepGoingSweeper)
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="keep_going",
    node={"_target_": "hydra_plugins.keep_going.KeepGoingSweeper", "max_batch_size": None, "params": None},
)
OmegaConf.register_new_resolver("project", lambda: str(ROOT), replace=True)


def launch(main: Callable[[], Any]) -> None:
    """Runs a `hydra.main` function as a command."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets exceptions reach us instead of Hydra's own printer
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts, for deterministic kernels
    try:
        main()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


def job(task: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Inside a sweep, says at once why a job failed; Hydra alone would show only the first failure, at the end."""

    @functools.wraps(task)
    def wrapped(cfg: Any) -> Any:
        try:
            return task(cfg)
        except Exception as error:
            if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
                known = isinstance(error, UserError)
                log.error("job failed: %s", sentence(error) if known else repr(error), exc_info=not known)
            raise

    return wrapped


def sentence(error: BaseException) -> str:
    """Hydra's and OmegaConf's composition errors, in one line that says what to do."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if found := re.search(r"Could not override '([^']+)'", text):
        if "nterpolation" not in text:
            return f"unknown key {found[1]}; `python train.py --cfg job` shows every key"
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'\s+Available options in '[^']+':\s+(.*)", text, re.DOTALL):
        return f"{found[1]}={found[2]} does not exist; choose {', '.join(found[3].split())}"
    if found := re.search(r"You must specify '([^']+)'", text):
        return f"{found[1]} is missing; give {found[1]}=..."
    return " ".join(text.split())
