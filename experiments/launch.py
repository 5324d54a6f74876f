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
from experiments.disk_full import no_space
from rerankers.processes import n_processes

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parent.parent


PLUGINS = {
    "joblib_launcher": 'pip install -e ".[sweeps]" -c constraints.txt',
    "submitit_launcher": 'pip install -e ".[sweeps]" -c constraints.txt',
    "optuna_sweeper": "pip install optuna, then pip install --no-deps hydra-optuna-sweeper",
}


OmegaConf.register_new_resolver("project", lambda: str(ROOT), replace=True)
OmegaConf.register_new_resolver("twice", lambda number: 2 * number, replace=True)


LEFT_ALONE = re.compile(r"Connection (closed|reset) by (remote )?peer|remote process exited")  # of gloo and NCCL
ONE_RUN = "torchrun trains one run; start a sweep without it, or name one job and hydra.mode=RUN"
left_out: list[str] = []  # the jobs of a sweep that could not be composed
failed: list[Exception] = []  # of a single run
places: list[Path] = []  # where the command writes
sweeps: list[Any] = []  # the sweep that this process has planned, see `experiments.sweeps`


class JobFailed(UserError):
    """What a job of a sweep ends in, whatever it raised: processes can send it to each other."""

    def __init__(self, said: str, exit_code: int) -> None:
        super().__init__(said)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[Any, ...]:
        return JobFailed, (str(self), self.exit_code)


def launch(main: Callable[[], Any]) -> None:
    """Runs a `hydra.main` function as a command."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets exceptions reach us instead of Hydra's own printer
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while waiting cost 10x on a busy machine
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts, for deterministic kernels
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns each time that it looks for unused weights
    logging.raiseExceptions = False  # or a log on a full disk prints a traceback for each of its lines
    Sweeper.validate_batch_is_legal = plan  # type: ignore[assignment, method-assign]
    try:
        if n_processes() > 1:  # torchrun, accelerate launch
            if program() not in ("train.py", "evaluate.py"):
                raise UserError(f"{program()} runs in one process; start it without torchrun")
            from experiments import processes

            processes.join()
        try:
            main()
        finally:
            for sweep in sweeps:
                sweep.end()
        if failed:
            raise failed[0]
        for sweep in sweeps:
            sweep.raise_failed()
        if left_out:
            raise UserError(f"{len(left_out)} jobs of the sweep were left out; see above")
    except Exception as error:
        if (said := told(error)) is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


def told(error: Exception) -> str | None:
    """In one sentence what the user can mend, a full disk among it; None: it is a bug."""
    if not isinstance(error, JobFailed) and (full := no_space(error, [*places, *(sweep.root for sweep in sweeps)])):
        return full
    if isinstance(error, UserError | HydraException | OmegaConfBaseException | OSError | YAMLError):
        return sentence(error)
    if n_processes() > 1 and LEFT_ALONE.search(str(error)):
        return "another of the processes has ended, with an error of its own"
    if found := re.search(r"Unknown plugin class : 'hydra_plugins\.hydra_(\w+)\.", str(error)):
        how = PLUGINS.get(found[1], f"pip install hydra-{found[1].replace('_', '-')}")
        return f"hydra_{found[1]} is not installed; {how}"
    return None


_hydras_check = Sweeper.validate_batch_is_legal


def plan(sweeper: Any, batch: list[Sequence[str]]) -> None:
    """Takes the place of Hydra's check of a batch of jobs: removes from it what is finished or cannot run."""
    if type(sweeper).__name__ != "BasicSweeper":  # a search like Optuna's wants a result for every job
        return _hydras_check(sweeper, batch)
    if "sweep" not in (sweeper.config.hydra.callbacks or {}) or sweeper.config.get("check") is True:  # no runs
        return keep_composable(sweeper, batch)
    if n_processes() > 1:
        raise UserError(ONE_RUN)
    if not sweeps:
        from experiments.sweeps import Sweep

        sweeps.append(Sweep(sweeper))
        sweeps[0].start()
    sweeps[0].keep_what_is_to_do(batch)


def keep_composable(sweeper: Any, batch: list[Sequence[str]]) -> None:
    """Removes from a batch of jobs those that cannot be composed, and says why.

    Hydra's check gives up a whole grid for one unknown option in one job.
    """
    n_jobs = len(batch)
    absent: dict[str, list[str]] = {}
    for overrides in list(batch):
        try:
            sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            batch.remove(overrides)
            absent.setdefault(sentence(error), []).append(" ".join(overrides))
    for reason, jobs in absent.items():
        left_out.extend(jobs)
        log.error(cannot_run(jobs, n_jobs, reason))


def cannot_run(jobs: list[str], n_jobs: int, reason: str) -> str:
    """Of the jobs that one reason keeps from running; which they are, unless they are all."""
    more = f"; and {len(jobs) - 3} more" if len(jobs) > 3 else ""
    which = f" ({'; '.join(jobs[:3])}{more})" if len(jobs) < n_jobs else ""
    return f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'} cannot run{which}: {reason}"


def sweeping() -> bool:
    """Whether this is a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def job(task: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Keeps Hydra from wrapping a user's mistake in its own words; inside a sweep, says at once why a job failed."""

    @functools.wraps(task)
    def wrapped(cfg: Any) -> Any:
        from experiments import launch  # by name: launchers send this function to other processes

        if launch.sweeping() and n_processes() > 1:
            raise UserError(ONE_RUN)
        return launch.run_job(task, cfg) if launch.sweeping() else launch.run_alone(task, cfg)

    return wrapped


def run_alone(task: Callable[[Any], Any], cfg: Any) -> Any:
    try:
        return noted(task)(cfg)
    except Exception as error:
        if full := no_space(error, places):
            failed.append(UserError(full))
        elif isinstance(error, UserError | OmegaConfBaseException):
            failed.append(error)
        else:
            raise
        return None


def noted(task: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The task, which first tells where it writes."""

    def noting(cfg: Any) -> Any:
        places[:] = [Path(str(place)) for place in (OmegaConf.select(cfg, "paths") or {}).values()]
        return task(cfg)

    return noting


def run_job(task: Callable[[Any], Any], cfg: Any) -> Any:
    from experiments import gpus

    gpus.take()  # before anything can start CUDA
    words = " ".join(HydraConfig.get().overrides.task)
    try:
        return searched(cfg, noted(task)(cfg))
    except (Exception, SystemExit) as error:
        full = no_space(error, places)
        if full or isinstance(error, UserError | OmegaConfBaseException):
            said = f"{full or sentence(error)} ({words})"
            log.error("job failed: %s", said)
            raise JobFailed(said, 2 if full else getattr(error, "exit_code", 2)) from None
        log.exception("job failed: %r", error)
        raise JobFailed(f"{type(error).__name__}: {sentence(error)} ({words})", 1) from None


def searched(cfg: Any, result: Any) -> Any:
    """What a search like Optuna's is told of a job: the primary metric on validation, never on test."""
    if HydraConfig.get().sweeper._target_.endswith(".BasicSweeper") or not isinstance(result, dict):
        return result
    name = f"valid/{cfg.protocol.primary}"
    if name not in result:
        raise UserError(f"this run has no {name} to search by; choose a reranker and a protocol with validation")
    return result[name]


def program() -> str:
    """As it was called: `train.py`, or `-m experiments.tables`."""
    path = Path(sys.argv[0])
    return f"-m experiments.{path.stem}" if path.parent.name == "experiments" else path.name


def readable(word: str) -> bool:
    """Whether Hydra's grammar of overrides takes the word."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return word.startswith("-")
    return True


def sentence(error: BaseException) -> str:
    """Hydra's and OmegaConf's composition errors, in one line that says what to do."""
    text = str(error)
    if isinstance(error, UserError | OSError) and not isinstance(error, HydraException):
        return text
    if (found := re.search(r"Could not override '([^']+)'", text)) and "nterpolation" not in text:
        return f"unknown key {found[1]}; `python {program()} --cfg job` shows every key"
    if found := re.search(
        r"Could not find '([^']+)/([^'/]+)'\s+Available options in '[^']+':\s+(.*)", text, re.DOTALL
    ):
        options = found[3].partition("Config search path")[0].split()
        return f"{found[1]}={found[2]} does not exist; choose {', '.join(options)}"
    unread = [word for word in sys.argv[1:] if not readable(word)] if "/override_grammar/" in text else []
    if unread:  # Hydra's parser names no word
        return f"{unread[0]} cannot be read; put the value in double quotes inside single ones: 'key=\"value\"'"
    if "Missing mandatory value" in text and (found := re.search(r"full_key: (\S+)", text)):
        return f"{found[1]} is missing; give {found[1]}=..."
    return " ".join(text.split())
