"""Do item numbers tell the answer? python -m experiments.id_leak dataset=beauty_sequences dataset.path=/my/beauty

The rule "last id + 1, + 2, ..." knows no model and no data but the number of the last item of a history. Under numbers
that say nothing it is chance; under P5's it beats published models. Each user's last item is the target. What
p5_sequential gets above train_sequential, whose numbers know the order of the training alone, is the test's own leak.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf

from data.dataset import Dataset, Ragged
from data.errors import UserError, in_range
from data.splits import LeaveOneOut, Phase, Split
from experiments.launch import job, launch
from experiments.metrics import Ranks, display, measure
from rerankers.vip5.item_numbers import SCHEMES, number

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.chance import Chance

SHOWN = ("hit_at_1", "hit_at_5", "ndcg_at_5", "hit_at_10")
JUDGED = "hit_at_5"
LEAKING = {"p5_sequential": "leaks", "train_sequential": "leaks the order of the training", "random": "leaks"}


@dataclass
class Settings:
    seeds: int = 3
    n_candidates: int = 100
    filter_seen: bool = False

    def __post_init__(self) -> None:
        in_range("seeds", self.seeds, 1)
        in_range("n_candidates", self.n_candidates, 2)


@dataclass(frozen=True)
class Block:
    """What the rule gets on one kind of list."""

    ranked: str
    chance: Chance
    values: dict[str, dict[str, np.ndarray]]  # scheme -> metric -> [seeds]


def id_leak(cfg: DictConfig) -> list[Block]:
    from rich.console import Console

    from experiments.config import Paths, build, checked

    given: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    source = build(given.pop("dataset"), "dataset")
    paths = checked(Paths, given.pop("paths"), "paths")
    settings = checked(Settings, given, "")
    dataset = source.load(Path(paths.data).expanduser().resolve())
    if dataset.kind != "recommendation":
        raise UserError(f"dataset={dataset.name} has queries and no sequences of items; choose one that has users")
    split = LeaveOneOut().split(dataset)
    blocks = [full(dataset, split, settings), sampled(dataset, split, settings)]
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    console.print(table(blocks, dataset, settings.seeds))
    console.print(verdict(blocks[0]), soft_wrap=True)
    return blocks


def full(dataset: Dataset, split: Split, settings: Settings) -> Block:
    unranked = split.test.histories if settings.filter_seen else Ragged.empty(len(split.test))
    label = f"{len(dataset.catalog):,} items" + (" less seen" if settings.filter_seen else "")
    return block(label, lambda numbers, seed: ranks_of_rule(numbers, split.test, unranked), dataset, split, settings)


def sampled(dataset: Dataset, split: Split, settings: Settings) -> Block:
    """The target among uniform negatives, which are never of the user's own sequence."""
    size, histories = settings.n_candidates, split.test.histories
    free = len(dataset.catalog) - int(histories.lengths.max()) - 1
    if free < size - 1:
        raise UserError(
            f"n_candidates={size} needs {size - 1} negatives, but a user has only {free} items outside the history; "
            "choose a smaller number"
        )

    def ranks(numbers: np.ndarray, seed: int) -> Ranks:
        return among(ranks_of_rule(numbers, split.test, histories), size, np.random.default_rng(seed))

    return block(f"{size} sampled", ranks, dataset, split, settings)


def block(
    ranked: str, ranks: Callable[[np.ndarray, int], Ranks], dataset: Dataset, split: Split, settings: Settings
) -> Block:
    """`ranks` of (numbers of the items [I], seed) for each scheme and seed."""
    from experiments.chance import chance

    names, ks = ["hit", "ndcg"], [1, 5, 10]
    values = {}
    for scheme in reversed(SCHEMES):
        drawn = [ranks(number(scheme, dataset, split, seed).item, seed) for seed in range(settings.seeds)]
        measured = [measure(one, names, ks) for one in drawn]
        values[scheme] = {metric: np.array([one[metric].mean() for one in measured]) for metric in SHOWN}
    return Block(ranked, chance(drawn[0], names, ks), values)  # chance sees only how many there are to rank


def ranks_of_rule(numbers: np.ndarray, test: Phase, unranked: Ragged) -> Ranks:
    """Ranks of the target, one a request, when items are ordered last + 1, last + 2, ..., I, 1, 2, ..., last.

    The order is cyclic, so no two items tie. The items `unranked` [R] are no candidates; a target always is.
    """
    n_items, n = len(numbers), len(test)
    last, target = numbers[test.histories.last(1)[:, 0]], test.relevant.values
    before = (numbers[target] - last - 1) % n_items  # [R]
    row, item = np.divmod(np.unique(unranked.row_of_value * n_items + unranked.values), n_items)
    row, item = row[item != target[row]], item[item != target[row]]
    earlier = (numbers[item] - last[row] - 1) % n_items < before[row]
    return Ranks(
        row=np.arange(n),
        rank=1.0 + before - np.bincount(row[earlier], minlength=n),
        present=np.ones(n, dtype=bool),
        tied=np.zeros(n, dtype=bool),
        n_candidates=n_items - np.bincount(row, minlength=n),
        n_relevant=np.ones(n, dtype=np.int64),
    )


def among(ranks: Ranks, size: int, rng: np.random.Generator) -> Ranks:
    """The same with each target among `size` - 1 uniform negatives of what else was ranked: how many of them come
    before it is hypergeometric, so no list need be drawn."""
    before = ranks.rank.astype(np.int64) - 1
    drawn = rng.hypergeometric(before, ranks.n_candidates - 1 - before, size - 1)
    return replace(ranks, rank=1.0 + drawn, n_candidates=np.full(len(ranks), size))


def table(blocks: list[Block], dataset: Dataset, seeds: int) -> Table:
    from rich.table import Table

    synthetic = ", synthetic data" if dataset.provenance.synthetic else ""
    shown = f"mean ± standard deviation of {seeds} numberings" if seeds >= 3 else f"each of {seeds} numberings"
    out = Table(
        title=f'The rule "last id + 1, + 2, ..." on {dataset.name}{synthetic}: last item of each user',
        caption=f"{shown}; chance: mean and standard deviation of one random order a user",
    )
    for name in ("ranked", "numbers", *map(display, SHOWN)):
        out.add_column(name, justify="left" if name in ("ranked", "numbers") else "right")
    for part in blocks:
        for place, (scheme, values) in enumerate(part.values.items()):
            out.add_row(part.ranked if place == 0 else "", scheme, *(spread(values[metric]) for metric in SHOWN))
        expected = [(part.chance.mean[metric].mean(), deviation(part.chance, metric)) for metric in SHOWN]
        out.add_row("", "chance", *(f"{mean:.4f} ± {std:.4f}" for mean, std in expected), end_section=True)
    return out


def spread(values: np.ndarray) -> str:
    if len(values) < 3:
        return ", ".join(f"{value:.4f}" for value in values)
    return f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"


def deviation(chance: Chance, metric: str) -> float:
    """Of the mean over the requests."""
    return float(np.sqrt(chance.variance[metric].sum())) / len(chance.variance[metric])


def verdict(part: Block) -> str:
    """A scheme leaks where the rule is above chance's 95 % interval under each of its numberings."""
    expected, _, high = part.chance.interval(JUDGED)
    said = []
    for scheme, values in part.values.items():
        found = LEAKING[scheme] if values[JUDGED].min() > high else "no leak"
        said.append(f"{values[JUDGED].mean() / expected:,.3g} times chance under {scheme} ({found})")
    return f"{display(JUDGED)} of the rule among {part.ranked}: {', '.join(said)}."


if __name__ == "__main__":
    launch(hydra.main(version_base="1.3", config_path="../conf", config_name="id_leak")(job(id_leak)))
