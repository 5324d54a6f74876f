"""python -m experiments.compare: two runs of the same candidates, request by request."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import command
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from data.errors import UserError
from evaluate import evaluate
from experiments.building import build
from experiments.compare import compare
from experiments.comparison import compared
from experiments.examples import most_different
from experiments.launch import ROOT
from experiments.paired_runs import Side, read_sides
from experiments.significance import power
from train import train

Asked = Callable[..., dict[str, float]]
QUIET = ["diagnose=off", "protocol.primary=ndcg_at_5"]


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """asked("a=.. ", ...) is the command, from conf/compare.yaml on."""

    def ask(*overrides: str) -> dict[str, float]:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("compare", [f"paths.root={tmp_path}", *overrides])
        return compare(cfg)

    return ask


def made(config: Callable[..., DictConfig], root: Path, *overrides: str) -> str:
    """The name of a run that was made now."""
    before = set((root / "runs").glob("*"))
    train(config(*QUIET, *overrides))
    (new,) = set((root / "runs").iterdir()) - before
    return new.name


def per_request(root: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(root / "runs" / name / "per_request.parquet").set_index("request")


def test_differences_are_those_of_the_runs(
    config: Callable[..., DictConfig], asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, popular = (made(config, tmp_path, f"reranker={name}") for name in ("first_stage", "popularity"))
    capsys.readouterr()
    found = asked(f"a={first}", f"b={popular}", "examples=2")
    shown = capsys.readouterr().out
    a, b = per_request(tmp_path, first), per_request(tmp_path, popular)
    d = a["ndcg_at_5"] - b["ndcg_at_5"]
    assert found["difference"] == pytest.approx(d.mean()) and found["p"] < 0.01
    counts = [int((d > 0).sum()), int((d == 0).sum()), int((d < 0).sum())]
    assert f"{d.mean():+.4f}" in shown and " / ".join(map(str, counts)) in shown
    assert f"a is better for {counts[0]} requests, equal for {counts[1]}, worse for {counts[2]}" in shown
    assert "NDCG@5: a (first_stage) beats b (popularity) by +0." in shown
    assert (
        f", {d.mean() / b['ndcg_at_5'].mean():+.1%} of b's mean, d = {d.mean() / d.std():+.2f}; a is better" in shown
    )
    assert "as they equal a row above: NDCG@1, MRR@1, Hit@1" in " ".join(shown.split()) and "synthetic data" in shown
    backwards = asked(f"a={popular}", f"b={first}", "examples=0", "metric=hit_at_1")
    shown = capsys.readouterr().out
    hits = b["hit_at_1"] - a["hit_at_1"]
    assert backwards["difference"] == pytest.approx(hits.mean()) and "Hit@1: a (popularity) " in shown
    assert "Where" not in shown
    assert "Recall@1, NDCG@1, MRR@1" in " ".join(shown.split()), "of equal metrics the chosen one is shown"
    assert asked(f"a={first}", f"b={first}") == {}
    shown = capsys.readouterr().out
    assert "NDCG@5 is equal for every request" in shown and f"Warning: {first} is on both sides" in shown


def test_examples_are_where_they_differ_most(
    config: Callable[..., DictConfig], asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = ["candidates=full", "reranker={}"]
    first, popular = (made(config, tmp_path, *(w.format(name) for w in cfg)) for name in ("first_stage", "popularity"))
    capsys.readouterr()
    asked(f"a={first}", f"b={popular}", "examples=2")
    shown = capsys.readouterr().out
    a, b = per_request(tmp_path, first), per_request(tmp_path, popular)
    d = a["ndcg_at_5"] - b["ndcg_at_5"]
    node: Any = OmegaConf.to_container(config().dataset)
    demo = build(node, "dataset").load(tmp_path)
    title = dict(zip(demo.catalog.id, demo.catalog.title, strict=True))
    blocks = shown.split("=" * 100)[1:]
    assert len(blocks) == 4 and "b (popularity) is better than a (first_stage), 1 of 2" in blocks[0]
    for block, wanted in zip(blocks, [d.min(), None, d.max(), None], strict=True):
        request = block.split("Request ")[1].split(",")[0]
        if wanted is not None:
            assert d[request] == wanted
        items = demo.sequences.row(demo.user_id.tolist().index(request)).tolist()
        history = [title[demo.catalog.id[item]] for item in items[:-1][-10:]]
        listed = [line.strip().split(" [")[0] for line in block.splitlines() if line.startswith("  ")]
        assert listed[: len(history)] == history, "oldest first"
        ranks = f"(rank in a: {a.loc[request, 'rank']:.0f}; in b: {b.loc[request, 'rank']:.0f})"
        assert f"Relevant: {title[demo.catalog.id[items[-1]]]}" in block and ranks in block
        for name in (first, popular):
            predictions = pd.read_parquet(tmp_path / "runs" / name / "predictions.parquet")
            best = predictions[(predictions["request"] == request) & (predictions["rank"] <= 3)]["candidate"]
            assert all(title[item] in block for item in best)

    path = tmp_path / "runs" / first / "config.yaml"
    path.write_text(path.read_text().replace("n_users: 120", "n_users: 121"))
    assert asked(f"a={first}", f"b={popular}")["difference"] == pytest.approx(d.mean())
    shown = capsys.readouterr().out
    assert "The examples are left out: demo has other interactions" in shown
    assert "Relevant:" not in shown and "beats" in shown


def test_most_different_rows() -> None:
    advantage, closeness = np.array([0, 1, 1, -1, 0.5, -0.2]), np.array([9, 0.1, 0.9, -0.5, 0, -0.1])
    best, worst = most_different(advantage, closeness, 2)
    assert best.tolist() == [2, 1] and worst.tolist() == [3, 5]
    best, worst = most_different(abs(advantage), closeness, 10)
    assert len(best) == 5 and len(worst) == 0, "none where they are equal"


def test_seeds_are_averaged_request_by_request(
    config: Callable[..., DictConfig], asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = [made(config, tmp_path, "reranker=random", f"seed={seed}") for seed in range(3)]
    first = made(config, tmp_path, "reranker=first_stage")
    found = asked(f"a=[{','.join(seeds)}]", f"b=[{first}]", "examples=1")
    tables = [per_request(tmp_path, name) for name in seeds]
    mean = sum(table["ndcg_at_5"] for table in tables) / 3
    assert found["difference"] == pytest.approx((mean - per_request(tmp_path, first)["ndcg_at_5"]).mean())
    shown = capsys.readouterr().out
    assert "a = demo-random, seeds 0, 1, 2, b = demo-first_stage-" in shown and "a (random, seed 0)" in shown
    a, b = read_sides(tmp_path, "demo-random-*", "demo-first_stage*")
    assert sorted(folder.name for folder in a.folders) == sorted(seeds) and b.folders[0].name == first
    a, b = read_sides(tmp_path, seeds, [first])
    one = compared(a, b, ["ndcg_at_5"], "ndcg_at_5", 0).rows[0]
    assert one["power"] == power(one["difference"], float((mean - b.values("ndcg_at_5")).std()), len(mean))
    turned = compared(a, Side("b", *(x[1:] + x[:1] for x in (a.folders, a.manifests, a.tables))), ["mrr_at_20"], "", 0)
    assert not turned.rows or turned.rows[0]["equal"] == turned.n, "another order of the seeds is no difference"
    with pytest.raises(UserError, match=r"a= must name seeds of one method, and reranker._target_ is .*Random in"):
        asked(f"a=[{seeds[0]},{first}]", f"b={first}")
    for twice in (f"a=[{seeds[0]},{seeds[0]}]", f"a=['demo-random-*',{seeds[0]}]"):
        with pytest.raises(UserError, match="a= names a run twice"):
            asked(twice, f"b={first}")
    assert asked("a='demo-random-*'", "b='demo-first_*'", "examples=0") == pytest.approx(found)
    with pytest.raises(UserError, match=r"^a= must name seeds of one method"):
        asked("a='demo-*'", f"b={first}")
    with pytest.raises(UserError, match=r"^b=demo-vip5-\* is no run in "):
        asked(f"a={first}", "b='demo-vip5-*'")


def test_what_does_not_compare_is_refused(
    config: Callable[..., DictConfig], asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = made(config, tmp_path, "reranker=popularity")
    other = {
        "did not rank the same candidates .retrieved 20 .*; retrieved 15 ": "candidates.size=15",
        "tested on two versions of demo; repeat": "dataset.seed=1",
        "tested on other data .demo, my_demo.": "dataset.seed=2 dataset.name=my_demo",
        "tested on another split .LeaveOneOut; Temporal": "protocol=temporal",
    }
    for reason, words in other.items():
        name = made(config, tmp_path, "reranker=popularity", *words.split())
        with pytest.raises(UserError, match=reason):
            asked(f"a={base}", f"b={name}")
    same = made(config, tmp_path, "reranker=random")
    table = per_request(tmp_path, same).reset_index().iloc[1:]
    table.to_parquet(tmp_path / "runs" / same / "per_request.parquet")
    with pytest.raises(UserError, match="not asked the same requests: 1 are in the first alone and 0 in the second"):
        asked(f"a={base}", f"b={same}")
    for words, reason in {
        "metric=ndcg_at_7": "metric=ndcg_at_7 is not in both runs; choose recall_at_1, ",
        "out=table.pdf": "out=table.pdf is not written; choose a file that ends in .json, .md, .csv",
        "examples=-1": "examples=-1 is out of range",
        "b=nothing": "b=nothing is no run folder",
        "b=[]": r"b=\[\] names no run",
    }.items():
        with pytest.raises(UserError, match=reason):
            asked(f"a={base}", f"b={base}", words)
    done = command("-m", "experiments.compare", f"paths.root={tmp_path}", f"a={base}", f"b={name}")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_table_is_written(
    config: Callable[..., DictConfig], asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (made(config, tmp_path, f"reranker={name}") for name in ("first_stage", "random"))
    manifest = tmp_path / "runs" / b / "manifest.json"
    content = json.loads(manifest.read_text())
    content["labels"].append("diagnosis failed: made up")
    manifest.write_text(json.dumps(content))
    for suffix in ("json", "md", "csv"):
        asked(f"a={a}", f"b={b}", "examples=0", f"out={tmp_path / f'table.{suffix}'}")
    shown = capsys.readouterr().out
    assert "Warning: b's diagnosis failed: made up." in shown
    written = json.loads((tmp_path / "table.json").read_text())
    assert written["a"]["name"] == a and "diagnosis failed: made up" in written["b"]["labels"]
    assert written["verdict"] in shown and written["n_requests"] == 120
    rows = pd.read_csv(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(rows, pd.DataFrame(written["metrics"]), check_dtype=False)
    assert (rows["a"] - rows["b"]).to_numpy() == pytest.approx(rows["difference"])
    assert (rows[["a_better", "equal", "b_better"]].sum(axis=1) == 120).all()
    lines = (tmp_path / "table.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == len(rows) + 2 and len({line.count("|") for line in table}) == 1
    assert written["verdict"] in lines


def test_an_evaluation_is_compared_with_a_run(config: Callable[..., DictConfig], asked: Asked, tmp_path: Path) -> None:
    trained = made(config, tmp_path, "reranker=popularity")
    words = ["reranker={}", "candidates=sampled", *QUIET]
    folder = tmp_path / "runs" / trained
    evaluate(config(*(word.format("popularity") for word in words), f"run={folder}", name="evaluate"))
    (evaluation,) = (folder / "evaluations").iterdir()
    other = made(config, tmp_path, *(word.format("random") for word in words))
    found = asked(f"a={trained}/evaluations/{evaluation.name}", f"b={other}")
    tables = [pd.read_parquet(path / "per_request.parquet") for path in (evaluation, tmp_path / "runs" / other)]
    assert found["difference"] == pytest.approx(tables[0]["ndcg_at_5"].mean() - tables[1]["ndcg_at_5"].mean())
    (evaluation / "mlflow.json").write_text(json.dumps({"run_id": "abc"}))
    assert asked("a=abc", f"b={other}") == found
    with pytest.raises(UserError, match="did not rank the same candidates"):
        asked(f"a={trained}", f"b={evaluation}")


def test_pools_of_folds_are_compared(
    passages: Callable[..., Any], asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = [train(passages("diagnose=off")), train(passages("diagnose=off", "reranker=popularity"))]
    manifests = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("runs/*/manifest.json")}
    pools = {value["reranker"]: name for name, value in manifests.items() if "folds" in value}
    fold = next(name for name, value in manifests.items() if "folds" not in value)
    capsys.readouterr()
    found = asked(f"a={pools['shared_words']}", f"b={pools['popularity']}", "examples=3")
    assert found["difference"] == pytest.approx(metrics[0]["test/ndcg_at_5"] - metrics[1]["test/ndcg_at_5"])
    patterns = [f"{side}='{name.rpartition('-')[0]}-*'" for side, name in zip("ab", pools.values(), strict=True)]
    shown = capsys.readouterr().out
    assert asked(*patterns, "examples=0") == found, "the folds stand back behind their pool"
    assert "43 requests" in shown and "5 folds pooled" in shown and "<- relevant" in shown
    assert shown.count("Query: w") == shown.count("Where ") >= 3
    with pytest.raises(UserError, match=r"another split .fold=None; fold="):
        asked(f"a={pools['shared_words']}", f"b={fold}")
