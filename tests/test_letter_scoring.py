"""Scoring: invariant prompts, permutations, calibration, padding, the end of the letters."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax
from tiny_letters import make, nothing

from data.candidates import Prepared
from data.dataset import Dataset
from data.errors import UserError
from data.splits import Split
from rerankers.presented import presented


def shuffled(requests: Any, seed: int) -> tuple[Any, np.ndarray]:
    order = np.argsort(np.random.default_rng(seed).random(requests.candidates.shape), axis=1)
    return replace(requests, candidates=np.take_along_axis(requests.candidates, order, 1)), order


def test_invariant_scores_do_not_know_the_order(
    demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path
) -> None:
    reranker = make(None, tmp_path, order="invariant", epochs=2)
    reranker.fit(demo, split, None, nothing)
    requests = candidates.test.take(slice(0, 30))
    scores = reranker.score(requests)
    assert scores.std(axis=1).min() > 1e-3, "candidates differ"
    for seed in range(5):
        other, order = shuffled(requests, seed)
        assert np.abs(np.take_along_axis(scores, order, 1) - reranker.score(other)).max() < 1e-5
    assert requests.candidates is not None
    alone = [reranker.score(replace(requests, candidates=requests.candidates[:, c : c + 1])) for c in range(20)]
    assert np.abs(np.concatenate(alone, axis=1) - scores).max() < 1e-5, "other candidates are not seen"
    many = np.random.default_rng(0).integers(0, len(demo.catalog), (30, 100)).astype(np.int32)
    wide = reranker.score(replace(requests, candidates=many))
    assert wide.shape == (30, 100) and np.isfinite(wide).all()
    whole = reranker.score(replace(requests, candidates=None))
    assert np.abs(np.take_along_axis(whole, many, 1) - wide).max() < 1e-5


def test_a_shortened_invariant_prompt_is_shortened_alike_for_every_order(
    demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path
) -> None:
    titles = demo.catalog.title.copy()
    titles[::7] = [f"{title} of a very long name that takes a lot of room in any prompt" for title in titles[::7]]
    longer = replace(demo, catalog=replace(demo.catalog, title=titles))
    reranker = make(None, tmp_path, order="invariant", max_length=110)
    reranker.build(longer, split)
    many = np.random.default_rng(0).integers(0, len(titles), (20, 100)).astype(np.int32)
    requests = replace(candidates.test.take(slice(0, 20)), catalog=longer.catalog, candidates=many)
    assert reranker.facts(requests)["shortened"].mean() > 0.5
    scores = reranker.score(requests)
    other, order = shuffled(requests, 1)
    assert np.abs(np.take_along_axis(scores, order, 1) - reranker.score(other)).max() < 1e-5
    assert np.abs(reranker.score(replace(requests, candidates=many[:, :3])) - scores[:, :3]).max() < 1e-5


def test_letters_know_the_order_and_end_at_52(
    demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path
) -> None:
    reranker = make(None, tmp_path)
    reranker.build(demo, split)
    scores = reranker.score(candidates.test)
    other, order = shuffled(candidates.test, 0)
    assert np.abs(np.take_along_axis(scores, order, 1) - reranker.score(other)).max() > 1e-4
    with pytest.raises(UserError, match=r"100 candidates need 100 labels.*reranker\.order=invariant"):
        make(None, tmp_path, training_candidates=100)
    with pytest.raises(UserError, match=r"reranker\.order=invariant"):
        reranker.check(replace(candidates.test, candidates=np.zeros((len(candidates.test), 60), dtype=np.int32)))


def test_permutations_are_the_mean_of_log_probabilities(
    demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path
) -> None:
    reranker = make(None, tmp_path)
    reranker.build(demo, split)
    requests = candidates.test.take(slice(0, 20))
    many = replace(reranker, permutations=3)
    for name in ("network", "tokenizer", "prompts", "_ids", "catalog"):
        setattr(many, name, getattr(reranker, name))
    expected = np.zeros((20, 20))
    for turn in range(3):
        columns = np.stack(presented(requests, turn, many.seed))
        assert (np.sort(columns, axis=1) == np.arange(20)).all()
        once = reranker.score(replace(requests, candidates=np.take_along_axis(requests.candidates, columns, 1)))
        np.put_along_axis(expected, columns, np.take_along_axis(expected, columns, 1) + log_softmax(once, axis=1), 1)
    assert np.allclose(many.score(requests), expected / 3, atol=1e-4)
    assert any("3 permutations" in label for label in many.labels(requests))


def test_content_free_calibration_takes_the_labels_bias_away(
    demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path
) -> None:
    reranker = make(None, tmp_path, calibration="content_free")
    reranker.build(demo, split)
    requests = candidates.test.take(slice(0, 20))
    nothing_at_all = replace(
        requests,
        histories=type(requests.histories).from_rows([[reranker.prompts.nothing]] * 20),
        candidates=np.full((20, 20), reranker.prompts.nothing, dtype=np.int32),
    )
    assert np.abs(reranker.score(nothing_at_all)).max() < 1e-5, "without content no label is better"
    plain = replace(reranker, calibration="none")
    for name in ("network", "tokenizer", "prompts", "_ids", "catalog"):
        setattr(plain, name, getattr(reranker, name))
    bias = log_softmax(plain.score(nothing_at_all)[0])
    assert bias.std() > 1e-3
    expected = log_softmax(plain.score(requests), axis=1) - bias
    assert np.allclose(reranker.score(requests), expected, atol=1e-4)


def test_padding_candidates_are_never_shown(demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path) -> None:
    reranker = make(None, tmp_path)
    reranker.build(demo, split)
    requests = candidates.test.take(slice(0, 5))
    short = requests.candidates[:, :7]
    padded = np.concatenate([short, np.full((5, 4), -1, dtype=np.int32)], axis=1)
    scores = reranker.score(replace(requests, candidates=padded))
    assert np.allclose(scores[:, :7], reranker.score(replace(requests, candidates=short)), atol=1e-5)
    assert (scores[:, 7:] < scores[:, :7].min()).all()
    none = reranker.score(replace(requests, candidates=np.full((5, 3), -1, dtype=np.int32)))
    assert none.shape == (5, 3) and not np.isnan(none).any()
