"""What a finished run says: every metric with chance, first stage and ceiling beside it, tests, files.

Keys of metrics.json (final values only, no times, so that a repeat is identical byte for byte):

    valid/<metric>                                   validation, of the model that is reported
    test/<metric>  test/low/..  test/high/..         the reranker and its 95 % bootstrap interval
    test/chance/..  chance_low/..  chance_high/..    a random order: exact mean, 95 % interval
    test/first_stage/..  popularity/..  planted/..   other rows on the same requests
    test/ceiling/..                                  a perfect order of the same candidates
    test/share_with_a_hit  share_unscored            requests with a relevant candidate; candidates left unranked
    test/conditional/[chance/|first_stage/]..        only requests whose candidates hold a relevant item
    test/vs_<row>/<statistic>                        paired comparison of the primary metric
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from data.dataset import Dataset, Requests
from data.files import write_json, write_parquet
from data.splits import Split
from experiments.config import Protocol
from experiments.evaluation import Evaluated, Evaluator
from experiments.significance import bootstrap_interval, compare, holm
from rerankers.base import Reranker
from rerankers.baselines import FirstStage, Popularity

Metrics = dict[str, float]


def reference_rows(dataset: Dataset, split: Split, test: Evaluator) -> dict[str, Evaluated]:
    """The rows that stand beside every reranker, on the same requests."""
    popularity = Popularity(name="popularity")
    popularity.fit(dataset, split, None, lambda values, step: None)
    rows = {"popularity": test(popularity.score), "first_stage": test(FirstStage(name="first_stage").score)}
    if dataset.planted is not None:
        rows["planted"] = test(dataset.planted.score)
    return rows


def summarize(
    evaluated: Evaluated, rows: dict[str, Evaluated], test: Evaluator, primary: str, own: str = ""
) -> Metrics:
    """All `test/` keys. A row is not compared with itself (`own`); the comparisons made are one Holm family."""
    seed = test.seed
    out: Metrics = {"n_requests": len(evaluated.ranks), "tie_rate": evaluated.tie_rate}
    out |= evaluated.means
    names = list(evaluated.values)
    low, high = bootstrap_interval(np.stack([evaluated.values[n] for n in names], axis=1), seed)
    out |= {f"low/{n}": float(v) for n, v in zip(names, low, strict=True)}
    out |= {f"high/{n}": float(v) for n, v in zip(names, high, strict=True)}
    chance = test.chance(evaluated.ranks)
    for name in names:
        out[f"chance/{name}"], out[f"chance_low/{name}"], out[f"chance_high/{name}"] = chance.interval(name)
    for row, other in rows.items():
        out |= {f"{row}/{name}": value for name, value in other.means.items()}
    out |= {f"ceiling/{name}": float(values.mean()) for name, values in test.oracle(evaluated.ranks).items()}

    found = evaluated.ranks.found > 0
    out["share_with_a_hit"] = float(found.mean())
    if test.requests.candidates is not None:
        share = evaluated.ranks.found / np.maximum(evaluated.ranks.n_relevant, 1)
        out[f"ceiling/recall_at_{test.requests.width}"] = float(share.mean())
        if evaluated.items is not None:
            listed = (test.requests.candidates >= 0).sum()
            out["share_unscored"] = 1 - float((evaluated.items >= 0).sum() / max(listed, 1))
        if 0 < found.sum() < len(found):
            for name in names:
                out[f"conditional/{name}"] = float(evaluated.values[name][found].mean())
                out[f"conditional/chance/{name}"] = chance.interval(name, found)[0]
                out[f"conditional/first_stage/{name}"] = float(rows["first_stage"].values[name][found].mean())

    against = {"chance": chance.mean[primary]} | {r: rows[r].values[primary] for r in ("popularity", "first_stage")}
    comparisons = {row: compare(evaluated.values[primary], v, seed) for row, v in against.items() if row != own}
    adjusted = holm([comparison.p_permutation for comparison in comparisons.values()])
    for (row, comparison), p in zip(comparisons.items(), adjusted, strict=True):
        out |= {f"vs_{row}/{statistic}": value for statistic, value in asdict(comparison).items()}
        out[f"vs_{row}/p_holm"] = p
    return {f"test/{name}": float(value) for name, value in out.items()}


def write_results(
    folder: Path,
    dataset: Dataset,
    test: Evaluator,
    evaluated: Evaluated,
    rows: dict[str, Evaluated],
    metrics: Metrics,
) -> None:
    """metrics.json, per_request.parquet and predictions.parquet."""
    requests = test.requests
    users = dataset.user_id[requests.ids]
    ranks = evaluated.ranks
    columns = {
        "request": users,
        "history_length": requests.histories.lengths,
        "n_candidates": ranks.n_candidates,
        "n_relevant": ranks.n_relevant,
        "found": ranks.found,
        **evaluated.values,
    }
    for row, other in rows.items():
        columns |= {f"{row}/{name}": values for name, values in other.values.items()}
    write_parquet(folder / "per_request.parquet", pd.DataFrame(columns))

    assert evaluated.items is not None and evaluated.scores is not None
    request, place = np.nonzero(evaluated.items >= 0)
    predictions = {
        "request": users[request],
        "candidate": dataset.catalog.id[evaluated.items[request, place]],
        "score": evaluated.scores[request, place],
        "rank": (place + 1).astype(np.int32),
    }
    write_parquet(folder / "predictions.parquet", pd.DataFrame(predictions))
    write_json(folder / "metrics.json", metrics)


def labels(
    dataset: Dataset, reranker: Reranker, requests: Requests, candidates: list[str], protocol: Protocol
) -> list[str]:
    """What a reader must know before believing a number of this run."""
    out = [*candidates, *reranker.labels(requests)]
    if dataset.provenance.synthetic:
        out.append("synthetic data")
    if protocol.max_requests is not None:
        out.append(f"at most {protocol.max_requests} test requests")
    if protocol.refit_on_validation:
        what = "the first stage was " if reranker.files else ""
        out.append(f"{what}refit on training + validation for the test")
    return out
