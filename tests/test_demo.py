"""The demo with new items: taken last or never, ranked by taste, and without them the demo that it always was."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.candidates import Candidates, Prepared, prepare
from data.dataset import Dataset, Ragged, Requests
from data.errors import UserError
from data.retrievers import Popularity
from data.sources.demo import Demo, PlantedModel
from data.splits import LeaveOneOut, Split, Temporal

SHARE = 0.2


@pytest.fixture(scope="module")
def cold() -> Dataset:
    return Demo(name="demo", n_users=600, n_items=120, mean_length=12, cold_share=SHARE).load(Path())


@pytest.fixture(scope="module")
def sampled(cold: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(
        cold, LeaveOneOut().split(cold), Candidates(mode="sampled", size=20), tmp_path_factory.mktemp("c"), "x"
    )


def planted(dataset: Dataset) -> PlantedModel:
    assert isinstance(dataset.planted, PlantedModel)
    return dataset.planted


def is_new(dataset: Dataset) -> np.ndarray:
    return planted(dataset).world.new[planted(dataset).item]


def hits(scores: np.ndarray, requests: Requests, split: Split) -> float:
    """Recall@1."""
    assert requests.candidates is not None
    best = np.take_along_axis(requests.candidates, scores.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float((best == split.test.relevant.values).mean())


def test_without_new_items_nothing_changes(demo: Dataset) -> None:
    assert demo.sha256 == "d1ab275a837b986f2697d91c02f69359f3a9b12aa11bb04f927a3c38d6d9bc55"  # as before cold_share
    assert not is_new(demo).any() and not any("new" in note for note in demo.provenance.notes)


def test_new_items_are_the_test_targets_and_nothing_else(cold: Dataset) -> None:
    split, new = LeaveOneOut().split(cold), is_new(cold)
    assert new.sum() == 24 and len(new) == 120
    assert len(split.test) == 600 and new[split.test.relevant.values].all()
    for phase in (split.train, split.train_and_validation, split.validation, split.test):
        assert not new[phase.histories.values].any()
    assert not new[split.validation.relevant.values].any()
    assert "600 of 600 test targets never occur in training" in split.notes
    assert "24 of 120 items are new; the last interaction of each user is with one" in cold.provenance.notes
    when, taken = cold.interactions.timestamp, new[cold.interactions.item]
    assert when[taken].min() > when[~taken].max(), "launched when all else has happened"
    assert not new[Temporal().split(cold).train.histories.values].any()
    kinds = {cold.catalog.categories[row][1] for row in np.flatnonzero(new)}
    assert len(kinds) == 12


def test_targets_are_drawn_by_taste_alone(cold: Dataset) -> None:
    """Their expected log-weight under the planted probabilities is the one they have."""
    model, new = planted(cold), is_new(cold)
    split = LeaveOneOut().split(cold)
    taste = model.world.taste[model.user[split.test.ids]][:, model.item]
    weight = np.exp(taste) * new
    chance = weight / weight.sum(axis=1, keepdims=True)
    expected = (chance * taste).sum(axis=1)
    spread = np.sqrt((chance * taste**2).sum(axis=1) - expected**2)
    drawn = taste[np.arange(600), split.test.relevant.values]
    assert abs((drawn - expected).mean()) < 3 * np.sqrt((spread**2).sum()) / 600
    assert drawn.mean() > taste[:, new].mean() + 1


def test_the_planted_model_is_the_ceiling(cold: Dataset, sampled: Prepared) -> None:
    model, new, split = planted(cold), is_new(cold), LeaveOneOut().split(cold)
    requests = sampled.test
    scores = model.score(requests)
    assert requests.candidates is not None and np.isfinite(scores).all()
    listed = new[requests.candidates]
    assert (np.where(listed, scores, np.inf).min(1) > np.where(listed, -np.inf, scores).max(1)).all()
    taste = model.world.taste[model.user[requests.ids]][:, model.item]
    taste = np.take_along_axis(taste, requests.candidates, axis=1)
    assert np.array_equal(scores[listed], taste[listed])
    assert hits(scores, requests, split) > hits(taste, requests, split) + 0.1, "old items are not to be had any more"
    before = model.score(sampled.validation)
    listed = new[sampled.validation.candidates]
    assert (np.where(listed, -np.inf, before).max(1) > np.where(listed, before, -np.inf).max(1)).all()


def test_sampled_negatives_are_of_the_whole_catalogue(cold: Dataset, sampled: Prepared) -> None:
    assert sampled.test.candidates is not None
    negatives = is_new(cold)[sampled.test.candidates].sum(axis=1) - 1
    assert abs(negatives.mean() / 19 - 24 / 120) < 0.03  # a few more, as a user's old items are no negatives


def test_it_needs_all_interactions() -> None:
    for settings in ({"min_rating": 4.0}, {"k_core": 2}):
        with pytest.raises(UserError, match=r"leave out dataset.min_rating and k_core"):
            Demo(name="demo", cold_share=SHARE, **settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"dataset.cold_share=0.6 is out of range; it must be in \[0, 0.5\]"):
        Demo(name="demo", cold_share=0.6)


def test_new_targets_stand_among_new_items_and_others_among_others(cold: Dataset, tmp_path: Path) -> None:
    split = LeaveOneOut().split(cold)
    old = np.bincount(split.train.histories.values, minlength=len(cold.catalog)) > 0
    lists = Candidates(mode="sampled", size=15, negatives="alike", retriever=Popularity())
    got = prepare(cold, split, lists, tmp_path, "alike")
    assert got.test.candidates is not None and got.validation.candidates is not None
    assert not old[got.test.candidates].any() and old[got.validation.candidates].all()
    with pytest.raises(UserError, match=r"candidates.size=60 needs 59 negatives that are new as the relevant item is"):
        prepare(cold, split, replace(lists, size=60), tmp_path, "too many")


def test_training_negatives_leave_new_items_out_on_demand(cold: Dataset) -> None:
    split = LeaveOneOut().split(cold)
    old = np.bincount(split.train.histories.values, minlength=len(cold.catalog)) > 0
    users, rng = np.arange(200), np.random.default_rng(0)
    every, known = (split.negatives(cold.catalog, 0.0, with_new=choice) for choice in (True, False))
    assert not old[every.draw(users, Ragged.empty(200), 5, rng)].all()
    assert old[known.draw(users, Ragged.empty(200), 5, rng)].all()
    with pytest.raises(UserError, match="are more than the"):
        known.draw(users, Ragged.empty(200), int(old.sum()), rng)
