"""Training rows: drawn afresh, fair, hard where asked, and read as they are scored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_letters import SMALL, make

from data.dataset import Dataset
from data.splits import Split


def reranker_requests(demo: Dataset) -> Any:
    from conftest import random_requests

    requests, _ = random_requests(np.random.default_rng(0), 4, 10, len(demo.catalog))
    return replace(requests, catalog=demo.catalog)


def test_rows_are_drawn_afresh_each_epoch_from_the_seed(demo: Dataset, split: Split, tmp_path: Path) -> None:
    reranker = make(None, tmp_path, training_candidates=20, rows_per_user=40)
    reranker.build(demo, split)
    rows = reranker.rows
    everything = list(range(len(rows)))
    drawn = rows.draw(everything)
    histories, listed, target = drawn.histories, drawn.candidates, drawn.target
    assert np.array_equal(listed, rows.draw(everything).candidates)
    backwards = rows.draw(everything[::-1])
    assert np.array_equal(backwards.candidates[::-1], listed), "the order of a batch changes no row"
    rows.epoch = 1
    assert (rows.draw(everything).candidates != listed).mean() > 0.9
    users = rows.users[np.arange(len(rows)) % len(rows.users)]
    for row in range(0, len(rows), 37):
        own = split.train.histories.row(users[row]).tolist()
        answer = int(listed[row, target[row]])
        past = histories.row(row).tolist()
        assert answer in own and own[: len(past) + own.index(past[0])][-len(past) :] == past
        others = np.delete(listed[row], target[row])
        assert not set(others.tolist()) & set(own) and len(set(listed[row].tolist())) == 20
    counts = np.bincount(target, minlength=20)
    assert ((counts - len(rows) / 20) ** 2 / (len(rows) / 20)).sum() < 45, "no place is the target's (chi-square, 19)"
    held_out = split.test.relevant.values[users]
    assert (listed == held_out[:, None]).any(), (
        "test items may be negatives: leaving them out would tell which they are"
    )


@pytest.mark.parametrize(
    ("negatives", "least", "most"), [("random", 0, 0.75), ("mixed", 0.7, 0.95), ("first_stage", 1, 1)]
)
def test_hard_negatives_are_the_first_stages_best(
    negatives: str, least: float, most: float, demo: Dataset, split: Split, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("data.negatives.HARD", 25)
    reranker = make(None, tmp_path, negatives=negatives, training_candidates=11)
    reranker.build(demo, split)
    drawn = reranker.rows.draw(list(range(100)))
    histories, listed, target = drawn.histories, drawn.candidates, drawn.target
    from data.splits import Phase

    fitted = split.negatives(demo.catalog, 1.0).retriever
    assert fitted is not None
    scores = np.array(fitted.score(Phase(np.arange(100), histories, histories)))
    own = split.train.histories.take(reranker.rows.users[np.arange(100)])
    scores[own.row_of_value, own.values] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :25]
    others = listed[np.arange(11) != target[:, None]].reshape(100, 10)
    share = np.mean([np.isin(others[row], best[row]).mean() for row in range(100)])
    assert least <= share + 0.02 and share <= most + 0.02
    assert split.retriever is not None and not hasattr(split.retriever, "weights"), "the split's own stays unfitted"


def test_copying_lessons_ask_for_an_item_of_the_history(demo: Dataset, split: Split, tmp_path: Path) -> None:
    lessons = replace(SMALL, copying_epochs=2, copying_share=0.25)
    reranker = make(None, tmp_path, scratch=lessons, rows_per_user=4)
    reranker.build(demo, split)
    for epoch, expected in ((0, 1.0), (1, 1.0), (2, 0.25)):
        reranker.rows.epoch = epoch
        drawn = reranker.rows.draw(list(range(400)))
        answers = drawn.candidates[np.arange(400), drawn.target]
        inside = np.array([answer in drawn.histories.row(row) for row, answer in enumerate(answers)])
        assert np.array_equal(inside, drawn.copied) and abs(inside.mean() - expected) < 0.1
        others = drawn.candidates[np.arange(10) != drawn.target[:, None]].reshape(400, 9)
        assert not any(np.isin(others[row], drawn.histories.row(row)).any() for row in range(400))
    assert not make(None, tmp_path, scratch=replace(SMALL, copying_share=0.5)).copying_share(0)
    logged: list[dict[str, float]] = []
    reranker = make(None, tmp_path, scratch=lessons, epochs=3)
    reranker.fit(demo, split, None, lambda values, step: logged.append(values))
    assert any("train_line_loss" in values for values in logged)
    epochs = [values["epoch"] for values in logged if "train_letter_loss" in values]
    assert epochs and min(epochs) > 2, "what asks for the history is not counted as learning the next item"


def test_facts_show_the_same_prompt_in_training_and_scoring(demo: Dataset, split: Split, tmp_path: Path) -> None:
    for settings in ({}, {"loss": "vocabulary"}, {"order": "invariant"}):
        reranker = make(None, tmp_path, **settings)
        reranker.build(demo, split)
        facts = reranker.facts(reranker_requests(demo))
        assert np.array_equal(facts["trained_prompt"], facts["scored_prompt"]) and len(facts["trained_prompt"]) == 8
        assert ("label_ids" in facts) != reranker.invariant
        assert len(set(facts.get("label_ids", np.zeros(0)).tolist())) == len(facts.get("label_ids", []))
        assert (facts["prompt_lengths"] > 50).all() and not facts["shortened"].any()
