"""Everything that the software promises to survive, tried on this machine, as a table of what was lost.

    python -m experiments.endure                                              # all, up to an hour on two cores
    python -m experiments.endure cases=[interruptions,disk] rerankers=[bert4rec]
    python -m experiments.endure cases=[bad_input] fuzz_examples=200

A case is a module of `experiments.endurance` with `outcomes(settings) -> Iterator[Outcome]`. Each has an empty folder
of its own and what it breaks are processes that it starts, so nothing of yours is touched. Exit code 1 if anything
was lost.
"""

from __future__ import annotations

import _thread
import importlib
import os
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, OmegaConf

from experiments.launch import JobFailed, job, launch

if TYPE_CHECKING:
    import psutil

    from experiments.endurance.outcome import Endurance, Outcome

GRACE = 10.0  # seconds for a case to put away what it made, once the command is gone
# `big` first and alone, as it is timed; then the longest first
CASES = "big interruptions bad_input processes determinism tracking_down memory disk hostile_files".split()


def endure(cfg: DictConfig) -> None:
    from data.errors import UserError, in_range
    from data.files import write_json
    from experiments.endurance.outcome import Endurance

    cases = CASES if cfg.cases is None else list(cfg.cases)
    if unknown := [case for case in cases if case not in CASES]:
        raise UserError(f"cases={unknown[0]} does not exist; choose {', '.join(CASES)}")
    in_range("processes", cfg.processes, 1, 64)
    settings = Endurance(
        rerankers=list(cfg.rerankers),
        fuzz_examples=cfg.fuzz_examples,
        evaluation_rounds=cfg.evaluation_rounds,
        big=list(cfg.big),
        seed=cfg.seed,
    )
    started = time.time()
    found: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="endure-") as scratch:
        alone = [case for case in cases if case == "big"]
        for group, processes in ((alone, 1), ([case for case in cases if case != "big"], cfg.processes)):
            if group:
                found |= side_by_side(group, settings, Path(scratch), processes)
    minutes = (time.time() - started) / 60
    show({case: found[case] for case in cases}, minutes)
    root = Path(cfg.paths.root).expanduser()
    out = Path(cfg.out) if cfg.out else root / "endurance" / f"{time.strftime('%Y-%m-%d-%H-%M-%S')}.json"
    plain = {case: [asdict(outcome) for outcome in outcomes] for case, outcomes in found.items()}
    write_json(out, {"settings": OmegaConf.to_container(cfg), "minutes": round(minutes, 1), "cases": plain})
    print(f"every outcome: {out}")
    broken = [one for outcomes in found.values() for one in outcomes if one.survived < one.tried or not one.tried]
    if broken:
        raise JobFailed(f"{len(broken)} outcomes did not survive; see `failures` in {out}", exit_code=1)


def side_by_side(cases: list[str], settings: Endurance, scratch: Path, processes: int) -> dict[str, list[Outcome]]:
    def found(case: str) -> list[Outcome]:
        (folder := scratch / case).mkdir()
        return outcomes_of(case, replace(settings, scratch=folder))

    with ThreadPoolExecutor(processes) as pool:
        return dict(zip(cases, pool.map(found, cases), strict=True))


def outcomes_of(case: str, settings: Endurance) -> list[Outcome]:
    """Of a process of its own. If that is killed, for its memory say, what it had told is kept, what it had started is
    killed, and that is an outcome too."""
    import psutil

    from experiments.endurance.outcome import Outcome

    spawned = get_context("spawn")
    receiver, sender = spawned.Pipe(duplex=False)
    process = spawned.Process(target=tell, args=(case, settings, sender))
    process.start()
    sender.close()
    found: list[Outcome] = []
    started: list[psutil.Process] = []
    with suppress(EOFError):
        while process.is_alive() or receiver.poll():
            with suppress(psutil.NoSuchProcess):
                started = psutil.Process(process.pid).children(recursive=True)
            if receiver.poll(1):
                found.append(receiver.recv())
    process.join()
    if process.exitcode:
        kill(started)
        said = f"its process ended with {process.exitcode}"
        print(f"{case}: {said}", flush=True)
        found.append(Outcome(f"{case} as a whole", 1, 0, "the case itself", failures=[said]))
    return found


def tell(case: str, settings: Endurance, sender: Connection) -> None:
    """One case, a line for each outcome as it comes. A case that breaks itself is an outcome too."""
    from experiments.endurance.outcome import Outcome

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which nohup takes away
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    before = time.time()
    try:
        for outcome in importlib.import_module(f"experiments.endurance.{case}").outcomes(settings):
            sender.send(outcome)
            now = time.time()
            said = f"{case}: {outcome.fault}: survived {outcome.survived:,} of {outcome.tried:,}"
            note = f", {outcome.note}" if outcome.note else ""
            seconds = f", {now - before:.0f} s" if now - before >= 1 else ""  # the first of several that come together
            print(f"{said}{note}{seconds}", flush=True)
            for failure in outcome.failures[:3]:
                print(f"    {failure}", flush=True)
            before = now
    except Exception as error:
        sender.send(Outcome(f"{case} as a whole", 1, 0, "the case itself", failures=[repr(error)]))
        print(f"{case}: {error!r}", flush=True)


def end_with_the_parent() -> None:
    """When the command is killed a case does not go on alone: it kills what it started, and puts away what it made."""
    import psutil

    parent = parent_process()
    if parent is not None:
        parent.join()
        kill(psutil.Process().children(recursive=True))
        _thread.interrupt_main()
        time.sleep(GRACE)
        os._exit(1)


def kill(processes: list[psutil.Process]) -> None:
    import psutil

    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def show(found: dict[str, list[Outcome]], minutes: float) -> None:
    from rich.console import Console
    from rich.table import Table

    out = Table(title=f"what it survives, tried in {minutes:.0f} minutes")
    for column in ("case", "fault", "tried", "survived", "lost", "measured"):
        out.add_column(column, justify="right" if column in ("tried", "survived") else "left")
    for case, outcomes in found.items():
        for fault in dict.fromkeys(outcome.fault for outcome in outcomes):
            same = [outcome for outcome in outcomes if outcome.fault == fault]
            tried, survived = sum(each.tried for each in same), sum(each.survived for each in same)
            lost = "; ".join(dict.fromkeys(each.lost for each in same if each.lost != "nothing")) or "nothing"
            notes = "; ".join(dict.fromkeys(each.note for each in same if each.note))
            out.add_row(case, fault, f"{tried:,}", f"{survived:,}", lost, notes)
        out.add_section()
    Console(width=150).print(out)


if __name__ == "__main__":
    launch(hydra.main(version_base="1.3", config_path="../conf", config_name="endure")(job(endure)))
