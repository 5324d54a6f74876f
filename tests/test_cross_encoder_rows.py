"""Training rows: drawn afresh, fair, hard where asked; nothing of a validation or test query is among them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_pairs import make
from tiny_passages import folded, generated

from data.dataset import Dataset, Ragged
from data.errors import UserError
from data.query_splits import QueryFolds
from data.splits import Phase, Split
from data.text_retrievers import BM25
from data.texts import item_texts
from data.words import words
from rerankers.cross_encoder.augment import Augment
from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker
from rerankers.cross_encoder.dev_metrics import dev_groups, told_apart
from rerankers.cross_encoder.rows import PairRows


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Split]:
    dataset = generated()
    return dataset, replace(folded(dataset), retriever=BM25())


def built(tmp_path: Path, data: tuple[Dataset, Split], **settings: Any) -> CrossEncoderReranker:
    reranker = make(tmp_path, **settings)
    reranker.build(*data)
    return reranker


def all_groups(rows: PairRows) -> tuple[list[str], np.ndarray]:
    return rows.groups(np.arange(len(rows.owner)))


def test_a_group_is_a_query_a_relevant_text_and_others(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    dataset, split = data
    rows = built(tmp_path, data, hard_negatives=2, random_negatives=3, hard_neg_top_k=5).rows
    queries, items = all_groups(rows)
    assert items.shape == (len(split.train.histories.values), 6) and rows.size == 6
    assert np.array_equal(items[:, 0], split.train.histories.values), "each relevant text once"
    assert queries == list(split.train.queries[split.train.histories.row_of_value])  # type: ignore[index]
    known = {query: set(split.train.histories.row(q).tolist()) for q, query in enumerate(split.train.queries)}  # type: ignore[arg-type]
    retriever = BM25()
    retriever.fit(dataset.catalog, split.train)
    scores = np.array(retriever.score(split.train))
    for query, row, q in zip(queries, items.tolist(), split.train.histories.row_of_value, strict=True):
        negatives = row[1:]
        assert len(set(row)) == 6 and not set(negatives) & known[query]
        own = np.array([-np.inf if item in known[query] else scores[q, item] for item in range(40)])
        n_linked = int(np.isfinite(own).sum())
        best = set(np.argsort(-own, kind="stable")[: min(5, n_linked)].tolist())
        least = np.sort(own)[-min(5, n_linked)]  # equal scores at the edge are in no order
        hard = {item for item in negatives if item in best or (np.isfinite(own[item]) and own[item] == least)}
        assert len(hard) >= min(2, n_linked)


def test_the_share_of_hard_negatives_is_kept(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    dataset, split = data
    known = split.train.histories
    for hard, random, expected in ((0, 3, 0.2), (3, 0, 1.0)):
        rows = built(tmp_path, data, hard_negatives=hard, random_negatives=random, hard_neg_top_k=8).rows
        retriever = BM25()
        retriever.fit(dataset.catalog, split.train)
        scores = np.array(retriever.score(split.train))
        scores[known.row_of_value, known.values] = -np.inf
        linked = (np.isfinite(scores) & (scores >= np.sort(scores)[:, -8:-7]))[known.row_of_value]
        _, items = all_groups(rows)
        share = np.take_along_axis(linked, items[:, 1:], axis=1).mean()
        assert abs(share - expected) < 0.15, "random ones may be hard by chance"


def test_rows_of_a_group_have_its_texts_and_labels(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    rows = built(tmp_path, data).rows
    queries, items = all_groups(rows)
    assert len(rows) == 4 * len(items)
    numbers = np.random.default_rng(0).permutation(len(rows))[:50]
    batch = rows([{"row": int(row)} for row in numbers])
    assert batch["query"] == [queries[row // 4] for row in numbers]
    assert batch["text"] == [rows.texts[items[row // 4, row % 4]] for row in numbers]
    assert batch["label"].tolist() == [float(row % 4 == 0) for row in numbers]
    lists = built(tmp_path, data, loss="listwise").rows
    assert len(lists) == len(items)
    whole = lists([{"row": row} for row in range(9)])
    assert whole["query"] == queries[:9] and [len(texts) for texts in whole["text"]] == [4] * 9
    assert whole["text"] == [[rows.texts[i] for i in row] for row in items[:9]], "the same groups as of the other loss"
    assert all(label.tolist() == [1, 0, 0, 0] for label in whole["label"])


def test_rows_are_drawn_by_seed_epoch_and_block(
    data: tuple[Dataset, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rerankers.cross_encoder.rows.BLOCK", 16)
    rows = built(tmp_path, data).rows
    examples = [{"row": row} for row in range(len(rows))]
    first = rows(examples)
    again = built(tmp_path, data).rows
    parts = [again(examples[start : start + 7]) for start in range(0, len(rows), 7)]
    assert [text for part in parts for text in part["text"]] == first["text"], "whatever the batch"
    backwards = rows(examples[::-1])
    assert backwards["text"][::-1] == first["text"]
    rows.epoch = 1
    other = rows(examples)
    negatives = np.arange(len(rows)) % 4 > 0
    changed = np.array(other["text"]) != np.array(first["text"])
    assert not changed[~negatives].any() and changed[negatives].mean() > 0.8
    seeded = built(tmp_path, data, hard_neg_top_k=40)
    seeded.seed = 1
    assert (np.array(seeded.rows(examples)["text"]) != np.array(first["text"])).any()


def test_a_history_ends_before_what_is_asked_for(demo: Dataset, split: Split, tmp_path: Path) -> None:
    reranker = built(tmp_path, (demo, split), max_history=5, hard_neg_retriever="bm25")
    rows, sequences, titles = reranker.rows, split.train.histories, item_texts(demo.catalog)
    points = set()
    for epoch in range(3):
        rows.epoch = epoch
        queries, items = all_groups(rows)
        assert len(queries) == (sequences.lengths >= 2).sum(), "one group a user and epoch"
        for user, query, (asked_for, *negatives) in zip(rows.owner, queries, items.tolist(), strict=True):
            own = sequences.row(user).tolist()
            point = next(at for at, item in enumerate(own) if item == asked_for)
            points.add(point)
            assert query == "; ".join(titles[item] for item in own[:point][::-1][:5]), "newest first"
            assert len(set(negatives)) == 3 and not set(negatives) & set(own)
    assert len(points) > 5, "at any point"


def shingles(text: str, n: int = 3) -> set[tuple[str, ...]]:
    split = words(text)
    return {tuple(split[i : i + n]) for i in range(len(split) - n + 1)}


@pytest.mark.parametrize("snippets", [0, 6])
def test_nothing_of_a_held_out_query_is_trained(snippets: int, tmp_path: Path) -> None:
    """Through the whole build: queries of the rows, texts the tokenizer is made of, mined negatives' queries."""
    dataset = generated()
    assert dataset.queries is not None
    queries = dataset.queries.copy()
    for q in range(0, 60, 3):  # some queries are words of a passage, as a snippet of it would be
        passage = dataset.interactions.item[dataset.interactions.user == q][0]
        queries[q] = " ".join(dataset.catalog.description[passage].rstrip(".").split()[2:8])
    dataset = replace(dataset, queries=queries)
    split = replace(QueryFolds(folds=4, fold=1).split(dataset), retriever=BM25())
    augment = Augment(snippets=snippets, min_words=3, max_words=8)
    reranker = built(tmp_path, (dataset, split), augment=augment)
    held_out = [*split.validation.queries, *split.test.queries]  # type: ignore[misc]
    trained, _ = all_groups(reranker.rows)
    assert len(trained) == len(split.train.histories.values) + (len(reranker.rows.train) - len(split.train))
    assert (len(reranker.rows.train) > len(split.train) + 40) == (snippets > 0)
    for query in held_out:
        own = set(words(query))
        for text in trained:
            other = set(words(text))
            assert " ".join(words(query)) not in " ".join(words(text))
            assert len(own & other) <= 0.6 * len(own | other)
    texts = set(item_texts(dataset.catalog))
    assert set(reranker.texts) == texts | set(trained), "the tokenizer of a model from nothing is made of no more"
    names = {f"q{q}" for q in [*split.validation.ids, *split.test.ids]}
    assert not names & set(reranker.network.tokenizer.get_vocab())


def test_snippets_are_trained_on_and_nowhere_else(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    dataset, split = data
    reranker = built(tmp_path, data, augment=Augment(snippets=3))
    rows, n = reranker.rows, len(split.train)
    added = rows.train.take(slice(n, len(rows.train)))
    assert len(added) > 60 and len(added.histories.values) == len(added)
    assert added.queries is not None
    for query, item in zip(added.queries, added.histories.values, strict=True):
        assert f" {query} " in f" {dataset.catalog.description[item].rstrip('.')} "
    items = all_groups(rows)[1]
    mined = items[-len(added) :, 1:]
    assert not (mined == added.histories.values[:, None]).any(), "the passage it is cut from is no negative of it"
    assert np.array_equal(rows.train.take(slice(0, n)).queries, split.train.queries)
    assert (split.train.ids >= 0).all() and len(split.train) == n, "the split is as it was"
    refit = built(tmp_path, (dataset, split.with_validation_in_train()), augment=Augment(snippets=3))
    assert set(split.validation.queries) <= set(all_groups(refit.rows)[0])  # type: ignore[arg-type]
    assert not set(split.test.queries) & set(all_groups(refit.rows)[0])  # type: ignore[arg-type]


def test_development_groups_are_validation_queries(
    data: tuple[Dataset, Split], demo: Dataset, split: Split, tmp_path: Path
) -> None:
    dataset, folds = data
    reranker = built(tmp_path, data)
    pairs, size = dev_groups(reranker, dataset, folds)
    assert size == 4 and len(pairs) == 4 * len(folds.validation.relevant.values)
    assert {query for query, _ in pairs} == set(folds.validation.queries)  # type: ignore[arg-type]
    row_of = {text: row for row, text in enumerate(item_texts(dataset.catalog))}
    relevant = dict(zip(folds.validation.queries, map(folds.validation.relevant.row, range(99)), strict=False))  # type: ignore[arg-type]
    for place, (query, text) in enumerate(pairs):
        assert (row_of[text] in relevant[query]) == (place % 4 == 0)
    assert pairs == dev_groups(reranker, dataset, folds)[0]

    users = built(tmp_path, (demo, split))
    pairs, size = dev_groups(users, demo, split)
    titles, valid = item_texts(demo.catalog), split.validation
    assert len(pairs) == 4 * len(valid)
    for user in range(0, len(valid), 17):
        query, text = pairs[4 * user]
        assert text == titles[valid.relevant.row(user)[0]]
        assert query == "; ".join(titles[item] for item in valid.histories.row(user)[::-1][:20])


def test_what_cannot_be_learned_from_is_one_sentence(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    dataset, split = data
    nothing = Phase(np.zeros(0, np.int64), Ragged.empty(0), Ragged.empty(0), np.zeros(0, dtype=object))
    with pytest.raises(UserError, match="there is no training pair; viranker has nothing to learn from"):
        make(tmp_path, hard_negatives=0).build(dataset, replace(split, train=nothing))
    with pytest.raises(UserError, match=r"reranker.hard_negatives=1 and reranker.random_negatives=38 are more than"):
        make(tmp_path, random_negatives=38).build(dataset, split)
    all_groups(built(tmp_path, data, random_negatives=37).rows)
    texts = dataset.catalog.description.copy()
    texts[:3] = texts[0]  # whoever is relevant with one of them has the others as no negative
    alike = replace(dataset, catalog=replace(dataset.catalog, description=texts))
    with pytest.raises(UserError, match="random_negatives=37 are more than the 36 texts that a query"):
        make(tmp_path, random_negatives=37).build(alike, split)
    with pytest.raises(UserError, match="no first stage to take hard negatives from"):
        make(tmp_path).build(dataset, replace(split, retriever=None))
    make(tmp_path, hard_neg_retriever="tfidf").build(dataset, replace(split, retriever=None))


def test_users_have_no_snippets(demo: Dataset, split: Split, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"augment\.snippets=2 cuts queries from passages, and the dataset has users"):
        make(tmp_path, augment=Augment(snippets=2)).build(demo, split)


def test_told_apart_by_hand() -> None:
    logits = np.array([[2.0, 0.0, 2.0], [-1.0, 1.0, -3.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    got = told_apart(logits)
    # higher: 1, tie; lower, higher; tie, tie
    assert got["accuracy"] == pytest.approx((1 + 0.5 + 0 + 1 + 0.5 + 0.5) / 6)
    sigmoid = 1 / (1 + np.exp(-logits.astype(float)))
    assert got["avg_pos_score"] == pytest.approx(sigmoid[:, 0].mean())
    assert got["avg_neg_score"] == pytest.approx(sigmoid[:, 1:].mean())
    assert got["margin"] == pytest.approx(sigmoid[:, 0].mean() - sigmoid[:, 1:].mean())
    assert list(got) == ["accuracy", "avg_pos_score", "avg_neg_score", "margin"]
    far = told_apart(np.array([[900.0, -900.0]], dtype=np.float32))
    assert far == {"accuracy": 1.0, "avg_pos_score": 1.0, "avg_neg_score": 0.0, "margin": 1.0}
    same = told_apart(np.zeros((4, 5), dtype=np.float32))
    assert same == {"accuracy": 0.5, "avg_pos_score": 0.5, "avg_neg_score": 0.5, "margin": 0.0}
