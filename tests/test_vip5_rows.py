"""VIP5's training rows: what is asked of whom, fair answers, nothing of the future, batches of like length."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vip5 import make

from data.dataset import Dataset, Ragged
from data.errors import UserError
from data.splits import LeaveOneOut, Split, Temporal
from rerankers.training import training_arguments
from rerankers.vip5.prompts import Prompts
from rerankers.vip5.rows import NAMES, ByLength, Vip5Rows
from rerankers.vip5.settings import LossWeights, Tasks
from rerankers.vip5.templates import Template
from rerankers.vip5.trainer import Vip5Trainer

EVERY = Tasks(sequential=3, direct=3, explanation=2, rerank=2)
WRITTEN = ["A-1", "C-1", "C-7"]
Build = Callable[..., Vip5Rows]


@dataclass
class Row:
    template: Template
    items: dict[str, np.ndarray]
    user: int
    answer: list[int]  # tokens, the end included
    length: int  # of the prompt
    pictures: list[int]


@pytest.fixture
def build(demo: Dataset, split: Split, tmp_path: Path) -> Build:
    def rows(dataset: Dataset = demo, split: Split = split, **settings: Any) -> Vip5Rows:
        reranker = make(tmp_path, **{"tasks": EVERY} | settings)
        reranker.build(dataset, split)
        return reranker.rows

    return rows


def drawn(rows: Vip5Rows, monkeypatch: Any, numbers: list[int] | None = None) -> list[Row]:
    """What is asked, as the prompts are put together."""
    asked: list[Any] = []
    render = Prompts.render

    def spy(self: Prompts, template: Template, items: Any, words: Any, separator: int = 0) -> Any:
        asked.append((template, items, words, prompt := render(self, template, items, words, separator)))
        return prompt

    with monkeypatch.context() as patch:
        patch.setattr(Prompts, "render", spy)
        batch = rows.collate(list(range(len(rows))) if numbers is None else numbers)
    user_of = {f"user_{n}": np.flatnonzero(rows.user_id == user)[0] for user, n in rows.reranker.user_number.items()}
    answers = [answer[answer >= 0].tolist() for answer in batch["labels"]]
    assert [NAMES[n] for n in batch["family"]] == [template.family for template, *_ in asked]
    return [
        Row(
            template,
            {slot: rows_ for slot, rows_ in items.items() if slot in template.slots},
            int(user_of[words["user"]]),
            answer,
            len(prompt.ids),
            prompt.pictures.tolist(),
        )
        for (template, items, words, prompt), answer in zip(asked, answers, strict=True)
    ]


def test_so_many_rows_of_each_family_a_user(build: Build, monkeypatch: Any) -> None:
    rows = build()
    seen = drawn(rows, monkeypatch)
    reviewers = len(np.unique(rows.reviews.user))
    assert rows.counts == {"sequential": 360, "direct": 360, "explanation": 2 * reviewers, "rerank": 240}
    assert len(rows) == len(seen) == sum(rows.counts.values()) and reviewers > 100
    for family in ("sequential", "direct", "rerank"):
        users = Counter(row.user for row in seen if row.template.family == family)
        assert set(users.values()) == {getattr(EVERY, family)} and len(users) == 120
    asked = Counter(row.template.name for row in seen)
    assert not {"A-9", "B-8", "C-12"} & set(asked), "the last wordings stay unseen"
    for family in NAMES:
        own = [t.name for t in rows.templates if t.family == family]
        expected = rows.counts[family] / len(own)
        assert sum((asked[name] - expected) ** 2 / expected for name in own) < 3 * len(own), family
    few = build(templates=["A-1", "A-9", "B-7"])
    assert {row.template.name for row in drawn(few, monkeypatch)} == {"A-1", "A-9", "B-7"}, "what is named is trained"
    assert few.counts == {"sequential": 360, "direct": 360}


def test_answers_are_fair_and_negatives_are_not_the_users_own(
    build: Build, split: Split, demo: Dataset, monkeypatch: Any
) -> None:
    rows = build(tasks=Tasks(sequential=12, direct=12, explanation=0, rerank=4))
    prompts = rows.reranker.prompts
    yes, no = ([*prompts.words(word).tolist(), prompts.end] for word in ("yes", "no"))
    said: dict[bool, int] = Counter()
    places = []
    for row in drawn(rows, monkeypatch):
        own = split.train.histories.row(row.user).tolist()
        past = row.items.get("history", np.zeros(0)).tolist()
        after = len(past) + next(n for n in range(len(own)) if own[n : n + len(past)] == past)
        assert ("history" in row.items) == (row.template.family in ("sequential", "rerank"))
        assert 1 <= len(past) <= 20 or row.template.family == "direct"
        if row.template.answer == "yes_no":
            (item,) = next(row.items[slot] for slot in ("one", "item", "title") if slot in row.items)
            assert row.answer == (yes if item in own else no)
            assert item not in own or not past or item == own[after]
            said[item in own] += 1
        elif "candidates" in row.items:
            listed = row.items["candidates"].tolist()
            (target,) = set(listed) & set(own)
            assert len(set(listed)) == len(listed) == 10 and (not past or target == own[after])
            assert row.answer == [*prompts.answers.row(target).tolist(), prompts.end]
            places.append(listed.index(target))
        else:
            assert row.answer == [*prompts.answers.row(own[after]).tolist(), prompts.end]
        assert row.pictures == [item for slot in row.template.slots for item in row.items.get(slot, [])]
    assert sum(said.values()) > 800 and abs(said[True] / sum(said.values()) - 0.5) < 0.05
    expected = len(places) / 10
    assert len(places) > 800 and sum((places.count(n) - expected) ** 2 / expected for n in range(10)) < 27


@pytest.mark.parametrize("cut", [LeaveOneOut(), Temporal()])
def test_rows_know_nothing_of_validation_and_test(cut: Any, build: Build, demo: Dataset) -> None:
    """Other items and reviews after each user's training part: the same rows to the last token."""
    events, split = demo.interactions, cut.split(demo)
    lengths = split.train.histories.lengths[events.user]
    later = np.arange(len(events)) - demo.sequences.offsets[events.user] >= lengths
    assert 0.1 < later.mean() < 0.3 and events.review is not None
    item, review = events.item.copy(), events.review.copy()
    item[later] = np.random.default_rng(0).permutation(60)[np.arange(later.sum()) % 60]
    review[later] = "One zebra, two zebras and a zebra's lovely vase."
    other = replace(demo, interactions=replace(events, item=item, review=review))
    both = [build(data, cut.split(data)) for data in (demo, other)]
    assert len(both[0]) == len(both[1])
    first, second = (rows.collate(list(range(len(rows)))) for rows in both)
    assert all(torch.equal(first[name], second[name]) for name in first)
    leaks = [build(data, cut.split(data), id_scheme="p5_sequential") for data in (demo, other)]
    told, other_told = (rows.collate(list(range(len(rows))))["labels"] for rows in leaks)
    assert not torch.equal(told, other_told), "numbers of first appearance do know"


def test_explanations_are_of_training_reviews(build: Build, monkeypatch: Any) -> None:
    rows = build(tasks=Tasks(sequential=1, direct=0, explanation=4), max_answer_length=6, templates=WRITTEN)
    told = {}
    for user, item, text in zip(rows.reviews.user, rows.reviews.item, rows.reviews.sentence, strict=True):
        told[int(user), int(item)] = text
    decode = rows.reranker.tokenizer.decode
    for row in drawn(rows, monkeypatch):
        if row.template.name == "A-1":
            continue
        (item,) = row.items["title" if row.template.name == "C-1" else "item"]
        text = told[row.user, item]
        assert len(row.answer) <= 6 and row.answer[-1] == rows.reranker.prompts.end
        if row.template.name == "C-1":
            assert row.answer[:-1] == rows.reranker.prompts.tokens([text]).values[:5].tolist()
        else:
            assert 1 <= float(decode(row.answer).split(",")[0].replace(" ", "")) <= 5


def test_rows_are_drawn_by_seed_and_epoch(build: Build, monkeypatch: Any) -> None:
    everything = list(range(600))
    rows, again, other = build(), build(), build(seed=1)
    first = rows.collate(everything)
    assert all(torch.equal(value, again.collate(everything)[name]) for name, value in first.items())
    assert (other.plan(0).template != rows.plan(0).template).mean() > 0.5
    backwards = rows.collate(everything[::-1])
    assert all(torch.equal(value, backwards[name]) for name, value in first.items()), "the order of a batch"
    rows.epoch = 1
    second = rows.collate(everything)
    assert first["input_ids"].shape != second["input_ids"].shape or (
        (first["input_ids"] != second["input_ids"]).any(dim=1).float().mean() > 0.9
    )
    rows.epoch = 0
    alike = build(scorer="list", templates=["D-1"], tasks=Tasks(0, 0, 0, 2))
    listed = [[set(row.items["candidates"].tolist()) for row in drawn(alike, monkeypatch)] for alike.epoch in (0, 1)]
    assert np.mean([len(a & b) for a, b in zip(*listed, strict=True)]) < 4, "negatives are drawn anew as well"
    assert all(torch.equal(value, first[name]) for name, value in rows.collate(everything).items())


def padded(rows: Vip5Rows, batches: list[list[int]]) -> float:
    """Share of prompt tokens that are padding."""
    masks = [rows.collate(batch)["attention_mask"] for batch in batches]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def test_batches_are_of_like_length(build: Build) -> None:
    rows = build(training_candidates=20)
    orders = []
    for rows.epoch in (0, 1):
        orders.append(order := list(ByLength(rows, 16)))
        assert sorted(order) == list(range(len(rows))) and len(ByLength(rows, 16)) == len(rows)
    assert orders[0] != orders[1]
    batches = [order[n : n + 16] for n in range(0, len(order), 16)]
    shuffled = np.random.default_rng(0).permutation(order).tolist()
    at_random = [shuffled[n : n + 16] for n in range(0, len(order), 16)]
    like, random = padded(rows, batches), padded(rows, at_random)
    assert like < 0.15 and random > 0.5, (like, random)
    lengths = [int(rows.collate(batch)["attention_mask"].shape[1]) for batch in batches]
    assert abs(np.corrcoef(lengths, np.arange(len(lengths)))[0, 1]) < 0.4, "short and long batches come in turn"


def test_lengths_are_known_about_before_prompts_are_put_together(build: Build, monkeypatch: Any) -> None:
    """Of all families alike: explanations have no list, and yet are as long as a short history."""
    rows = build(training_candidates=20)
    assert {"mentions", "title"} <= vars(rows.reranker.prompts).keys(), "loading workers need not tokenize them again"
    told, length = rows.plan(0).length, np.array([row.length for row in drawn(rows, monkeypatch)])
    assert np.abs(told / length - 1).mean() < 0.1 and np.corrcoef(told, length)[0, 1] > 0.98


def test_what_the_dataset_lacks_is_left_out_and_said(build: Build, demo: Dataset, caplog: Any) -> None:
    caplog.set_level("INFO")
    headline = np.full(len(demo.interactions), "Nice", dtype=object)
    told = replace(demo, interactions=replace(demo.interactions, headline=headline))
    assert len(build(told).templates) == 28 and "left out" not in caplog.text
    nothing = np.full(60, "", dtype=object)
    bare = replace(
        demo,
        catalog=replace(demo.catalog, title=nothing, description=nothing),
        interactions=replace(demo.interactions, review=None, headline=None),
    )
    rows = build(bare)
    assert rows.counts == {"sequential": 360, "direct": 360, "rerank": 240}
    assert "left out, as demo lacks what they ask for: the prompts B-3, B-4, C-1, C-2" in caplog.text
    assert not {"B-3", "B-4", "C-1"} & {t.name for t in rows.templates}
    with pytest.raises(UserError, match="demo lacks what the prompts B-3 ask;"):
        build(bare, scorer="yes_no", template="B-3", templates=["B-3"])


def test_users_with_little(build: Build, split: Split, monkeypatch: Any) -> None:
    """One item is asked about without a history, of none nothing is."""
    histories = [split.train.histories.row(user) for user in range(120)]
    histories[0], histories[1] = histories[0][:1], histories[1][:0]
    few = replace(split, train=replace(split.train, histories=Ragged.from_rows(histories)))
    rows = build(split=few)
    assert rows.counts["sequential"] == 3 * 118 and rows.counts["direct"] == 3 * 119
    asked = {(row.template.family, row.user) for row in drawn(rows, monkeypatch) if row.user < 2}
    assert {family for family, user in asked if user == 0} <= {"direct", "explanation"} and ("direct", 0) in asked
    assert not [family for family, user in asked if user == 1]


def test_prompts_that_are_too_long(build: Build, demo: Dataset, monkeypatch: Any) -> None:
    rows = build(tasks=Tasks(sequential=4, direct=0, explanation=0, rerank=4), max_length=60)
    seen = drawn(rows, monkeypatch)
    assert max(row.length for row in seen) <= 60 and min(len(row.items["history"]) for row in seen) >= 1
    assert {len(row.pictures) for row in seen if "candidates" in row.items} <= set(range(10, 20))
    crowded = build(tasks=Tasks(1, 2, 0, 0), visual_tokens=5, training_candidates=20, max_length=100)
    with pytest.raises(UserError, match=r"more than reranker\.max_length=100 .* reranker\.visual_tokens"):
        drawn(crowded, monkeypatch)
    long = np.full(len(demo.interactions), "so nice a " + 70 * "hat ", dtype=object)
    told = replace(demo, interactions=replace(demo.interactions, headline=long))
    rows = build(told, tasks=Tasks(1, 0, 2, 0))
    assert max(row.length for row in drawn(rows, monkeypatch)) < 80, "of a headline as much as of a title"


@pytest.mark.parametrize("norm", ["token_mean", "vip5_double"])
def test_the_loss_is_the_mean_over_rows_of_the_mean_over_tokens(norm: str, build: Build, monkeypatch: Any) -> None:
    rows = build(loss_norm=norm, loss_weights=LossWeights(sequential=1, direct=0.5, explanation=3, rerank=0))
    reranker = rows.reranker
    args = training_arguments(reranker, False)
    trainer: Any = Vip5Trainer(
        score=reranker.score, validate=None, model=reranker.network, args=args, reranker=reranker
    )
    batch = rows.collate(list(range(0, len(rows), 20)))
    family, labels = batch["family"], batch["labels"]
    with torch.no_grad():
        tokens = reranker.network(**{name: value for name, value in batch.items() if name != "family"})
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "cpu", lambda tensor: pytest.fail("a step waits for its loss"))
            loss = trainer.compute_loss(reranker.network, dict(batch))
    by_hand = []
    for row, n in enumerate(family.tolist()):
        own = tokens[row][labels[row] != -100]
        by_hand.append([1, 0.5, 3, 0][n] * own.mean() / (len(own) if norm == "vip5_double" else 1))
    assert loss.item() == pytest.approx(float(torch.stack(by_hand).mean()), rel=1e-5)
    logs = {"loss": 1.0}
    trainer.log(logs)
    for n, name in enumerate(NAMES):
        means = [tokens[row].sum() / (labels[row] != -100).sum() for row in np.flatnonzero(family == n)]
        assert logs[f"{name}_loss"] == pytest.approx(float(torch.stack(means).mean()), rel=1e-5)
    trainer.log(after := {"loss": 1.0})
    assert "direct_loss" not in after, "a curve is of what was seen since its last point"
