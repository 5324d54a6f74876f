"""The synthetic passages: small words, near-duplicates, and what counting words can and cannot find."""

import re
import unicodedata
from collections import Counter
from pathlib import Path

import bm25s
import numpy as np
import pytest

from data.dataset import Dataset
from data.errors import UserError
from data.sources.demo_passages import FAMILY, WORDS, DemoPassages


@pytest.fixture(scope="module")
def passages() -> Dataset:
    return DemoPassages(name="demo_passages").load(Path())


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def test_its_words_are_few_and_its_texts_short(passages: Dataset) -> None:
    assert passages.queries is not None and passages.provenance.synthetic and passages.kind == "passages"
    assert (len(passages.catalog), len(passages.user_id)) == (300, 1000)
    texts, queries = [[words(text) for text in part] for part in (passages.catalog.description, passages.queries)]
    assert len({word for text in [*texts, *queries] for word in text}) < 300
    assert {15 <= len(text) <= 30 for text in texts} == {True} and {5 <= len(q) <= 9 for q in queries} == {True}
    assert set(passages.sequences.lengths) == {1, 2}
    assert len(set(passages.queries)) == 1000, "no query is asked twice"
    assert all(unicodedata.is_normalized("NFC", text) for text in (*passages.queries, *passages.catalog.description))
    towns = [unicodedata.normalize("NFD", text) != text for text in passages.queries]
    assert np.mean(towns) > 0.9, "letters with marks, so that normalisation matters"


def test_a_relevant_passage_has_all_that_is_asked_and_no_other_has(passages: Dataset) -> None:
    assert passages.queries is not None
    own = {other: word for values in WORDS for word, other in values} | {w: w for v in WORDS for w, _ in v}
    said = [set(words(text)) for text in passages.catalog.description]
    assert not set().union(*said) & {other for values in WORDS for _, other in values}, "words of queries alone"
    question = set("where is a in that and".split())
    for row, query in enumerate(passages.queries):
        wanted = {own.get(word, word) for word in words(query)} - question
        assert {i for i, text in enumerate(said) if wanted <= text} == set(passages.sequences.row(row))


def test_passages_of_a_family_differ_in_a_word(passages: Dataset) -> None:
    values = {word for pair in WORDS for word, _ in pair}
    properties = Counter(frozenset(values & set(words(text))) for text in passages.catalog.description)
    assert {len(known) for known in properties} == {4}
    kinds = [frozenset(values & set(words(text))) for text in passages.catalog.description[:100]]
    assert sum(any(len(a & b) == 3 for b in properties) for a in kinds) == 100


def test_counting_words_finds_the_family_and_not_the_passage(passages: Dataset) -> None:
    retriever = bm25s.BM25()
    retriever.index([words(text) for text in passages.catalog.description], show_progress=False)
    recall = {}
    scores = np.array([retriever.get_scores(words(query)) for query in passages.queries])  # type: ignore[union-attr]
    order = np.argsort(-(scores + 1e-6 * np.random.default_rng(0).random(scores.shape)), axis=1)
    for k in (1, 5, 2 * FAMILY):
        found = [np.isin(passages.sequences.row(row), order[row, :k]).mean() for row in range(len(order))]
        recall[k] = np.mean(found)
    assert recall[1] < 0.25 and 0.4 < recall[5] < 0.65 and recall[2 * FAMILY] > 0.98


def test_it_is_drawn_from_its_seed(passages: Dataset) -> None:
    assert DemoPassages(name="other").load(Path()).sha256 == passages.sha256
    assert DemoPassages(name="demo_passages", seed=1).load(Path()).sha256 != passages.sha256


def test_it_can_be_large_and_small() -> None:
    large = DemoPassages(name="d", n_passages=20_000, n_queries=5_000).load(Path())
    assert (len(large.catalog), len(large.user_id)) == (20_000, 5_000)
    small = DemoPassages(name="d", n_passages=28, n_queries=10).load(Path())
    assert set(small.sequences.lengths) <= {1, 2}
    for setting, says in (
        ({"n_passages": 5}, "dataset.n_passages=5 is out of range"),
        ({"n_queries": 10**9}, "dataset.n_queries=1000000000 is out of range"),
        ({"own_words": 2.0}, "must be in"),
        ({"path": "/x"}, "has no use for dataset=d, which is generated"),
    ):
        with pytest.raises(UserError, match=says):
            DemoPassages(name="d", **setting)  # type: ignore[arg-type]
