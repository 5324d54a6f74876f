"""The contract, for every YAML in conf/reranker: fit, score, save, load; order, batch size, another catalogue.

VIP5 has it with each of its scorers. The presets of viranker have its class and other numbers;
test_cross_encoder_models.py reads them.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.candidates import Prepared
from data.dataset import Dataset, Requests
from data.errors import UserError
from data.splits import Split
from experiments.config import Experiment, configure
from experiments.launch import ROOT
from rerankers.base import KINDS, Reranker, missing

RERANKERS = sorted(path.stem for path in (ROOT / "conf/reranker").glob("*.yaml") if "viranker_" not in path.stem)
SMALL_MODEL = ["reranker.hidden_size=16", "reranker.num_attention_heads=2", "reranker.max_length=12"]
TINY = dict.fromkeys(["bert4rec", "sasrec"], SMALL_MODEL)
TINY["qwen_letter"] = ["reranker.init=scratch", "reranker.scratch.hidden_size=16", "trainer.learning_rate=1e-3"]
TINY["viranker"] = ["reranker.init=scratch", "reranker.scratch.hidden_size=16", "reranker.max_length=48"]
TINY["viranker"] += ["trainer.per_device_train_batch_size=64", "trainer.gradient_accumulation_steps=1"]
TINY["vip5"] = ["reranker.init=scratch", "reranker.scratch.d_model=16", "reranker.scratch.d_ff=32"]
TINY["vip5"] += ["reranker.tasks={sequential: 2, direct: 1, explanation: 1}", "reranker.explanations=4"]
TINY["vip5"] += ["reranker.visual_tokens=1", "reranker.validation_start_epoch=0"]
NEXT = "reranker.tasks={sequential: 1, direct: 0, explanation: 0}"
SCORERS = {"vip5 yes_no": [NEXT], "vip5 beam": [NEXT, "reranker.beams=60"]}  # with fewer the catalogue's differ
SCORERS["vip5 list"] = [NEXT, "reranker.permutations=2", "reranker.tasks.rerank=1"]


def write_scores(requests: Requests, path: Path) -> None:
    """A score for every request and item."""
    n = len(requests.catalog)
    assert requests.names is not None
    columns = {
        "request": np.repeat(requests.names, n),
        "candidate": np.tile(requests.catalog.id, len(requests)),
        "score": np.random.default_rng(0).random(n * len(requests)),
    }
    pd.DataFrame(columns).to_parquet(path)


@pytest.fixture(params=[*RERANKERS, *SCORERS])
def fitted(
    request: Any,
    config: Callable[..., Any],
    demo: Dataset,
    split: Split,
    candidates: Prepared,
    tmp_path_factory: pytest.TempPathFactory,
) -> Experiment:
    name, *scorer = request.param.split()
    words = [*TINY.get(name, []), *SCORERS.get(request.param, []), *(f"reranker.scorer={word}" for word in scorer)]
    if name == "file":
        write_scores(candidates.test, path := Path(str(tmp_path_factory.mktemp("scores"))) / "scores.parquet")
        words = [f"reranker.path={path}"]
    experiment = configure(config(f"reranker={name}", *words, "trainer.num_train_epochs=2"))
    reranker = experiment.reranker
    reranker.checkpoints = experiment.root / "checkpoints"
    reranker.trainer.eval_strategy, reranker.trainer.early_stopping_patience = "epoch", None
    logged: list[int] = []

    def validate(score: Callable[[Requests], np.ndarray]) -> dict[str, float]:
        return {experiment.protocol.primary: float(score(candidates.validation.take(slice(0, 20))).mean())}

    reranker.fit(demo, split, validate, lambda values, step: logged.append(step))
    assert bool(logged) == reranker.trains
    return experiment


def test_contract(fitted: Experiment, candidates: Prepared, demo: Dataset, tmp_path: Path) -> None:
    reranker, requests = fitted.reranker, candidates.test
    scores = reranker.score(requests)
    assert scores.shape == (len(requests), 20) and scores.dtype == np.float32
    assert not np.isnan(scores).any()
    assert np.array_equal(scores, reranker.score(requests)), "scoring is deterministic"

    folder = tmp_path / "model"
    folder.mkdir()
    reranker.save(folder)
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pt", ".bin")], "no pickle"
    loaded = replace(reranker)  # the same settings, nothing learned
    loaded.load(folder, requests)
    assert np.array_equal(scores, loaded.score(requests)), "saved and loaded models give identical scores"

    one_by_one = np.concatenate([reranker.score(requests.take(slice(r, r + 1))) for r in range(10)])
    assert np.allclose(one_by_one, scores[:10], atol=1e-5), "scores do not depend on what else is in the batch"

    assert requests.candidates is not None and requests.first_stage_items is not None
    order = np.argsort(np.random.default_rng(0).random((len(requests), 20)), axis=1)
    shuffled = replace(
        requests,
        candidates=np.take_along_axis(requests.candidates, order, 1),
        first_stage_items=np.take_along_axis(requests.first_stage_items, order, 1),
        first_stage_values=np.take_along_axis(requests.first_stage_values, order, 1),
    )
    if not reranker.order_sensitive:
        assert np.allclose(np.take_along_axis(scores, order, 1), reranker.score(shuffled), atol=1e-5)
    assert set(reranker.requires) <= set(KINDS)
    assert missing(reranker, demo) is None
    loss = reranker.chance_loss(requests)
    assert loss is None or loss > 0
    assert all(isinstance(value, np.ndarray) for value in reranker.facts(requests).values())


def test_whole_catalogue_agrees_with_candidates(fitted: Experiment, candidates: Prepared, demo: Dataset) -> None:
    reranker: Reranker = fitted.reranker
    requests = candidates.test.take(slice(0, 40))
    if (
        reranker.order_sensitive or getattr(reranker, "scorer", "") == "yes_no"
    ):  # or a prompt for each; letters end at 52
        with pytest.raises(UserError, match=r"letters|names candidates"):
            reranker.score(replace(requests, candidates=None))
        return
    whole = reranker.score(replace(requests, candidates=None))
    assert whole.shape == (len(requests), len(demo.catalog))
    listed = reranker.score(requests)
    assert requests.candidates is not None
    assert np.allclose(np.take_along_axis(whole, requests.candidates, 1), listed, atol=1e-5)


@pytest.mark.parametrize("name", ["bert4rec", "sasrec", "popularity", "vip5"])
def test_id_models_map_their_items_onto_another_catalogue(
    name: str, config: Callable[..., Any], demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path
) -> None:
    experiment = configure(config(f"reranker={name}", *TINY.get(name, []), "trainer.max_steps=2"))
    reranker = experiment.reranker
    reranker.checkpoints = tmp_path / "checkpoints"
    reranker.fit(demo, split, None, lambda values, step: None)
    (folder := tmp_path / "model").mkdir()
    reranker.save(folder)
    requests = candidates.test
    scores = reranker.score(requests)

    # the same items in another order, and one item that the model never knew
    order = np.random.default_rng(1).permutation(len(demo.catalog))
    row_of_old = np.argsort(order).astype(np.int32)
    whole = {field: getattr(demo.catalog, field) for field in demo.catalog.__dataclass_fields__}
    columns = {field: column[order] for field, column in whole.items() if isinstance(column, np.ndarray)}
    extended = {field: np.append(column, np.empty(1, dtype=object)) for field, column in columns.items()}
    extended["id"][-1] = "new"
    moved = replace(
        requests,
        catalog=replace(demo.catalog, **extended),
        candidates=np.append(row_of_old[requests.candidates[:, :-1]], np.full((len(requests), 1), len(order)), axis=1),
        histories=type(requests.histories)(row_of_old[requests.histories.values], requests.histories.offsets),
    )
    other = replace(reranker)
    other.load(folder, moved)
    got = other.score(moved)
    assert np.allclose(got[:, :-1], scores[:, :-1], atol=1e-5)
    if name != "vip5":  # it has a number, a picture or none, and is read like all others
        assert (got[:, -1] <= got[:, :-1].min(axis=1)).all(), "an item the model never knew comes last"


def test_baselines_are_what_they_say(
    config: Callable[..., Any], demo: Dataset, split: Split, candidates: Prepared
) -> None:
    requests = candidates.test
    first_stage = configure(config("reranker=first_stage")).reranker
    assert np.array_equal(first_stage.score(requests), requests.first_stage_scores)
    popularity = configure(config("reranker=popularity")).reranker
    popularity.fit(demo, split, None, lambda values, step: None)
    counts = np.bincount(split.train.histories.values, minlength=len(demo.catalog))
    assert np.array_equal(popularity.score(requests), counts[requests.candidates])
    a, b = (configure(config("reranker=random", f"seed={seed}")).reranker.score(requests) for seed in (0, 1))
    assert not np.array_equal(a, b)
