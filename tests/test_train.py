"""The commands from end to end: one run, one folder; repeats, kills, sweeps, evaluations, errors."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, SMALL, TINY, command, only_run

from data.errors import UserError
from evaluate import compare, with_overrides_of_the_run
from experiments.config import configure
from experiments.curves import read_curves
from experiments.metrics import NAMES
from experiments.runs import Run
from experiments.significance import holm
from train import train


def test_a_run_from_config_to_table(
    config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config(*QUICK, f"protocol.metrics=[{','.join(NAMES)}]")
    metrics = train(cfg)
    folder = only_run(tmp_path)
    written = {path.name for path in folder.iterdir()}
    assert written >= {
        "config.yaml", "overrides.yaml", "environment.json", "curves.jsonl", "metrics.json", "cost.json",
        "per_request.parquet", "predictions.parquet", "model", "diagnosis.json", "manifest.json",
    }  # fmt: skip
    assert not (folder / "checkpoints").exists()
    assert metrics == json.loads((folder / "metrics.json").read_text())

    table = pd.read_parquet(folder / "per_request.parquet")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert len(table) == 120 == metrics["test/n_requests"]
    for name in ("recall_at_10", "map_at_5", "precision_at_20"):
        assert table[name].mean() == pytest.approx(metrics[f"test/{name}"])
        assert table[f"first_stage/{name}"].mean() == pytest.approx(metrics[f"test/first_stage/{name}"])
        ceiling, chance = metrics[f"test/ceiling/{name}"], metrics[f"test/chance/{name}"]
        assert max(metrics[f"test/{name}"], chance) <= ceiling + 1e-12
        assert metrics[f"test/low/{name}"] <= metrics[f"test/{name}"] <= metrics[f"test/high/{name}"]
        if "precision" not in name:
            assert ceiling == pytest.approx(metrics["test/share_with_a_hit"])
        conditional = table[table["found"] > 0][name].mean()
        assert metrics[f"test/conditional/{name}"] == pytest.approx(conditional)
    p = [metrics[f"test/vs_{row}/p_permutation"] for row in ("chance", "popularity", "first_stage")]
    assert [metrics[f"test/vs_{row}/p_holm"] for row in ("chance", "popularity", "first_stage")] == holm(p)
    assert metrics["test/planted/recall_at_10"] > metrics["test/chance/recall_at_10"]
    assert metrics["test/ceiling/recall_at_20"] == pytest.approx(table["found"].mean())
    first = predictions[predictions["request"] == predictions["request"].iloc[0]]
    assert first["rank"].tolist() == list(range(1, 21))
    assert first["score"].is_monotonic_decreasing

    curves = pd.DataFrame(read_curves(folder))
    assert set(curves["name"]) >= {"train_loss", "learning_rate", "grad_norm", "valid_recall_at_10"}
    assert (curves["cpu_seconds"] > 0).all() and curves["wall_seconds"].is_monotonic_increasing
    losses = curves[curves["name"] == "train_loss"]
    assert losses["step"].tolist() == list(range(1, len(losses) + 1))
    best = curves[curves["name"] == "valid_recall_at_10"]["value"].max()
    assert metrics["valid/recall_at_10"] == pytest.approx(best), "the best model by validation is reported"
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["transformers"].startswith("5.")
    cost = json.loads((folder / "cost.json").read_text())
    assert cost["trainable_parameters"] == cost["total_parameters"] > 1000
    assert cost["training_seconds"] > 0 and cost["milliseconds_per_request"] > 0

    shown = capsys.readouterr().out
    for text in ("chance", "first stage", "planted", "Recall@10", "smallest difference", "synthetic data", "Cost:"):
        assert text in shown
    stamp = (folder / "metrics.json").stat().st_mtime_ns
    assert train(cfg) == metrics
    assert "is finished already" in capsys.readouterr().out
    assert (folder / "metrics.json").stat().st_mtime_ns == stamp
    cfg.force = True
    assert train(cfg) == metrics
    assert (folder / "metrics.json").stat().st_mtime_ns > stamp


@pytest.mark.parametrize("refit", [False, True])
def test_each_request_has_its_rank_and_how_popular_its_item_is(
    refit: bool, config: Callable[..., Any], tmp_path: Path
) -> None:
    cfg = config("reranker=popularity", "candidates=retrieved", f"protocol.refit_on_validation={str(refit).lower()}")
    train(cfg)
    table = pd.read_parquet(only_run(tmp_path) / "per_request.parquet").set_index("request")
    experiment = configure(cfg)
    dataset = experiment.source.load(tmp_path)
    held_out = 1 if refit else 2
    sequences = [dataset.sequences.row(user).tolist() for user in range(len(dataset.user_id))]
    taken = Counter(item for items in sequences for item in items[:-held_out])
    for user, items in zip(dataset.user_id, sequences, strict=True):
        assert table.loc[user, "target_popularity"] == taken[items[-1]]
    assert table["target_popularity"].dtype == table["rank"].dtype == np.float64
    assert (table["rank"].isna() == (table["found"] == 0)).all() and table["rank"].isna().any()
    for k in (1, 5, 10, 20):
        assert ((table["rank"] <= k) == (table[f"hit_at_{k}"] == 1)).all()


@pytest.mark.parametrize("overrides", [["trainer=low_memory"], ["trainer=quick"], ["trainer.eval_strategy=no"]])
def test_trainer_presets(overrides: list[str], config: Callable[..., Any]) -> None:
    metrics = train(config(*TINY, "trainer.num_train_epochs=1", *overrides))
    assert metrics["test/n_requests"] == 120


@pytest.mark.parametrize("candidates", ["sampled", "retrieved", "full"])
@pytest.mark.parametrize("protocol", ["leave_one_out", "temporal"])
def test_every_protocol_with_every_kind_of_candidates(
    candidates: str, protocol: str, config: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = train(config("reranker=first_stage", f"candidates={candidates}", f"protocol={protocol}"))
    other = train(config("reranker=random", f"candidates={candidates}", f"protocol={protocol}"))
    for name in ("chance/recall_at_10", "ceiling/ndcg_at_5", "share_with_a_hit"):
        assert metrics[f"test/{name}"] == other[f"test/{name}"], "they are of the candidates, not of the reranker"
    for name in ("recall_at_10", "ndcg_at_5"):
        assert metrics[f"test/{name}"] == metrics[f"test/first_stage/{name}"]
    assert ("sampled metrics" in capsys.readouterr().out) == (candidates == "sampled")
    assert ("test/conditional/recall_at_10" in metrics) == (candidates == "retrieved")


def test_random_is_called_chance(config: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    train(config("reranker=random", "dataset.n_users=600"))
    assert "cannot be told from chance" in capsys.readouterr().out


def test_a_model_that_learned_nothing_is_called_chance(
    config: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    train(config(*TINY, "trainer.num_train_epochs=0"))
    shown = capsys.readouterr().out
    assert "untrained" in shown
    assert "is what chance gives" in shown


def test_refit_on_validation_trains_on_it_for_the_best_number_of_epochs(
    config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerankers.bert4rec import BERT4Rec

    calls = []
    fit = BERT4Rec.fit
    monkeypatch.setattr(
        BERT4Rec,
        "fit",
        lambda self, dataset, split, validate, log: (
            calls.append((len(split.train.histories.values), self.trainer.num_train_epochs, validate is None)),
            fit(self, dataset, split, validate, log),
        )[1],
    )
    train(config(*QUICK, "protocol.refit_on_validation=true"))
    (first, second) = calls
    assert second[0] == first[0] + 120 and not first[2] and second[2]
    points = [p for p in read_curves(only_run(tmp_path)) if p["name"] == "valid_recall_at_10"]
    assert second[1] == max(points, key=lambda p: p["value"])["epoch"]


def test_evaluate_takes_the_runs_overrides_and_new_ones(tmp_path: Path) -> None:
    root = f"paths.root={tmp_path}"
    assert command("train.py", root, "tracking=none", *SMALL, "reranker=popularity", "seed=3").returncode == 0
    folder = only_run(tmp_path)
    done = command("evaluate.py", root, "run=latest", "candidates=full", "protocol.filter_seen=false")
    assert done.returncode == 0, done.stderr
    (evaluation,) = (folder / "evaluations").iterdir()
    manifest = json.loads((evaluation / "manifest.json").read_text())
    assert manifest["candidates"] == "the full catalogue" and manifest["seed"] == 3
    assert json.loads((evaluation / "environment.json").read_text())["command"][0] == "evaluate.py"
    for word in ("reranker.path=x.csv", "seed=7", "trainer.learning_rate=1"):
        with pytest.raises(UserError, match="belongs to the training of the run"):
            with_overrides_of_the_run([root, "run=latest", word])
    moved = with_overrides_of_the_run([root, "run=latest", "dataset=ml_100k"])
    assert not [word for word in moved if word.startswith("dataset.n_users")], "the old group's keys go with it"
    other = command("evaluate.py", root, "run=latest", "dataset.mean_length=8")
    assert other.returncode == 0 and "trained on other data" in other.stdout
    again = command("evaluate.py", root, f"run={folder.name}")
    assert again.returncode == 0, again.stderr
    name = folder.name.rpartition("-")[2]  # the same settings have the same hash
    assert (folder / "evaluations" / name / "metrics.json").read_bytes() == (folder / "metrics.json").read_bytes()


def test_a_model_is_not_tested_on_what_it_was_trained_on(config: Callable[..., Any], demo: Any) -> None:
    from experiments.config import configure
    from experiments.stages import trained_on

    trained = trained_on(configure(config()), demo)
    assert compare(trained, trained_on(configure(config("candidates=full", "protocol.filter_seen=false")), demo)) == []
    for word in ("protocol=temporal", "protocol.refit_on_validation=true"):
        with pytest.raises(UserError, match="would test it on what it has seen"):
            compare(trained, trained_on(configure(config(word)), demo))
    (label,) = compare({**trained, "interactions_sha256": "other"}, trained)
    assert "trained on other data" in label


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train.py", "reranker=nope"], "error: reranker=nope does not exist; choose bert4rec"),
        (["train.py", "trainer.learning_rate=abc"], "error: trainer.learning_rate=abc has the wrong type"),
        (["train.py", "dataset=ml_100k", "dataset.path=/nowhere"], "error: dataset.path=/nowhere does not exist"),
        (["evaluate.py", "run=latest"], "has no finished run"),
        (["evaluate.py"], "error: run is missing; give run=..."),
        (["-m", "experiments.benchmark", "target=nope"], "error: target=nope does not exist; choose bert4rec"),
    ],
)
def test_mistakes_end_in_one_sentence_and_exit_code_2(words: list[str], says: str, tmp_path: Path) -> None:
    done = command(*words, f"paths.root={tmp_path}")
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_sweep_goes_on_when_jobs_fail(tmp_path: Path) -> None:
    grid = ["reranker=random,nope,first_stage", "candidates.size=20,2000"]
    done = command("train.py", "-m", *grid, f"paths.root={tmp_path}", "tracking=none", *SMALL[:3])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout.count("reranker=nope does not exist") == 3  # once in the plan, of each job under the table
    assert done.stderr.count("job failed: candidates.size=2000 exceeds the catalogue") == 2
    assert "error: 2 jobs of the sweep failed; the first: candidates.size=2000 exceeds" in done.stderr
    assert sorted(path.name.split("-")[1] for path in (tmp_path / "runs").iterdir()) == ["first_stage", "random"]
    assert all((path / "manifest.json").exists() for path in (tmp_path / "runs").iterdir())


def test_help_names_the_groups_and_imports_nothing_heavy() -> None:
    done = command("train.py", "--help")
    assert "reranker: bert4rec" in done.stdout
    light = "import sys, train; sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'mlflow', 'scipy')))"
    assert command("-c", light).returncode == 0


def test_nothing_is_half_written_when_the_data_is_bad(config: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "u.item").write_text("")
    (tmp_path / "u.data").write_text("1\t2\n")
    with pytest.raises(UserError, match="line 1"):
        train(config("dataset=ml_100k", f"dataset.path={tmp_path}", "reranker=random", small=False))
    assert not (tmp_path / "runs").exists() and not (tmp_path / "cache").exists()
    (tmp_path / "u.data").write_text("1\t2\t3\t4\n")
    with pytest.raises(UserError, match="has no film"):
        train(config("dataset=ml_100k", f"dataset.path={tmp_path}", "reranker=random", small=False))


def test_real_movielens_end_to_end(config: Callable[..., Any], shared_data: Path) -> None:
    path = f"dataset.path={shared_data / 'ml-100k'}"
    metrics = train(config("dataset=ml_100k", path, "reranker=first_stage", "candidates=full", small=False))
    assert metrics["test/ndcg_at_10"] >= 0.10  # EASE with recency, fit on train only, history filtered
    retrieved = train(config("dataset=ml_100k", path, "reranker=first_stage", small=False))
    assert retrieved["test/ceiling/recall_at_50"] >= 0.44
    assert retrieved["test/ndcg_at_10"] == pytest.approx(metrics["test/ndcg_at_10"])


def test_a_second_process_says_that_it_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, held = Run(tmp_path / "runs" / "a"), threading.Event()

    def other() -> None:
        until = time.monotonic() + 60
        with run.lock(tmp_path):
            held.set()
            while "waiting for it" not in caplog.text and time.monotonic() < until:
                time.sleep(0.01)

    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(60)
    with run.alone(tmp_path):
        assert "another process is at work on a; waiting for it" in caplog.text
    thread.join()
    caplog.clear()
    with run.alone(tmp_path):
        assert not caplog.text
