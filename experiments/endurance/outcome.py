"""What a case of `python -m experiments.endure` takes and gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from data.errors import check_seed, in_range, one_of
from experiments.endurance.small import SMALL

NOTHING = "nothing"
FEWEST_ROUNDS = 30  # of evaluation: the first 20 are not counted, and the mean of 10 is an end


@dataclass(frozen=True)
class Outcome:
    """One fault, tried one or more times. Outcomes of one `fault` are added up in the table's row."""

    fault: str  # "SIGKILL while a checkpoint is written"
    tried: int
    survived: int
    lost: str = NOTHING  # in words
    note: str = ""  # a measured number, for the table: "4.1 GB, 212 s"
    failures: list[str] = field(default_factory=list)  # what to look at; of those that did not survive


def outcome(fault: str, failures: list[str], note: str = "") -> Outcome:
    """Of one try."""
    return Outcome(fault, 1, int(not failures), "; ".join(failures) or NOTHING, note, failures)


@dataclass(kw_only=True)
class Endurance:
    """The settings of all cases, as in conf/endure.yaml."""

    rerankers: list[str]
    fuzz_examples: int = 10_000  # broken files a reader
    evaluation_rounds: int = 200
    big: list[int] = field(default_factory=lambda: [1_000_000, 4_000_000, 20_000_000])  # interactions
    seed: int = 0
    scratch: Path = Path()  # an empty folder of the case's own

    def __post_init__(self) -> None:
        in_range("fuzz_examples", self.fuzz_examples, 1)
        for reranker in self.rerankers:
            one_of("rerankers", reranker, tuple(SMALL))
        in_range("evaluation_rounds", self.evaluation_rounds, FEWEST_ROUNDS)
        for size in self.big:
            in_range("big", size, 10_000, 1_000_000_000)
        check_seed("seed", self.seed)
