"""What a finished run says: every metric with chance, first stage and ceiling beside it, tests, files.

Keys of metrics.json (final values only, no times, so that a repeat is identical byte for byte):

    valid/<metric>                                   validation, of the model that is reported
    test/<metric>  test/low/..  test/high/..         the reranker and its 95 % bootstrap interval
    test/chance/..  chance_low/..  chance_high/..    a random order: exact mean, 95 % interval
    test/first_stage/..  popularity/..  planted/..   other rows on the same requests
    test/untuned/..  fused/..                        the model before training; reranker and first stage added
    test/ceiling/..                                  a perfect order of the same candidates
    test/share_with_a_hit  share_unscored            requests with a relevant candidate; candidates left unranked
    test/conditional/[chance/|first_stage/]..        only requests whose candidates hold a relevant item
    test/vs_<row>/<statistic>                        paired comparison of the primary metric
    test/fused_vs_first_stage/<statistic>            the same, of the row `fused`
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from data.dataset import Dataset, Relevance, Requests
from data.files import write_json, write_parquet
from data.parquet_parts import ROWS, write_parts
from data.progress import bar
from data.splits import Split
from experiments.chance import chance as chance_of
from experiments.config import Protocol
from experiments.evaluation import Evaluated, Evaluator
from experiments.metrics import measure
from experiments.significance import bootstrap_interval, compare, holm
from rerankers.base import Reranker
from rerankers.baselines import FirstStage, Popularity

Metrics = dict[str, float]
Rows = dict[str, dict[str, np.ndarray]]  # row -> metric -> [R]
COMPARED = ("popularity", "first_stage", "untuned")


def reference_rows(dataset: Dataset, split: Split, test: Evaluator) -> Rows:
    """The rows that stand beside every reranker, on the same requests."""
    popularity = Popularity(name="popularity")
    popularity.fit(dataset, split, None, lambda values, step: None)
    rows = {"popularity": test(popularity.score), "first_stage": test(FirstStage(name="first_stage").score)}
    if dataset.planted is not None:
        rows["planted"] = test(dataset.planted.score)
    return {row: evaluated.values for row, evaluated in rows.items()}


def summarize(
    evaluated: Evaluated, rows: Rows, protocol: Protocol, seed: int, width: int | None, own: str = ""
) -> Metrics:
    """All `test/` keys. `seed` is that of ties; `width` the columns of the candidate lists, None for the whole
    catalogue. A row is not compared with itself (`own`); the comparisons made are one Holm family."""
    primary = protocol.primary
    out: Metrics = {"n_requests": len(evaluated.ranks), "tie_rate": evaluated.tie_rate}
    out |= evaluated.means
    names = list(evaluated.values)
    low, high = bootstrap_interval(np.stack([evaluated.values[n] for n in names], axis=1), seed)
    out |= {f"low/{n}": float(v) for n, v in zip(names, low, strict=True)}
    out |= {f"high/{n}": float(v) for n, v in zip(names, high, strict=True)}
    chance = chance_of(evaluated.ranks, protocol.metrics, protocol.ks)
    for name in names:
        out[f"chance/{name}"], out[f"chance_low/{name}"], out[f"chance_high/{name}"] = chance.interval(name)
    for row, other in rows.items():
        out |= {f"{row}/{name}": float(other[name].mean()) for name in names}
    ceiling = measure(evaluated.ranks.oracle(), protocol.metrics, protocol.ks)
    out |= {f"ceiling/{name}": float(values.mean()) for name, values in ceiling.items()}

    found = evaluated.ranks.found > 0
    out["share_with_a_hit"] = float(found.mean())
    if width is not None:
        share = evaluated.ranks.found / np.maximum(evaluated.ranks.n_relevant, 1)
        out[f"ceiling/recall_at_{width}"] = float(share.mean())
        if evaluated.n_ranked is not None:
            out["share_unscored"] = 1 - float(evaluated.n_ranked / max(evaluated.ranks.n_candidates.sum(), 1))
        if 0 < found.sum() < len(found):
            for name in names:
                out[f"conditional/{name}"] = float(evaluated.values[name][found].mean())
                out[f"conditional/chance/{name}"] = chance.interval(name, found)[0]
                out[f"conditional/first_stage/{name}"] = float(rows["first_stage"][name][found].mean())

    against = {"chance": chance.mean[primary]} | {row: rows[row][primary] for row in COMPARED if row in rows}
    values = evaluated.values[primary]
    comparisons = {f"vs_{row}": compare(values, other, seed) for row, other in against.items() if row != own}
    if "fused" in rows:
        comparisons["fused_vs_first_stage"] = compare(rows["fused"][primary], rows["first_stage"][primary], seed)
    adjusted = holm([comparison.p_permutation for comparison in comparisons.values()])
    for (which, comparison), p in zip(comparisons.items(), adjusted, strict=True):
        out |= {f"{which}/{statistic}": value for statistic, value in asdict(comparison).items()}
        out[f"{which}/p_holm"] = p
    return {f"test/{name}": float(value) for name, value in out.items()}


def write_results(
    folder: Path,
    dataset: Dataset,
    split: Split,
    test: Evaluator,
    evaluated: Evaluated,
    rows: Rows,
    metrics: Metrics,
) -> None:
    """metrics.json, per_request.parquet and predictions.parquet.

    In per_request.parquet, beside the metrics: `rank` of the best relevant item, NaN where none is ranked, and
    `target_popularity`, training interactions (of passages: training queries it is relevant to) of a relevant item, on
    average over those of the request.
    """
    requests = test.requests
    users = dataset.user_id[requests.ids]
    ranks = evaluated.ranks
    columns = {
        "request": users,
        "history_length": requests.histories.lengths,
        "n_candidates": ranks.n_candidates,
        "n_relevant": ranks.n_relevant,
        "found": ranks.found,
        "tied": evaluated.tied,
        "rank": np.where(np.isfinite(ranks.best), ranks.best, np.nan),
        "target_popularity": target_popularity(dataset, split, test.relevance),
        **evaluated.values,
    }
    for row, other in rows.items():
        columns |= {f"{row}/{name}": values for name, values in other.items()}
    write_parquet(folder / "per_request.parquet", pd.DataFrame(columns))

    assert evaluated.items is not None and evaluated.scores is not None
    write_predictions(folder / "predictions.parquet", users, dataset.catalog.id, evaluated.items, evaluated.scores)
    write_json(folder / "metrics.json", metrics)


def write_predictions(
    path: Path, users: np.ndarray, item_id: np.ndarray, items: np.ndarray, scores: np.ndarray
) -> None:
    """A row for each item [R, K] that is not -1: user id [R], item id, score and rank."""
    found = np.flatnonzero(items >= 0)

    def part(start: int) -> pa.Table:
        pair = found[start : start + ROWS]
        request, place = np.divmod(pair, items.shape[1])
        columns = {
            "request": users[request],
            "candidate": item_id[items.ravel()[pair]],
            "score": scores.ravel()[pair],
            "rank": (place + 1).astype(np.int32),
        }
        return pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False)

    write_parts(path, map(part, bar(range(0, max(len(found), 1), ROWS), "writing the predictions")))


def target_popularity(dataset: Dataset, split: Split, relevance: Relevance) -> np.ndarray:
    """[R] float64, NaN of a request without a relevant item."""
    counts = np.bincount(split.train.histories.values, minlength=len(dataset.catalog))
    items, n = relevance.items, relevance.items.lengths
    sums = np.bincount(items.row_of_value, counts[items.values], minlength=len(items))
    return np.divide(sums, n, out=np.full(len(items), np.nan), where=n > 0)


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
