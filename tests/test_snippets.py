"""Pseudo-queries: the passage's own words, of the lengths asked for, and nothing like a held-out query."""

import logging
import unicodedata

import numpy as np
import pytest
from tiny_passages import generated, passages

from data.errors import UserError
from data.snippets import sentences, snippets, too_like
from data.words import words

TEXT = """Giới thiệu: câu lạc bộ thành lập ngày 9.10.2011 lúc 9:30! Ai tham gia được? Sinh viên
năm nhất; rồi năm hai. Is version 3.5 of the club's own judge still open to every student who asks for it?"""


def test_sentences_end_at_signs_and_lines_and_not_inside_numbers() -> None:
    got = [" ".join(sentence) for sentence in sentences(unicodedata.normalize("NFD", TEXT))]
    assert got == [
        "Giới thiệu",
        "câu lạc bộ thành lập ngày 9.10.2011 lúc 9:30",
        "Ai tham gia được",
        "Sinh viên",
        "năm nhất",
        "rồi năm hai",
        "Is version 3.5 of the club's own judge still open to every student who asks for it",
    ]
    assert sentences(" \n . ! ") == []


def test_snippets_are_runs_of_the_passages_own_words() -> None:
    dataset = passages([TEXT, "quá ngắn.", "một hai ba bốn năm"], ["x"], [[0]])
    texts, rows = snippets(dataset.catalog, [], per_passage=6, seed=0, min_words=4, max_words=7)
    assert rows.dtype == np.int32 and set(rows.tolist()) == {0, 2} and (np.diff(rows) >= 0).all()
    assert 0 < (rows == 0).sum() <= 6 and len(set(texts.tolist())) == len(texts)
    for text, row in zip(texts, rows, strict=True):
        assert 4 <= len(text.split()) <= 7
        own = [" ".join(sentence) for sentence in sentences(dataset.catalog.description[row])]
        assert any(f" {text} " in f" {sentence} " for sentence in own), "within one sentence, in its order"
    many, _ = snippets(dataset.catalog, [], per_passage=40, seed=0, min_words=4, max_words=7)
    assert "Ai tham gia được" in many, "a sentence that fits is also taken whole"
    assert len({text.split()[0] for text in many}) > 8


def test_the_seed_and_the_passage_decide() -> None:
    catalog = generated().catalog
    texts, rows = snippets(catalog, [], 3, 0, 3, 6)
    again, _ = snippets(catalog, [], 3, 0, 3, 6)
    other, _ = snippets(catalog, [], 3, 1, 3, 6)
    assert len(texts) == 120 and np.array_equal(texts, again) and not np.array_equal(texts, other)
    assert np.array_equal(np.bincount(rows), np.full(40, 3))
    for settings in ((0, 0, 3, 6), (3, 0, 0, 6), (3, 0, 7, 6)):
        with pytest.raises(UserError, match="out of range"):
            snippets(catalog, [], *settings)


@pytest.mark.parametrize(
    ("text", "query", "like"),
    [
        ("a b c", "a b c", True),
        ("A, b! C", "c b a", True),  # the same words in another order
        ("a b c", "x a b c d e f g", True),  # all of it stands in the query
        ("a c b", "x a b c d e f g", False),
        ("x a b y z u v w", "a b", True),  # all of the query stands in it
        ("x ab y", "a", False),  # words, not letters
        ("a b c d", "a b c e", False),  # 3 of 5
        ("a b c d e", "b a c d f e", True),  # 5 of 6
        ("b a c", "a b c d e", False),  # 3 of 5 is .6, not above it
        ("u v", "a b", False),
    ],
)
def test_what_is_too_like_a_query(text: str, query: str, like: bool) -> None:
    assert too_like([text, "q q"], ["nothing here", query]).tolist() == [like, False]
    assert too_like([text], []).tolist() == [False] and len(too_like([], [query])) == 0


def test_the_filter_is_that_of_every_pair(caplog: pytest.LogCaptureFixture) -> None:
    dataset = generated(n_queries=200)
    assert dataset.queries is not None
    held_out = [*dataset.queries, *(" ".join(text.split()[:5]) for text in dataset.catalog.description[:10])]
    everything, rows = snippets(dataset.catalog, [], 8, 0, 3, 7)
    with caplog.at_level(logging.INFO):
        kept, kept_rows = snippets(dataset.catalog, held_out, 8, 0, 3, 7)

    def like(a: list[str], b: list[str]) -> bool:
        inside = f" {' '.join(a)} " in f" {' '.join(b)} " or f" {' '.join(b)} " in f" {' '.join(a)} "
        return inside or len(set(a) & set(b)) / len(set(a) | set(b)) > 0.6

    wanted = [not any(like(words(text), words(query)) for query in held_out) for text in everything]
    assert 0 < sum(wanted) < len(wanted)
    assert np.array_equal(kept, everything[wanted]) and np.array_equal(kept_rows, rows[wanted])
    n_left = len(wanted) - sum(wanted)
    assert f"snippets: {sum(wanted)} of 40 items; {n_left} left out that are too like a held-out query" in caplog.text
