"""Requests on which two sides differ most, with the titles: what was known, what was relevant, what each ranked first.

Titles come from the dataset of the first run, read again by its stored config. Where it is no longer what it was, the
examples are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from data.dataset import Dataset
from data.errors import UserError
from data.splits import Phase
from experiments.building import build
from experiments.comparison import ROUNDING
from experiments.inspect import named, show_asked
from experiments.metrics import display
from experiments.paired_runs import Side

TOP = 3  # items shown of each ranking


def show_examples(console: Console, a: Side, b: Side, metric: str, n: int) -> None:
    """`n` requests on which b is best against a, and as many the other way round, as far as there are."""
    values = [side.values(metric) for side in (a, b)]
    for_b, for_a = most_different(values[1] - values[0], reciprocal(b) - reciprocal(a), n)
    rows = np.concatenate([for_b, for_a])
    print(f"Reading {a.manifests[0]['dataset']} for the titles of {len(rows)} examples (examples=0 leaves them out).")
    try:
        asked = read_asked(a, rows)
    except (UserError, OSError) as error:
        print(f"The examples are left out: {error}.")
        return
    users = a.tables[0].index[rows]
    rankings = [Ranking.read(side, users) for side in (a, b)]
    for winner, loser, chosen in ((b, a, for_b), (a, b, for_a)):
        better = f"{winner.letter} ({winner.reranker}) is better than {loser.letter} ({loser.reranker})"
        if not len(chosen):
            print(f"\nThere is no request on which {better}.")
        for number, row in enumerate(chosen, start=1):
            print(f"\n{'=' * 100}\nWhere {better}, {number} of {len(chosen)}")
            scores = ", ".join(f"{side.letter} {value[row]:.4f}" for side, value in zip((a, b), values, strict=True))
            print(f"Request {a.tables[0].index[row]}, {display(metric)}: {scores}")
            show_request(console, asked, a.tables[0].index[row], rankings)


def most_different(advantage: np.ndarray, closeness: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows where the [R] advantage is largest and where it is smallest, none where it has the other sign; where it is
    the same, `closeness` [R] decides alike."""
    best, worst = np.lexsort((-closeness, -advantage))[:n], np.lexsort((closeness, advantage))[:n]
    return best[advantage[best] > ROUNDING], worst[advantage[worst] < -ROUNDING]


def reciprocal(side: Side) -> np.ndarray:
    """[R] 1 / rank of the best relevant item, 0 for a miss and in runs that did not write it yet."""
    if not all("rank" in table for table in side.tables):
        return np.zeros(len(side.tables[0]))
    return np.mean([(1 / table["rank"]).fillna(0).to_numpy() for table in side.tables], axis=0)


@dataclass(frozen=True)
class Asked:
    """A dataset and where in its test phases a request is."""

    dataset: Dataset
    place: dict[str, tuple[Phase, int]]


def read_asked(side: Side, rows: np.ndarray) -> Asked:
    """The dataset of a side's first run, and the requests of the given rows; a UserError where it is another one."""
    folder, manifest, table = side.folders[0], side.manifests[0], side.tables[0].iloc[rows]
    config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    dataset = build(config["dataset"], "dataset").load(Path(config["paths"]["data"]).expanduser().resolve())
    if dataset.interactions_sha256 != manifest["interactions_sha256"]:
        raise UserError(f"{manifest['dataset']} has other interactions than when {folder.name} was made")
    split = config["protocol"]["split"]
    place: dict[str, tuple[Phase, int]] = {}
    for fold in sorted(table["fold"].unique().tolist()) if "fold" in table else [split.get("fold")]:
        of_fold = split if fold is None else split | {"fold": fold}
        phase = build(of_fold, "protocol.split").split(dataset).test
        place |= {str(dataset.user_id[user]): (phase, row) for row, user in enumerate(phase.ids)}
    return Asked(dataset, place)


@dataclass(frozen=True)
class Ranking:
    """What the runs of a side ranked for a few requests."""

    side: Side
    predictions: list[pd.DataFrame]  # of each run

    @staticmethod
    def read(side: Side, requests: pd.Index) -> Ranking:
        """A part of predictions.parquet, which is large."""
        only = [("request", "in", requests.tolist())]
        return Ranking(side, [pd.read_parquet(path / "predictions.parquet", filters=only) for path in side.folders])

    @property
    def heading(self) -> str:
        seed = f", seed {self.side.manifests[0]['seed']}" if len(self.side.folders) > 1 else ""
        return f"{self.side.letter} ({self.side.reranker}{seed})"

    def top(self, request: str) -> list[str]:
        """Item ids of the first run, best first."""
        table = self.predictions[0]
        return table[(table["request"] == request) & (table["rank"] <= TOP)].sort_values("rank")["candidate"].tolist()

    def rank(self, request: str, item: str) -> str:
        """Of each run; of a full ranking predictions.parquet has the best 100 alone, and the table the best item's."""
        ranks = []
        for table, predictions in zip(self.side.tables, self.predictions, strict=True):
            own = predictions[predictions["request"] == request]
            place = own.loc[own["candidate"] == item, "rank"]
            known = table.loc[request].get("rank", np.nan) if table.loc[request, "n_relevant"] == 1 else np.nan
            ranked = place.iloc[0] if len(place) else known
            ranks.append(f"not among its {len(own)}" if np.isnan(ranked) else f"{ranked:.0f}")
        return ", ".join(ranks)


def show_request(console: Console, asked: Asked, request: str, rankings: list[Ranking]) -> None:
    catalog = asked.dataset.catalog
    phase, row = asked.place[request]
    show_asked(catalog, phase.histories.row(row), None if phase.queries is None else phase.queries[row])
    relevant = phase.relevant.row(row).tolist()
    for item in relevant:
        ranks = "; ".join(f"in {one.side.letter}: {one.rank(request, str(catalog.id[item]))}" for one in rankings)
        print(f"Relevant: {named(catalog, item)} (rank {ranks})")
    table = Table("rank", *(ranking.heading for ranking in rankings), title=f"The best {TOP} of each")
    columns = [[catalog.row_of_id[item] for item in ranking.top(request)] for ranking in rankings]
    for place in range(TOP):
        shown = [column[place] if place < len(column) else None for column in columns]
        titles = ["" if item is None else named(catalog, item) for item in shown]
        marked = [
            f"{title} <- relevant" if item in relevant else title for title, item in zip(titles, shown, strict=True)
        ]
        table.add_row(str(place + 1), *marked)
    console.print(table)
