"""All folds in one command: each an ordinary run, and a pool whose numbers are of all queries together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.errors import UserError
from experiments.chance import Z95
from experiments.find_run import find_run, newest
from experiments.findings import Finding, read_diagnosis
from experiments.metrics import key
from experiments.significance import bootstrap_interval, compare, holm
from train import train

NAMES = [key(name, k) for k in (1, 3, 5, 7, 10) for name in ("recall", "ndcg", "mrr", "hit", "context_precision")]


def parts(root: Path) -> tuple[Path, list[Path]]:
    """The pool and its folds, in order."""
    runs = {path.name: path for path in (root / "runs").iterdir()}
    (pool,) = [p for p in runs.values() if "folds" in json.loads((p / "manifest.json").read_text())]
    return pool, [runs[name] for name in json.loads((pool / "manifest.json").read_text())["folds"]]


def test_the_pool_is_the_metrics_of_all_queries(
    passages: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = train(passages())
    pool, folds = parts(tmp_path)
    assert len(list((tmp_path / "runs").iterdir())) == 6
    tables = [pd.read_parquet(folder / "per_request.parquet") for folder in folds]
    assert sorted(map(len, tables)) == [8, 8, 9, 9, 9], "folds of unequal size pool by query"
    table = pd.concat(tables, ignore_index=True)
    assert sorted(table["request"]) == sorted(f"q{i}" for i in range(43)), "every query is tested once"
    pooled = pd.read_parquet(pool / "per_request.parquet")
    assert pooled["fold"].tolist() == np.repeat(range(5), [len(t) for t in tables]).tolist()
    pd.testing.assert_frame_equal(pooled.drop(columns="fold"), table)
    assert pooled["target_popularity"].notna().all() and ((pooled["rank"] <= 3) == (pooled["hit_at_3"] == 1)).all()

    values = np.stack([table[name] for name in NAMES], axis=1)
    low, high = bootstrap_interval(values, 0)
    for name in NAMES:
        assert metrics[f"test/{name}"] == table[name].to_numpy().mean(), "to the last digit"
        for row in ("popularity", "first_stage", "untuned", "fused"):
            assert metrics[f"test/{row}/{name}"] == table[f"{row}/{name}"].to_numpy().mean()
    assert metrics["test/n_requests"] == 43
    primary = table["ndcg_at_5"].to_numpy()
    other = {row: table[f"{row}/ndcg_at_5"].to_numpy() for row in ("popularity", "first_stage", "untuned", "fused")}
    assert metrics["test/vs_untuned/p_permutation"] == compare(primary, other["untuned"], 0).p_permutation
    both = compare(other["fused"], other["first_stage"], 0)
    assert metrics["test/fused_vs_first_stage/low"] == both.low
    family = ["vs_chance", "vs_popularity", "vs_first_stage", "vs_untuned", "fused_vs_first_stage"]
    p = [metrics[f"test/{which}/p_permutation"] for which in family]
    assert [metrics[f"test/{which}/p_holm"] for which in family] == holm(p)
    of_folds = [json.loads((folder / "metrics.json").read_text()) for folder in folds]
    assert set(of_folds[0]) == set(metrics), "a pool is read like any run"
    sizes = [len(t) for t in tables]
    for name in ("chance/ndcg_at_5", "ceiling/ndcg_at_5", "ceiling/recall_at_12", "tie_rate", "share_unscored"):
        mean = np.average([m[f"test/{name}"] for m in of_folds], weights=sizes)
        assert metrics[f"test/{name}"] == pytest.approx(mean, abs=1e-12)
    half = [m["test/chance_high/ndcg_at_5"] - m["test/chance/ndcg_at_5"] for m in of_folds]
    variance = sum((h * n / Z95) ** 2 for h, n in zip(half, sizes, strict=True))
    assert metrics["test/chance_high/ndcg_at_5"] - metrics["test/chance/ndcg_at_5"] == pytest.approx(
        Z95 * variance**0.5 / 43
    )
    assert metrics["valid/ndcg_at_5"] == pytest.approx(np.mean([m["valid/ndcg_at_5"] for m in of_folds]))
    for place, name in enumerate(NAMES):
        assert metrics[f"test/low/{name}"] == pytest.approx(low[place])
        assert metrics[f"test/high/{name}"] == pytest.approx(high[place])

    cost = json.loads((pool / "cost.json").read_text())
    costs = [json.loads((folder / "cost.json").read_text()) for folder in folds]
    assert cost["training_seconds"] == round(sum(c["training_seconds"] for c in costs), 2)
    assert cost["peak_memory_mb"] == max(c["peak_memory_mb"] for c in costs)
    manifest = json.loads((pool / "manifest.json").read_text())
    weights = [json.loads((folder / "manifest.json").read_text())["fusion_weight"] for folder in folds]
    assert manifest["fusion_weight"] == weights and "5 folds pooled" in manifest["labels"]
    assert len(pd.read_parquet(pool / "predictions.parquet")) == 43 * 12
    shown = capsys.readouterr().out
    for fold, of_fold in enumerate(of_folds):
        value, chance = (of_fold[f"test/{row}ndcg_at_5"] for row in ("", "chance/"))
        said = f"fold {fold}: NDCG@5 {value:.4f}, chance {chance:.4f}; diagnosis: "
        assert said in shown
    assert shown.count("test requests") == 1 and "43 test requests" in shown and "5 folds pooled" in shown


def test_finished_folds_are_read_and_a_fold_is_an_ordinary_run(
    passages: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiny_queries import SharedWords

    alone = [train(passages(f"protocol.fold={fold}")) for fold in (3, 1)]
    assert len(SharedWords.fits) == 4
    metrics = train(passages())
    assert len(SharedWords.fits) == 10, "untuned and trained, three folds more"
    _, folds = parts(tmp_path)
    assert json.loads((folds[3] / "metrics.json").read_text()) == alone[0]
    pool, _ = parts(tmp_path)
    stamp = (pool / "metrics.json").stat().st_mtime_ns
    capsys.readouterr()
    assert train(passages()) == metrics and len(SharedWords.fits) == 10
    assert (pool / "metrics.json").stat().st_mtime_ns == stamp
    assert capsys.readouterr().out.count("is finished already") == 6

    table = pd.read_parquet(folds[2] / "per_request.parquet")
    table["ndcg_at_5"] = 0.0
    table.to_parquet(folds[2] / "per_request.parquet")
    assert train(passages())["test/ndcg_at_5"] < metrics["test/ndcg_at_5"], "a fold that was redone is pooled again"
    assert train(passages("force=true")) == metrics and len(SharedWords.fits) == 20


def test_the_pool_has_the_worst_verdict_of_its_folds(
    passages: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.diagnostics import Diagnosis

    conclude = Diagnosis.conclude

    def third_is_bad(self: Diagnosis, *args: Any) -> list[Finding]:
        bad = self.experiment.protocol.fold == 2
        made_up = Finding("made up", "fail" if bad else "ok", "seen" if bad else "not seen", "mend it" if bad else "")
        luck = Finding("chance", "fail", "eight queries", "") if bad else Finding("chance", "ok", "fine")
        return [f for f in conclude(self, *args) if f.check != "chance"] + [made_up, luck]

    monkeypatch.setattr(Diagnosis, "conclude", third_is_bad)
    train(passages())
    pool, folds = parts(tmp_path)
    found = {finding.check: finding for finding in read_diagnosis(pool)}
    assert found["made up"] == Finding("made up", "fail", "fail in 1 of 5 folds; fold 2: seen", "mend it")
    assert found["chance"].verdict == "ok" and "folds" not in found["chance"].evidence, "of all queries together"
    labels = [json.loads((folder / "manifest.json").read_text())["labels"] for folder in (pool, folds[2])]
    assert "diagnosis failed: made up, chance" in labels[1]
    assert [label for label in labels[0] if label.startswith("diagnosis failed")] == ["diagnosis failed: made up"]


def test_a_check_looks_at_the_first_fold(passages: Callable[..., Any], tmp_path: Path) -> None:
    from tiny_queries import SharedWords

    assert train(passages("check=true")) == {}
    assert not (tmp_path / "runs").exists() and SharedWords.fits


def test_a_pool_has_no_model(passages: Callable[..., Any], tmp_path: Path) -> None:
    train(passages("protocol.folds=2"))
    pool, folds = parts(tmp_path)
    with pytest.raises(UserError, match=f"pools 2 folds and has no model of its own; give run={folds[0].name} or"):
        find_run(tmp_path, pool.name)
    assert newest(tmp_path) == folds[1], "the newest that has a model"
    overrides = (folds[1] / "overrides.yaml").read_text()
    assert "protocol.fold=1" in overrides, "evaluate.py composes the config of the fold"


def test_a_batch_holds_queries_with_one_passage(passages: Callable[..., Any]) -> None:
    from tiny_queries import SharedWords

    from experiments import stages
    from experiments.config import configure
    from experiments.preflight import overfit

    experiment = configure(passages("protocol.fold=0", "trainer.per_device_train_batch_size=27"))
    data = stages.open_data(experiment, stages.load(experiment))
    overfit(experiment, data, 2, experiment.root)
    assert SharedWords.fits[-1][1] == 27, "each has something to learn"
