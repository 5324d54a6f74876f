"""What a trained run reads and answers: python -m experiments.inspect run=latest n=3 [user=...]

For a few test requests, hits and misses: the exact prompt (of a model of ids: the history), the truth, and the five
best candidates with their probability, label and rank in the first stage. Other overrides as for evaluate.py.
"""

import sys
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, OmegaConf

from experiments.launch import job, launch
from experiments.recompose import with_overrides_of_the_run

if TYPE_CHECKING:
    import numpy as np

    from data.dataset import Catalog
    from experiments.evaluation import Evaluator
    from experiments.evidence import Scored
    from rerankers.base import Reranker

TOP, LAST = 5, 10  # candidates shown; items of a history
MOST = 80  # characters of a passage
TRIED = 200  # requests scored in the search for hits and misses


def inspect(cfg: DictConfig) -> None:
    from pathlib import Path

    from data.errors import in_range
    from experiments import stages
    from experiments.config import configure
    from experiments.evidence import score, take

    in_range("n", cfg.n, 1)
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("n", "user")])
    experiment = configure(own)
    data = stages.open_data(experiment, stages.load(experiment))
    reranker = experiment.reranker
    reranker.load(Path(cfg.run) / "model", data.test.requests)
    k = int(experiment.protocol.primary.rpartition("_")[2])
    user = None if cfg.user is None else str(cfg.user)
    for tried in (4 * cfg.n, TRIED):  # a slow model often has both kinds among the first
        rows = searched(data.test, user, tried, experiment.seed)
        scored = score(reranker, take(data.test, rows), keep=True)
        n_hits = int((scored.evaluated.ranks.best <= k).sum())
        if user is not None or cfg.n // 2 <= n_hits <= len(rows) - cfg.n // 2:
            break
    shown = balanced(scored, k, cfg.n)
    print(f"{Path(cfg.run).name}: {len(shown)} of {len(data.test.requests):,} test requests")
    for number, row in enumerate(shown, start=1):
        print(f"\n{'=' * 100}\nRequest {number} of {len(shown)}, {described(scored, row, k)}\n")
        show_request(reranker, scored, row)


def searched(test: "Evaluator", user: str | None, n: int, seed: int) -> "np.ndarray":
    """Rows of the test requests to look among: the user's own, or a seeded choice."""
    import numpy as np

    from data.errors import UserError
    from experiments.evidence import chosen

    if user is None:
        return chosen(len(test.requests), n, seed)
    assert test.requests.names is not None
    rows = np.flatnonzero(test.requests.names.astype(str) == user)
    if not len(rows):
        raise UserError(f"user={user} has no test request; one that has is {test.requests.names[0]}")
    return rows


def balanced(scored: "Scored", k: int, n: int) -> list[int]:
    """Rows of `scored`: half hits, half misses, as far as there are."""
    import numpy as np

    found = np.flatnonzero(scored.evaluated.ranks.best <= k).tolist()
    missed = [row for row in range(len(scored.requests)) if row not in set(found)]
    n_hits = min(len(found), max((n + 1) // 2, n - len(missed)))
    return found[:n_hits] + missed[: n - n_hits]


def described(scored: "Scored", row: int, k: int) -> str:
    """Whose request it is, and how it went."""
    requests, rank = scored.requests, scored.evaluated.ranks.best[row]
    kind = "user" if requests.queries is None else "query"
    who = "" if requests.names is None else f"{kind} {requests.names[row]}: "
    if rank == float("inf"):
        return f"{who}MISS, the truth is not among its {scored.listed[row].sum():,} candidates"
    where = f"ranked {rank:.0f} of {scored.listed[row].sum():,}"
    return f"{who}{'HIT' if rank <= k else 'MISS'} (Hit@{k}), the truth is {where}"


def show_request(reranker: "Reranker", scored: "Scored", row: int) -> None:
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from experiments.data_checks import place_name

    requests = scored.requests.take(slice(row, row + 1))
    catalog, relevant = requests.catalog, set(scored.evaluator.relevance.items.row(row).tolist())
    items = np.arange(requests.width) if requests.candidates is None else requests.candidates[0]
    first_stage = requests.first_stage_scores
    texts = reranker.inputs(requests)
    if texts:
        print(f"What it reads, between the lines:\n{'-' * 100}\n{texts[0]}\n{'-' * 100}")
    else:
        show_asked(catalog, requests.histories.row(0), None if requests.queries is None else requests.queries[0])

    def place(column: int) -> str:
        return place_name(column, reranker.order_sensitive)

    def first_rank(column: int) -> str:
        if first_stage is None or not np.isfinite(first_stage[0, column]):
            return "-"
        return str(1 + int((first_stage[0] > first_stage[0, column]).sum()))

    columns = [int(column) for column in np.flatnonzero(np.isin(items, list(relevant)))]
    where = {int(items[column]): f"at {place(column)}, first-stage rank {first_rank(column)}" for column in columns}
    for item in relevant:
        print(f"Truth: {named(catalog, item)} ({where.get(item, 'not among the candidates')})")
    assert scored.evaluated.items is not None
    order = [int(np.flatnonzero(items == item)[0]) for item in scored.evaluated.items[row, :TOP] if item >= 0]
    table = Table(title=f"The best {TOP}; probabilities are a softmax over the candidates' scores")
    for name in ("rank", "shown at", "item", "probability", "first stage", ""):
        table.add_column(name, justify="right" if name in ("rank", "probability", "first stage") else "left")
    probability = np.exp(scored.logits[row])
    for rank, column in enumerate(order, start=1):
        truth = "<- truth" if int(items[column]) in relevant else ""
        cells = (str(rank), place(column), named(catalog, items[column]), f"{probability[column]:.3f}")
        table.add_row(*cells, first_rank(column), truth)
    Console(width=None if sys.stdout.isatty() else 100, highlight=False, markup=False).print(table)


def show_asked(catalog: "Catalog", history: "np.ndarray", query: str | None) -> None:
    """The words of the query, or the last titles of the history."""
    if query is not None:
        return print(f"Query: {query}")
    print(f"History, the last {min(LAST, len(history))} of {len(history)} items, oldest first:")
    for item in history[-LAST:]:
        print(f"  {named(catalog, item)}")


def named(catalog: "Catalog", item: int) -> str:
    title, own = catalog.title[item], catalog.id[item]
    words = " ".join(catalog.description[item].split())
    title = title or (words if len(words) <= MOST else f"{words[:MOST]}...")
    return f"{title} [{own}]" if title else str(own)


def main() -> None:
    words = sys.argv[1:]
    given = any(word.startswith("run=") for word in words)
    sys.argv[1:] = with_overrides_of_the_run(words if given else [*words, "run=latest"])
    hydra.main(version_base="1.3", config_path="../conf", config_name="inspect")(job(inspect))()


if __name__ == "__main__":
    launch(main)
