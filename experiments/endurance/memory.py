"""Memory does not grow: each reranker in a process of its own, evaluated many times after it was trained.

    python -m experiments.endurance.memory vip5 200 0 /tmp/empty    # one of them, as JSON

What is in memory (RSS) is read after every round, once what is unreachable was let go. After WARM_UP rounds, in which
caches fill and the allocator finds its size, neither the fitted line nor the difference of the ends may rise by more
than BOUND; and Python's own blocks, which have no such noise, may not rise by more than BLOCKS a round (but for
validations, of which the Trainer keeps a history).
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.endurance import small
from experiments.endurance.outcome import FEWEST_ROUNDS, Endurance, Outcome

WARM_UP = 20
BOUND = 8.0  # MB; an allocator's own noise here is 1 to 3
BLOCKS = 4  # a round; what is kept here of each round takes two
AT_ENDS = FEWEST_ROUNDS - WARM_UP  # rounds whose mean is an end
FEW_TEXTS = 32
FEW = ["protocol.max_requests=24", "protocol.max_validation_requests=24"]
WHAT = {
    "evaluated": "rounds of evaluation",
    "validated": "validations while it trains",
    "asked": "calls of score with other requests each time",
    "ranked": "calls of load_reranker(...).rank with other texts each time",
}


def outcomes(settings: Endurance) -> Iterator[Outcome]:
    for reranker in settings.rerankers:
        rounds = settings.evaluation_rounds
        words = ["-m", "experiments.endurance.memory", reranker, str(rounds), str(settings.seed)]
        done = small.run(*words, str(settings.scratch / reranker), timeout=1500)
        if done.returncode:
            yield Outcome("memory of many rounds", 1, 0, "the rounds", failures=[f"{reranker}: {done.stderr[-400:]}"])
            continue
        for name, seen in json.loads(done.stdout.splitlines()[-1]).items():
            failures = grown(seen["mb"], [] if name == "validated" else seen["blocks"])
            n, rise = len(seen["mb"]), rises(seen["mb"])
            yield Outcome(
                f"memory of {n} {WHAT[name]}",
                1,
                int(not failures),
                "memory" if failures else "nothing",
                note=f"{reranker} {rise[1]:+.1f} MB of {seen['mb'][-1]:,.0f}",
                failures=[f"{reranker}: {failure}" for failure in failures],
            )


def grown(mb: list[float], blocks: list[int]) -> list[str]:
    """What grew, in words."""
    line, difference = rises(mb)
    out = [f"the fitted line rises by {line:.1f} MB"] if line > BOUND else []
    out += [f"it ends {difference:.1f} MB higher"] if difference > BOUND else []
    if not blocks:
        return out
    more, n = rises(blocks)[1], len(blocks) - WARM_UP - AT_ENDS
    return out + ([f"{more:,.0f} more blocks of Python after {n} rounds"] if more > BLOCKS * n else [])


def rises(values: list[Any]) -> tuple[float, float]:
    """After the warm-up: of the fitted line over all rounds, and from the first rounds to the last."""
    after = np.array(values[WARM_UP:], dtype=float)
    slope = float(np.polyfit(np.arange(len(after)), after, 1)[0])
    return slope * len(after), float(after[-AT_ENDS:].mean() - after[:AT_ENDS].mean())


class Seen:
    """MB of the process, and the blocks that Python has allocated, at each call."""

    def __init__(self) -> None:
        self.mb: list[float] = []
        self.blocks: list[int] = []

    def __call__(self) -> None:
        import psutil

        gc.collect()
        self.mb.append(round(psutil.Process().memory_info().rss / 2**20, 2))
        self.blocks.append(sys.getallocatedblocks())


def many(rounds: int, run: Callable[[int], object]) -> dict[str, list[Any]]:
    seen = Seen()
    for number in range(rounds):
        run(number)
        seen()
    return vars(seen)


def measured(reranker: str, rounds: int, seed: int, root: Path) -> dict[str, dict[str, list[Any]]]:
    from experiments import stages
    from experiments.config import configure

    steps = [f"trainer.max_steps={max(rounds // 2, 40)}", "trainer.eval_steps=1", "trainer.save_total_limit=1"]
    experiment = configure(small.composed(small.words(reranker, root, f"seed={seed}", *FEW, *steps)))
    data = stages.open_data(experiment, stages.load(experiment))
    own, training = experiment.reranker, Seen()
    own.checkpoints = root / "checkpoints"

    def validate(score: Any) -> dict[str, float]:
        training()
        return data.validation(score).means

    own.fit(data.dataset, data.split, validate, lambda values, step: None)
    out = {"validated": vars(training)}
    out["evaluated"] = many(rounds, lambda n: (data.test if n % 2 else data.validation)(own.score, keep=True))
    requests = data.test.requests
    out["asked"] = many(rounds, lambda n: own.score(requests.take(np.arange(n, n + 1 + n % 5) % len(requests))))
    if own.requires == ("text",) and own.pointwise:
        from rerankers import load_reranker
        from rerankers.cross_encoder import pairs

        pairs.KNOWN = FEW_TEXTS  # so that what is kept of texts is full within the warm-up
        (folder := root / "model").mkdir()
        own.save(folder)
        loaded = load_reranker(folder)
        texts = [f"item {number} of its own kind" for number in range(20)]
        out["ranked"] = many(rounds, lambda n: loaded.rank(f"query {n}", [*texts, f"text {n} that is new"]))
    return out


if __name__ == "__main__":
    name, rounds, seed, root = sys.argv[1:]
    Path(root).mkdir(parents=True, exist_ok=True)
    print(json.dumps(measured(name, int(rounds), int(seed), Path(root))))
