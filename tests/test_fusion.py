"""The row of reranker and first stage added: what is added, how the weight is chosen, and where it stands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL, command, only_run, random_requests
from scipy import stats

from data.dataset import Relevance, Requests
from data.errors import UserError
from experiments.config import configure
from experiments.evaluation import Evaluator
from experiments.fusion import choose, fused, mixed, name_of, standardized
from experiments.significance import holm
from train import train

ONE = ["protocol.fold=0", "protocol.primary=ndcg_at_5"]
LOWEST = np.finfo(np.float32).min


def test_scores_are_z_scores_of_the_candidates() -> None:
    candidates = np.array([[1, 2, 3, 4], [1, 2, 3, -1], [1, 2, 3, 4], [1, 2, 3, 4], [-1, -1, -1, -1]])
    scores = np.array(
        [
            [1.0, 2.0, 3.0, 6.0],
            [1.0, 2.0, 6.0, 99.0],
            [-np.inf, 5.0, 1.0, LOWEST],
            [0.1, 0.1, 0.1, 0.1],
            [1.0, 2.0, 3.0, 4.0],
        ],
        dtype=np.float32,
    )
    found = standardized(scores, candidates)
    assert found[0] == pytest.approx(stats.zscore(scores[0]))
    assert found[1, :3] == pytest.approx(stats.zscore(scores[1, :3])) and found[1, 3] == 0
    assert found[2] == pytest.approx(stats.zscore([1.0, 5.0, 1.0, 1.0])), "not linked: as the smallest that is"
    assert (found[3:] == 0).all() and np.isfinite(found).all()


def two_halves(n: int) -> tuple[Evaluator, np.ndarray]:
    """Requests whose truth the reranker knows in one half and the first stage, of another scale, in the other."""
    rng = np.random.default_rng(0)
    requests, relevance = random_requests(rng, n, 10, 40)
    truth = np.array([np.isin(row, items) for row, items in zip(requests.candidates, rows(relevance), strict=True)])
    own, first = rng.normal(size=(2, n, 10))
    own[: n // 2] += 4 * truth[: n // 2]
    first[n // 2 :] += 4 * truth[n // 2 :]
    requests = Requests(
        catalog=requests.catalog,
        ids=requests.ids,
        histories=requests.histories,
        candidates=requests.candidates,
        first_stage_items=requests.candidates,
        first_stage_values=(1000 + 500 * first).astype(np.float32),
    )
    return Evaluator(requests, relevance, ["ndcg"], [5], 0), own.astype(np.float32)


def rows(relevance: Relevance) -> list[np.ndarray]:
    return [relevance.items.row(i) for i in range(len(relevance))]


def test_the_weight_is_the_best_of_validation() -> None:
    evaluator, own = two_halves(200)
    weight = choose(evaluator, own, "ndcg_at_5")
    values = {w: fused(evaluator, own, w).means["ndcg_at_5"] for w in np.arange(11) / 10}
    assert weight in (0.4, 0.5, 0.6) and values[weight] == max(values.values())
    assert values[0.0] == evaluator(lambda r: r.first_stage_scores).means["ndcg_at_5"]
    assert values[1.0] == evaluator(lambda r: own).means["ndcg_at_5"]
    first = evaluator.requests.first_stage_scores
    assert first is not None and choose(evaluator, first, "ndcg_at_5") == 0, "equally good: the smallest"
    assert (name_of(0.3), name_of(1.0), name_of([0.2, 0.5, 0.2]), name_of([0.3, 0.3])) == (
        "w=.30",
        "w=1.00",
        "w=.20-.50",
        "w=.30",
    )


def test_slices_are_fused_with_their_own_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator, own = two_halves(30)
    whole = fused(evaluator, own, 0.5).values["ndcg_at_5"]
    monkeypatch.setattr("experiments.evaluation.CELLS", 70)  # 7 requests
    assert (fused(evaluator, own, 0.5).values["ndcg_at_5"] == whole).all()
    direct = evaluator(lambda part: mixed(part, own[part.ids], 0.5)).values["ndcg_at_5"]
    assert (whole == direct).all()


def test_fused_and_untuned_are_rows_of_their_own(
    passages: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = train(passages(*ONE))
    folder = only_run(tmp_path)
    table = pd.read_parquet(folder / "per_request.parquet")
    manifest = json.loads((folder / "manifest.json").read_text())
    weight = manifest["fusion_weight"]
    assert weight == json.loads((folder / "model" / "training.json").read_text())["fusion_weight"]
    for row in ("fused", "untuned"):
        assert metrics[f"test/{row}/ndcg_at_5"] == table[f"{row}/ndcg_at_5"].mean()
    difference = table["fused/ndcg_at_5"] - table["first_stage/ndcg_at_5"]
    assert metrics["test/fused_vs_first_stage/difference"] == pytest.approx(difference.mean())
    difference = table["ndcg_at_5"] - table["untuned/ndcg_at_5"]
    assert metrics["test/vs_untuned/difference"] == pytest.approx(difference.mean())
    family = [f"vs_{row}" for row in ("chance", "popularity", "first_stage", "untuned")] + ["fused_vs_first_stage"]
    p = [metrics[f"test/{which}/p_permutation"] for which in family]
    assert [metrics[f"test/{which}/p_holm"] for which in family] == holm(p)
    assert metrics["test/ndcg_at_5"] > metrics["test/untuned/ndcg_at_5"]
    shown = capsys.readouterr().out
    for text in ("untuned", "label prior", f"fused with it ({name_of(weight)}) it", "the model before its training"):
        assert text in shown
    assert "popularity" not in shown


def test_the_untuned_model_is_scored_once_before_the_training(
    passages: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_queries import SharedWords

    from experiments import conclude

    written = conclude.conclude
    monkeypatch.setattr(conclude, "conclude", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(passages(*ONE))
    assert [epochs for epochs, _ in SharedWords.fits] == [0, 2], "before: two models are never in memory at a time"
    monkeypatch.setattr(conclude, "conclude", written)
    metrics = train(passages(*ONE))
    assert len(SharedWords.fits) == 2, "a resumed run has its values"
    assert metrics["test/untuned/ndcg_at_5"] < metrics["test/ndcg_at_5"]
    folder = only_run(tmp_path)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]

    train(passages(*ONE, "trainer.num_train_epochs=0"))
    assert len(SharedWords.fits) == 3, "what is not trained is no other row"


def test_reports_and_checkpoints_stay_in_the_run(passages: Callable[..., Any], tmp_path: Path) -> None:
    train(passages(*ONE))
    folder = only_run(tmp_path)
    assert json.loads((folder / "training_info.json").read_text()) == {"epochs": 2, "name": "shared_words"}
    assert not (folder / "checkpoints").exists()
    kept = sorted(str(path.relative_to(folder)) for path in folder.glob("checkpoint-*/*"))
    assert kept == ["checkpoint-1/model.safetensors", "checkpoint-2/model.safetensors"], "no pickle, nothing torn"


def test_fusion_is_another_run_where_there_is_something_to_fuse(config: Callable[..., Any], demo: Any) -> None:
    identities = {configure(config(f"protocol.fusion={how}")).identity(demo) for how in ("none", "validation", 0.3)}
    assert len(identities) == 3 and configure(config()).identity(demo) in identities
    for words in (["candidates=full"], ["reranker=first_stage"]):
        metrics = train(config("reranker=popularity", "protocol.fusion=validation", *words))
        assert "test/fused/recall_at_10" not in metrics
    for wrong in ("best", "1.5", "true", "null"):
        with pytest.raises(UserError, match="choose none, validation or a number"):
            configure(config(f"protocol.fusion={wrong}"))


def test_evaluate_fuses_a_run_that_was_not(tmp_path: Path) -> None:
    root = [f"paths.root={tmp_path}", "tracking=none"]
    assert command("train.py", *root, *SMALL, "reranker=popularity").returncode == 0
    done = command("evaluate.py", *root, "run=latest", "protocol.fusion=0.3")
    assert done.returncode == 0 and "w=.30" in done.stdout, done.stderr
    assert "untuned" not in done.stdout
