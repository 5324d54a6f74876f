"""Data that is odd but readable: it runs with the numbers of a naive calculation, or a sentence refuses it.

Baselines alone, as they are quick. What is relevant is found here from the rows that a case wrote, not by the code
that is tried: leave-one-out by sorting each user's rows, queries by their lists; ranks, from predictions.parquet.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import signal
import traceback
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from data.errors import UserError
from experiments.endurance.fuzzing import TooSlow, slow
from experiments.endurance.odd_ids import all_cases
from experiments.endurance.outcome import Endurance, Outcome
from experiments.endurance.request_cases import Answers, Case, Events
from experiments.endurance.small import composed

SECONDS = 60  # for one training


def cases(settings: Endurance) -> Iterator[Outcome]:
    signal.signal(signal.SIGALRM, slow)
    for group, own in groupby(all_cases(), key=lambda case: case.group):
        failures, tried, runs, refused = [], 0, 0, 0
        for number, case in enumerate(own):
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                wrong = problem(case, settings.scratch / f"{group.split()[0]}{number}")
            except TooSlow as error:
                wrong = str(error)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            failures += [f"{case.what}: {wrong}"] if wrong else []
            tried += 1
            runs, refused = runs + (not wrong and not case.says), refused + (not wrong and bool(case.says))
        note = f"{runs} run with the right number, {refused} refused in a sentence"
        lost = "a traceback, a hang or a wrong number" if failures else "nothing"
        yield Outcome(f"odd data: {group}", tried, tried - len(failures), lost, note, failures)


def problem(case: Case, root: Path) -> str | None:
    """What is wrong with what came of a case; None: nothing."""
    data = root / "data"
    for name, content in case.files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)
    try:
        trained(root, f"dataset.path={data}", *case.words)
    except UserError as error:
        if case.says is None:
            return f"refused: {error}"
        if not re.search(case.says, str(error)):
            return f"refused in other words: {error}"
        left = [path.name for path in root.glob("runs/*/*") if path.name in ("metrics.json", "manifest.json")]
        return f"refused, and {left} written" if left else None
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} at {Path(at.filename).name}:{at.lineno}"
    if case.says is not None:
        return "it ran, and was to be refused"
    (folder,) = (root / "runs").iterdir()
    return wrong_number(case, folder)


def trained(root: Path, *words: str) -> None:
    """train.py in this process."""
    from train import train

    config = composed([f"paths.root={root}", "tracking=none", "diagnose=off", *words])
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train(config)
    finally:
        logging.disable(logging.NOTSET)


def wrong_number(case: Case, folder: Path) -> str | None:
    """Metrics, requests, candidates and notes, against the rows of the case."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    table, predictions = (pd.read_parquet(folder / f"{name}.parquet") for name in ("per_request", "predictions"))
    if any(not np.isfinite(value) for value in metrics.values()):
        return "a metric that is not finite"
    notes = (folder / "manifest.json").read_text(encoding="utf-8")
    if lacking := [note for note in case.notes if note not in notes]:
        return f"it does not say: {lacking[0]}"
    relevant = case.answers
    if case.events is not None:
        share = case.test_share
        relevant = left_out_last(case.events) if share is None else first_after(case.events, share)
    if not relevant:
        return "the case does not say what is relevant"
    asked = set(table["request"])
    limited = case.answers is not None or any(word.startswith("protocol.max_requests") for word in case.words)
    if not asked <= set(relevant) or (asked != set(relevant) and not limited):
        return f"it asked {len(asked)} requests, and there are {len(relevant)}"
    for name in ("recall_at_10", "mrr_at_10", "recall_at_1"):
        own = brute_force(relevant, predictions, sorted(asked), name)
        if not abs(own - metrics[f"test/{name}"]) <= 1e-6:  # of NaN too
            return f"{name} is {metrics[f'test/{name}']}, and {own} by hand"
    return None


def left_out_last(events: Events) -> Answers:
    """user -> the last item, of users who took at least three; of a pair that comes again the earliest counts."""
    out = {}
    for user in dict.fromkeys(user for user, _, _ in events):
        own = sorted((event for event in events if event[0] == user), key=lambda event: event[2])
        items = list(dict.fromkeys(item for _, item, _ in own))
        if len(items) >= 3:
            out[user] = {items[-1]}
    return out


def first_after(events: Events, share: float) -> Answers:
    """user -> the first item of the last `share` of all pairs by time, of users who took one before that too."""
    pairs: dict[tuple[str, str], int] = {}
    for user, item, moment in sorted(events, key=lambda event: event[2]):
        pairs.setdefault((user, item), moment)
    moments = list(pairs.values())
    start = moments[int(len(moments) * (1 - share))]
    before = {user for (user, _), moment in pairs.items() if moment < start}
    out: Answers = {}
    for (user, item), moment in pairs.items():
        if moment >= start and user in before:
            out.setdefault(user, {item})
    return out


def brute_force(relevant: Answers, predictions: pd.DataFrame, asked: list[str], name: str) -> float:
    kind, k = name.split("_at_")
    values = []
    for request in asked:
        own = predictions[predictions["request"] == request].sort_values("rank")
        assert own["candidate"].is_unique and (own["score"].diff().dropna() <= 0).all(), "not a ranking"
        hits = [item in relevant[request] for item in own["candidate"].tolist()[: int(k)]]
        first = next((1 / (place + 1) for place, hit in enumerate(hits) if hit), 0.0)
        values.append(sum(hits) / len(relevant[request]) if kind == "recall" else first)
    return float(np.mean(values))
