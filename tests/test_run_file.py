"""Lists and scores made elsewhere: parquet, CSV and TREC runs as candidates and as a reranker."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pandas as pd
import pytest
from conftest import only_run

from data.candidates import Candidates, prepare
from data.dataset import Dataset
from data.errors import UserError
from data.files import read_json
from data.splits import Split
from experiments.config import configure
from rerankers.scores_from_file import ScoresFromFile
from train import train


def lists(demo: Dataset, split: Split) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            (name, demo.user_id[user], demo.catalog.id[rng.choice(len(demo.catalog), 10, replace=False)].tolist())
            for name, phase in (("validation", split.validation), ("test", split.test))
            for user in phase.ids
        ],
        columns=pd.Index(["phase", "request", "candidates"]),
    )


def test_lists_made_elsewhere(demo: Dataset, split: Split, tmp_path: Path) -> None:
    table = lists(demo, split)
    table.to_parquet(tmp_path / "mine.parquet")
    got = prepare(demo, split, Candidates(mode="file", path=str(tmp_path / "mine.parquet")), tmp_path, "x")
    wanted = dict(
        zip(table[table["phase"] == "test"]["request"], table[table["phase"] == "test"]["candidates"], strict=True)
    )
    assert got.test.candidates is not None and got.test.first_stage_scores is not None
    for r, user in enumerate(demo.user_id[got.test.ids]):
        given = demo.catalog.id[got.test.candidates[r][np.argsort(-got.test.first_stage_scores[r])]]
        assert given.tolist() == wanted[user]  # without scores the given order is the first stage's


def test_errors_in_lists_made_elsewhere(demo: Dataset, split: Split, tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"

    def read(table: pd.DataFrame) -> None:
        table.to_parquet(path)
        prepare(demo, split, Candidates(mode="file", path=str(path)), tmp_path, "x")

    unknown = lists(demo, split)
    unknown["candidates"] = [*unknown["candidates"][:-1], ["nobody-knows-me"]]
    with pytest.raises(UserError, match=r"'nobody-knows-me' of user .* is not in dataset demo"):
        read(unknown)
    with pytest.raises(UserError, match="has no test candidates for user"):
        read(lists(demo, split).iloc[:-1])
    twice = lists(demo, split)
    twice["candidates"] = [[demo.catalog.id[0]] * 2, *twice["candidates"][1:]]
    with pytest.raises(UserError, match="twice"):
        read(twice)
    with pytest.raises(UserError, match="has two lists for one user"):
        read(pd.concat([lists(demo, split), lists(demo, split).iloc[-1:]]))
    ragged = lists(demo, split)
    ragged["first_stage_scores"] = [[0.5] * 10] * (len(ragged) - 1) + [[0.5] * 9]
    with pytest.raises(UserError, match="differ in length"):
        read(ragged)
    ragged["first_stage_scores"] = [[float("nan")] * 10] * len(ragged)
    with pytest.raises(UserError, match="row 1: the score None is not a finite number"):
        read(ragged)
    null = lists(demo, split)
    null["candidates"] = [*null["candidates"][:-1], None]
    with pytest.raises(UserError, match="is null"):
        read(null)
    words = lists(demo, split)
    words["candidates"] = [",".join(row) for row in words["candidates"]]
    with pytest.raises(UserError, match="must hold a list"):
        read(words)
    with pytest.raises(UserError, match="no column candidates"):
        read(lists(demo, split).drop(columns="candidates"))
    path.write_text("not parquet")
    with pytest.raises(UserError, match="not a parquet file"):
        prepare(demo, split, Candidates(mode="file", path=str(path)), tmp_path, "x")


def test_validation_lists_are_never_test_lists(demo: Dataset, split: Split, tmp_path: Path) -> None:
    table = lists(demo, split)
    table.to_parquet(both := tmp_path / "both.parquet")
    for phase, rows in table.groupby("phase"):
        rows.to_parquet(tmp_path / f"{phase}.parquet")
    alone = table[table["phase"] == "test"].drop(columns="phase")
    alone.to_parquet(path := tmp_path / "alone.parquet")

    def read(path: Path, validation: Path | None) -> list[int]:
        given = Candidates(mode="file", path=str(path), validation_path=validation and str(validation))
        got = prepare(demo, split, given, tmp_path, "x")
        return [] if got.validation.candidates is None else np.sort(got.validation.candidates, axis=1).tolist()

    wanted = read(both, None)
    assert len(wanted) == len(split.validation)
    assert read(path, tmp_path / "validation.parquet") == wanted == read(tmp_path / "test.parquet", both)
    assert read(path, None) == []
    with pytest.raises(UserError, match="has no row with phase=validation"):
        read(path, tmp_path / "test.parquet")
    with pytest.raises(UserError, match="has validation lists already"):
        read(both, tmp_path / "validation.parquet")
    with pytest.raises(UserError, match="has no row with phase=test"):
        read(tmp_path / "validation.parquet", None)


def test_lists_that_fit_the_data_but_not_the_split(demo: Dataset, split: Split, tmp_path: Path) -> None:
    table = lists(demo, split)
    wanted = {"validation": split.validation.relevant.values, "test": split.test.relevant.values}
    for phase, items in wanted.items():  # lists without the target of their phase
        own = table["phase"] == phase
        targets = dict(zip(demo.user_id[split.test.ids], demo.catalog.id[items], strict=True))
        cut = table[own].copy()
        cut["candidates"] = [
            [item for item in row if item != targets[user]]
            for user, row in zip(cut["request"], cut["candidates"], strict=True)
        ]
        pd.concat([table[~own], cut]).to_parquet(path := tmp_path / f"{phase}.parquet")
        with pytest.raises(UserError, match=f"none of the 120 {phase} lists .* holds a relevant item"):
            prepare(demo, split, Candidates(mode="file", path=str(path)), tmp_path, "x")
    table["request"] = "x" + table["request"]
    table.to_parquet(path)
    for missing in ("error", "empty"):
        with pytest.raises(UserError, match="has none of the 120 validation users"):
            given = Candidates(mode="file", path=str(path), missing_requests=missing)
            prepare(demo, split, given, tmp_path, "x")


def test_unused_lists_and_items_of_the_history_are_told(
    demo: Dataset, split: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = lists(demo, split)
    more = table.tail(1).assign(request="somebody")
    pd.concat([table, more]).to_parquet(path := tmp_path / "mine.parquet")
    prepare(demo, split, Candidates(mode="file", path=str(path)), tmp_path, "x")
    assert "1 lists are of users whom the test does not ask about" in caplog.text
    assert "of the listed items are in the user's history and stay" in caplog.text


def test_scores_of_the_test_phase_are_read_and_foreign_items_are_told(
    config: Callable[..., Any], demo: Dataset, split: Split, tmp_path: Path
) -> None:
    users, items = demo.user_id[split.test.ids], demo.catalog.id[split.test.relevant.values]
    rows = [("validation", u, demo.catalog.id[0], 1.0) for u in users]
    rows += [("test", u, i, 1.0) for u, i in zip(users, items, strict=True)] + [("test", users[0], "foreign", 0.5)]
    table = pd.DataFrame(rows, columns=pd.Index(["phase", "user_id", "item_id", "score"]))
    table.to_csv(path := tmp_path / "mine.csv", index=False)
    words = ["reranker=file", f"reranker.path={path}", "candidates=full"]
    metrics = train(config(*words))
    assert metrics["test/recall_at_1"] == 1
    labels = read_json(only_run(tmp_path) / "manifest.json")["labels"]
    assert any("of the items scored there are not in the catalogue" in label for label in labels)
    assert any("items a request are scored, others not ranked" in label for label in labels)
    table["item_id"] = "x" + table["item_id"]
    table.to_csv(path, index=False)
    with pytest.raises(UserError, match=r"scores none of the .* items of demo"):
        train(config(*words))


def test_lists_for_the_test_alone_rank_but_do_not_train(
    config: Callable[..., Any], demo: Dataset, split: Split, tmp_path: Path
) -> None:
    table = lists(demo, split)
    for phase, rows in table.groupby("phase"):
        lines = (f"{user},{' '.join(items)}" for user, items in zip(rows["request"], rows["candidates"], strict=True))
        (tmp_path / f"{phase}.csv").write_text("\n".join(lines))
    files = ["candidates=file", f"candidates.path={tmp_path / 'test.csv'}"]
    metrics = train(config(*files, "reranker=popularity", "protocol.ks=[5]", "protocol.primary=recall_at_5"))
    assert metrics["test/ceiling/recall_at_10"] > 0 and not any(name.startswith("valid/") for name in metrics)
    with pytest.raises(UserError, match="has no validation lists, which training needs"):
        train(config(*files, "reranker=bert4rec"))
    files.append(f"candidates.validation_path={tmp_path / 'validation.csv'}")
    both = train(config(*files, "reranker=popularity", "protocol.ks=[5]", "protocol.primary=recall_at_5"))
    assert any(name.startswith("valid/") for name in both)
    assert both["test/recall_at_5"] == metrics["test/recall_at_5"]


def test_a_request_without_a_list_is_an_error_or_a_miss(demo: Dataset, split: Split, tmp_path: Path) -> None:
    table = lists(demo, split)
    table.iloc[:-1].to_parquet(tmp_path / "mine.parquet")
    got = prepare(
        demo,
        split,
        Candidates(mode="file", path=str(tmp_path / "mine.parquet"), missing_requests="empty"),
        tmp_path,
        "x",
    )
    assert got.test.candidates is not None
    assert (got.test.candidates[-1] == -1).all() and (got.test.candidates[:-1] >= 0).all()


def trec_run(demo: Dataset, split: Split, path: Path, keep: float = 1.0) -> list[ir_measures.ScoredDoc]:
    """Distinct scores for a random part of the catalogue, the same order in ir_measures and here."""
    rng = np.random.default_rng(3)
    run = []
    for user in split.test.ids:
        some = rng.permutation(len(demo.catalog))[: int(keep * len(demo.catalog))]
        scores = rng.permutation(len(some)) / 64
        run += [
            ir_measures.ScoredDoc(demo.user_id[user], demo.catalog.id[i], float(s))
            for i, s in zip(some, scores, strict=True)
        ]
    path.write_text("\n".join(f"{d.query_id} Q0 {d.doc_id} 0 {d.score!r} mine" for d in run))
    return run


@pytest.mark.parametrize("mode", ["candidates", "reranker"])
def test_a_run_of_known_order_gives_the_metrics_of_ir_measures(
    mode: str, config: Callable[..., Any], demo: Dataset, split: Split, tmp_path: Path
) -> None:
    path = tmp_path / "mine.trec"
    run = trec_run(demo, split, path, keep=0.6)
    users = demo.user_id[split.test.ids]
    wanted = demo.catalog.id[split.test.relevant.values]
    qrels = [ir_measures.Qrel(u, i, 1) for u, i in zip(users, wanted, strict=True)]
    if mode == "reranker":  # over the catalogue, less the history, which the protocol does not rank
        seen = dict(
            zip(
                users,
                (set(demo.catalog.id[row]) for row in map(split.test.histories.row, range(len(users)))),
                strict=True,
            )
        )
        run = [d for d in run if d.doc_id not in seen[d.query_id]]
        words = ["reranker=file", f"reranker.path={path}", "reranker.name=mine", "candidates=full"]
    else:
        words = ["reranker=first_stage", "candidates=file", f"candidates.path={path}"]
    metrics = train(
        config(
            *words,
            "protocol.metrics=[recall,ndcg,mrr,hit,map]",
            "protocol.ks=[1,5,20]",
            "protocol.primary=recall_at_5",
        )
    )
    names = {
        "recall": ir_measures.R,
        "ndcg": ir_measures.nDCG,
        "mrr": ir_measures.RR,
        "hit": ir_measures.Success,
        "map": ir_measures.AP,
    }
    measures = {f"test/{name}_at_{k}": measure @ k for name, measure in names.items() for k in (1, 5, 20)}
    reference = ir_measures.calc_aggregate(measures.values(), qrels, run)
    for name, measure in measures.items():
        assert metrics[name] == pytest.approx(reference[measure], abs=1e-9), name


def test_scores_made_elsewhere_are_labelled_saved_and_part_of_the_identity(
    config: Callable[..., Any],
    demo: Dataset,
    split: Split,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "mine.trec"
    trec_run(demo, split, path, keep=0.5)
    words = ["reranker=file", f"reranker.path={path}", "reranker.name=mine"]
    metrics = train(config(*words))
    folder = only_run(tmp_path)
    manifest = read_json(folder / "manifest.json")
    assert folder.name.startswith("demo-mine-")
    assert "scores made elsewhere, mine.trec" in manifest["labels"]
    assert any(label.endswith("of the candidates have no score and are not ranked") for label in manifest["labels"])
    assert metrics["test/recall_at_10"] < metrics["test/ceiling/recall_at_10"]
    listed = pd.read_parquet(folder / "per_request.parquet")["n_candidates"].sum()
    unscored = 1 - len(pd.read_parquet(folder / "predictions.parquet")) / listed
    assert metrics["test/share_unscored"] == pytest.approx(unscored) and 0.3 < unscored < 0.7
    assert f"(only {1 - unscored:.0%} of the candidates were scored" in capsys.readouterr().out
    again = tmp_path / "moved.trec"
    path.rename(again)
    train(config("reranker=file", f"reranker.path={again}", "reranker.name=mine"))
    assert only_run(tmp_path) == folder, "the same content elsewhere is the same run"
    again.write_text(again.read_text().replace(" mine", " x").replace("0.5 x", "0.75 x"))
    train(config("reranker=file", f"reranker.path={again}", "reranker.name=mine"))
    assert len(list((tmp_path / "runs").iterdir())) == 2
    root = tmp_path / "refit"
    train(config("reranker=file", f"reranker.path={again}", "protocol.refit_on_validation=true", root=root))
    labels = read_json(only_run(root) / "manifest.json")["labels"]
    assert "the first stage was refit on training + validation for the test" in labels


def test_a_request_without_scores_is_an_error_or_a_miss(
    config: Callable[..., Any], demo: Dataset, split: Split, tmp_path: Path
) -> None:
    path = tmp_path / "mine.trec"
    trec_run(demo, split, path)
    first = demo.user_id[split.test.ids[0]]
    path.write_text("\n".join(line for line in path.read_text().split("\n") if not line.startswith(f"{first} ")))
    words = ["reranker=file", f"reranker.path={path}", "candidates=sampled"]
    with pytest.raises(UserError, match=f"has no scores for user {first}"):
        train(config(*words))
    train(config(*words, "reranker.missing_requests=empty"))
    folders = [f for f in (tmp_path / "runs").iterdir() if (f / "manifest.json").exists()]
    per_request = pd.read_parquet(folders[0] / "per_request.parquet").set_index("request")
    assert per_request.loc[first, "recall_at_20"] == 0
    experiment = configure(config(*words, "reranker.missing_requests=empty"))
    experiment.reranker.fit(demo, split, None, lambda values, step: None)
    requests = prepare(demo, split, experiment.candidates, tmp_path, "x").test
    alone = requests.take(np.flatnonzero(requests.names == first))
    assert len(alone) == 1 and np.isneginf(experiment.reranker.score(alone)).all(), "a slice of missing requests"
    assert any(
        "1 of 120 requests have no score" in label for label in read_json(folders[0] / "manifest.json")["labels"]
    )


def test_the_predictions_of_a_run_can_be_read_back_as_scores(
    config: Callable[..., Any], demo: Dataset, tmp_path: Path
) -> None:
    metrics = train(config("reranker=popularity"))
    predictions = only_run(tmp_path) / "predictions.parquet"
    again = train(config("reranker=file", f"reranker.path={predictions}", "reranker.name=again"))
    # equal scores are ordered by the same seeded key, so not one metric differs
    assert {k: v for k, v in again.items() if k.startswith("test/recall")} == {
        k: v for k, v in metrics.items() if k.startswith("test/recall")
    }
    reranker = configure(config("reranker=file", f"reranker.path={predictions}")).reranker
    assert isinstance(reranker, ScoresFromFile) and not replace(reranker).validates
