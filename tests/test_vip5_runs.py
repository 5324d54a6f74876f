"""Whole runs of VIP5: what stands in the folder, interruptions, validation, labels, datasets that lack something."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import only_run
from safetensors.torch import load_file

from data.dataset import Dataset, Requests
from data.errors import UserError
from evaluate import evaluate
from experiments import inspect
from experiments.curves import read_curves
from experiments.runs import Run
from rerankers.checkpoints import MarkComplete
from rerankers.vip5.vip5 import Vip5
from train import train

VIP5 = ["reranker=vip5", "reranker.init=scratch", "reranker.scratch.d_model=16", "reranker.scratch.d_ff=32"]
VIP5 += ["reranker.visual_tokens=1", "reranker.tasks={sequential: 1, direct: 1, explanation: 1}"]
VIP5 += ["reranker.explanations=4", "reranker.max_answer_length=12", "reranker.validation_start_epoch=0"]
VIP5 += ["trainer.per_device_train_batch_size=32", "trainer.num_train_epochs=2", "trainer.learning_rate=5e-3"]
VIP5 += ["trainer.logging_steps=1", "diagnose=off"]
VIP5 += ["protocol.max_validation_requests=20"]
NEXT = ["reranker.tasks={sequential: 1, direct: 0, explanation: 0}"]  # alone, which is faster
Config = Callable[..., Any]


def curve(folder: Path, name: str) -> list[tuple[float, float]]:
    return [(point["epoch"], point["value"]) for point in read_curves(folder) if point["name"] == name]


def labels(folder: Path) -> list[str]:
    return json.loads((folder / "manifest.json").read_text())["labels"]


def test_a_run_and_the_same_interrupted_in_the_middle_of_an_epoch(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*VIP5, "trainer.eval_strategy=steps", "trainer.eval_steps=4", "reranker.scratch.dropout_rate=0.1"]
    train(config(*words, f"paths.root={tmp_path / 'a'}"))
    folder = only_run(tmp_path / "a")
    families = {"train_sequential_loss", "train_direct_loss", "train_explanation_loss"}
    curves = pd.DataFrame(read_curves(folder))
    assert set(curves["name"]) >= families | {"train_loss", "chance_loss", "valid_recall_at_10"}
    assert "train_rerank_loss" not in set(curves["name"])
    cost = json.loads((folder / "cost.json").read_text())
    assert cost["trainable_parameters"] == cost["total_parameters"] > 10_000

    written = json.loads((folder / "explanations.json").read_text())
    assert "training part" in written.pop("of") and list(written) == ["most_frequent", "C-3", "C-12"]
    for name, found in written.items():
        assert found["number"] == 4 and {"bleu_4", "rouge_1", "rouge_2", "rouge_l"} <= set(found), name
    assert len(written["C-3"]["examples"]) == 4 and "stars" in written["C-3"]["examples"][0]["prompt"]

    save, kill = MarkComplete.on_save, [8, 16]
    assert kill[0] < curves["step"].max() / 2 < kill[1], "the second is in the middle of the second epoch"

    def killed(self: MarkComplete, args: Any, state: Any, control: Any, **more: Any) -> None:
        save(self, args, state, control, **more)
        if state.global_step in kill:
            kill.remove(state.global_step)
            raise KeyboardInterrupt

    monkeypatch.setattr(MarkComplete, "on_save", killed)
    again = config(*words, f"paths.root={tmp_path / 'b'}")
    for _ in (8, 16):
        with pytest.raises(KeyboardInterrupt):
            train(again)
    again.trainer.dataloader_num_workers = 1
    train(again)
    other = only_run(tmp_path / "b")
    for name in ("metrics.json", "explanations.json"):
        assert (other / name).read_bytes() == (folder / name).read_bytes(), name
    same = ["name", "step", "epoch", "value"]
    pd.testing.assert_frame_equal(curves[same], pd.DataFrame(read_curves(other))[same])


def test_validation_begins_where_it_is_told_to(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*VIP5, *NEXT, "trainer.num_train_epochs=3"]
    metrics = train(config(*words, "reranker.validation_start_epoch=2"))
    folder = only_run(tmp_path)
    points = curve(folder, "valid_recall_at_10")
    assert [epoch for epoch, _ in points] == [2, 3]
    assert metrics["valid/recall_at_10"] == pytest.approx(max(value for _, value in points))
    assert not (folder / "explanations.json").exists() and "no validation" not in caplog.text
    never = tmp_path / "never"
    words += ["reranker.validation_start_epoch=4", "trainer.num_train_epochs=1"]
    metrics = train(config(*words, f"paths.root={never}"))
    assert not curve(only_run(never), "valid_recall_at_10") and "valid/recall_at_10" in metrics
    told = caplog.text.split("no validation, so the last model stays: ")[1:]
    assert len(told) == 1 and "num_train_epochs" in told[0] and "reranker.validation_start_epoch=4" in told[0]
    caplog.clear()
    few = [*words[:-2], "trainer.max_steps=3", "reranker.validation_start_epoch=1"]
    train(config(*few, f"paths.root={tmp_path / 'few'}"))
    assert "ends after 0.75 epochs" in caplog.text


def test_the_best_model_by_validation_loss(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of these three losses the second is the least; a refit then takes two epochs."""
    losses, seen, fitted = iter([3.0, 1.0, 2.0]), [], []
    fit = Vip5.fit

    def loss(reranker: Vip5, requests: Requests) -> float:
        seen.append(reranker.network.t5.shared.weight.detach().clone())
        return next(losses)

    monkeypatch.setattr("rerankers.vip5.vip5.loss", loss)

    def kept(self: Vip5, *given: Any) -> None:
        fitted.append(self)
        fit(self, *given)

    monkeypatch.setattr(Vip5, "fit", kept)
    words = ["reranker.validation=loss", "trainer.num_train_epochs=3", "protocol.refit_on_validation=true"]
    train(config(*VIP5, *NEXT, *words))
    assert curve(only_run(tmp_path), "valid_negative_loss") == [(1, -3), (2, -1), (3, -2)]
    chosen, refit = fitted
    assert [torch.equal(chosen.network.t5.shared.weight, own) for own in seen] == [False, True, False]
    assert refit.trainer.num_train_epochs == 2


def test_what_must_stand_beside_the_numbers(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = ["trainer.num_train_epochs=0", "reranker.id_scheme=p5_sequential", "reranker.pictures=shuffled"]
    cfg = config(*VIP5, *words)
    train(cfg)
    shown = " ".join(capsys.readouterr().out.split())
    told = labels(only_run(tmp_path))
    for text in ("untrained", "random-weight CLIP", "ablation: each item has another's picture", "they leak"):
        assert text in shown and any(text in label for label in told), text
    assert caplog.text.count("they leak (reranker.id_scheme=p5_sequential)") >= 1
    caplog.clear()
    again = config(*VIP5, *words, f"+run={only_run(tmp_path)}", "candidates=sampled")
    evaluate(again)
    assert "they leak (reranker.id_scheme=p5_sequential)" in caplog.text, "at every use"
    (evaluation,) = (only_run(tmp_path) / "evaluations").iterdir()
    assert set(told) <= set(labels(evaluation))
    own = train(config(*VIP5, *words[:2], f"paths.root={tmp_path / 'own'}"))
    assert own != json.loads((only_run(tmp_path) / "metrics.json").read_text())


def test_a_finished_run_is_evaluated_and_inspected(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*VIP5, "trainer.max_steps=8", "reranker.explanations=0"]
    metrics = train(config(*words))
    words.append(f"+run={only_run(tmp_path)}")
    assert evaluate(config(*words)) == metrics
    other = evaluate(config(*words, "candidates=full", "reranker.scorer=beam", "reranker.beams=3"))
    assert other.keys() >= {"test/recall_at_10", "test/tie_rate"} and "scorer=beam" in capsys.readouterr().out
    inspect.inspect(config(*words, "reranker.scorer=yes_no", "+n=2", "+user=null"))
    shown = capsys.readouterr().out
    assert shown.count("What it reads") == 2 and "likely to be bought next by" in shown and "<extra_id_0>" in shown


def test_the_preflight(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.preflight.SECONDS", 0.1)
    monkeypatch.setattr("rerankers.vip5.vip5.explained", lambda *a, **k: pytest.fail("nobody reads explanations here"))
    assert train(config(*VIP5, "check=true")) == {}
    shown = capsys.readouterr().out
    assert "What vip5 reads of the first validation request" in shown and "Time:" in shown
    assert not (tmp_path / "runs").exists()


def features_file(demo: Dataset, path: Path) -> Path:
    """Of every second item."""
    ids = demo.catalog.id[::2].astype(str)
    np.savez(path, item_id=ids, features=np.random.default_rng(0).normal(size=(len(ids), 5)).astype(np.float32))
    return path


def test_features_of_a_file_take_the_place_of_an_encoder(
    config: Config, demo: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rerankers.vip5.vip5.image_features", lambda *a, **k: pytest.fail("encoded"))
    path = features_file(demo, tmp_path / "features.npz")
    train(config(*VIP5, f"dataset.image_features={path}", "trainer.max_steps=12"))
    folder = only_run(tmp_path)
    weights = load_file(folder / "model" / "model.safetensors")
    assert weights["projector.hidden.weight"].shape[1] == 5
    assert weights["no_picture"].any(), "the vector of items without a picture is trained"
    assert not any("CLIP" in label for label in labels(folder))

    path.with_suffix(".json").write_text('{"name": "random"}')  # as experiments.enrich says who made them
    train(config(*VIP5, f"dataset.image_features={path}", "trainer.max_steps=12", "force=true"))
    assert "random-weight CLIP" in labels(folder)


def test_neither_pictures_nor_titles_nor_reviews(config: Config, demo: Dataset, tmp_path: Path) -> None:
    ids = demo.catalog.id
    lines = [" ".join([str(user), *ids[demo.sequences.row(user)]]) for user in range(120)]
    (tmp_path / "sequences.txt").write_text("\n".join(lines))
    words = ["dataset=sequences", f"dataset.path={tmp_path}", "dataset.items=null", "candidates.size=20", *VIP5]
    with pytest.raises(UserError, match=r"reranker=vip5 needs images, .* dataset.images= or dataset.image_features="):
        train(config(*words, small=False))
    metrics = train(config(*words, "reranker.visual_tokens=0", small=False))
    folder = only_run(tmp_path)
    assert any("no pictures" in label for label in labels(folder)) and metrics["test/n_requests"] == 120
    assert not (folder / "explanations.json").exists() and not curve(folder, "train_explanation_loss")


def test_other_protocols(config: Config, tmp_path: Path) -> None:
    words = ["protocol=temporal", "dataset.seed=1", "candidates=full", "trainer=low_memory", "trainer.max_steps=2"]
    metrics = train(config(*VIP5, *words, "reranker.tasks.rerank=1"))
    assert metrics["test/n_requests"] == 9 and curve(only_run(tmp_path), "train_rerank_loss")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "reranker.model=google-t5/t5-small cannot be loaded"),
        (["reranker.init=scratch", "reranker.image_encoder=nobody/clip"], "reranker.image_encoder=nobody/clip"),
        (["reranker.init=scratch", "reranker.image_encoder=/nowhere"], "reranker.image_encoder=/nowhere"),
        (["reranker.model=/nowhere"], "reranker.model=/nowhere: there is no such folder"),
        (["reranker.init=scratch", "reranker.scorer=list", "candidates=full"], "reranker.scorer=list"),
        (["reranker.init=scratch", "reranker.scorer=yes_no", "candidates=full"], "reranker.scorer=yes_no names"),
        (["reranker.init=scratch", "reranker.training_candidates=60"], "reranker.training_candidates"),
        (["reranker.init=scratch", "+reranker.tasks.explain=3"], "unknown key reranker.tasks.explain"),
        (
            ["reranker.init=scratch", "trainer.num_train_epochs=3", "trainer.early_stopping_patience=2"],
            "trainer.early_stopping_patience=2 needs validation, which never comes: trainer.num_train_epochs",
        ),
        (["reranker.init=scratch", "reranker.scratch.d_model=0"], "reranker.scratch.d_model=0 is out of range"),
    ],
)
def test_mistakes_end_in_one_sentence(words: list[str], says: str, config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        train(config("reranker=vip5", *words))
    assert says in str(raised.value) and "\n" not in str(raised.value)
    assert not Run(tmp_path / "runs").complete and not list(tmp_path.glob("runs/*/model"))
