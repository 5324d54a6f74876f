"""Pairs put together from tokens of single texts are what the tokenizer makes of the pair; batches under a budget."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_pairs import WORDS, some_pairs, tokenizer_of

from data.errors import UserError
from rerankers.cross_encoder.pairs import PairTokens

LENGTH = 24
SHAPES = [(3, 4), (30, 5), (5, 30), (30, 30), (29, 31), (31, 29), (10, 11), (11, 10), (9, 40), (40, 9), (0, 5), (5, 0)]
SHAPES += [(0, 0), (0, 90), (90, 0), (1, 1), (10, 12), (12, 10), (11, 11)]


@pytest.fixture(scope="module", params=["bert", "xlmr", "scratch"])
def tokenizer(request: Any) -> Any:
    if request.param != "scratch" and not SHARED.is_dir():
        pytest.skip("needs the shared real data")
    return tokenizer_of(request.param, SHARED)


def whole(tokenizer: Any, pairs: list[tuple[str, str]], length: int) -> dict[str, torch.Tensor]:
    first, second = map(list, zip(*pairs, strict=True))
    return tokenizer(
        first, second, truncation="longest_first", max_length=length, padding=True, return_tensors="pt"
    ).data


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_pairs_are_what_the_tokenizer_makes_of_them(tokenizer: Any) -> None:
    cycle = WORDS * 5
    pairs = [(" ".join(cycle[:a]), " ".join(cycle[3 : 3 + b])) for a, b in SHAPES]
    for length in (16, LENGTH, LENGTH + 1, 200):
        tokens = PairTokens(tokenizer, length)
        got = tokens.batch(tokens.of(pairs))
        expected = whole(tokenizer, pairs, length)
        assert same(got, expected)
        assert int(got["attention_mask"].sum(1).max()) <= length
        for row, pair in enumerate(pairs):
            alone = tokens.batch(tokens.of([pair]))
            assert same(alone, whole(tokenizer, [pair], length)), "padded to the longest of its batch, no further"
            n = int(expected["attention_mask"][row].sum())
            assert alone["input_ids"].shape == (1, n) and tokens.length(tokens.of([pair])[0]) == n


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60)), min_size=1, max_size=4), st.integers(8, 40))
def test_any_text_at_all(tokenizer: Any, pairs: list[tuple[str, str]], length: int) -> None:
    pairs = [tuple(text.encode("utf-8", "ignore").decode() for text in pair) for pair in pairs]  # type: ignore[misc]
    tokens = PairTokens(tokenizer, length)
    assert same(tokens.batch(tokens.of(pairs)), whole(tokenizer, pairs, length))


def test_kept_texts_are_tokenized_once(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = PairTokens(tokenizer, LENGTH)
    pairs = some_pairs(30)
    expected = tokens.batch(tokens.of(pairs))
    monkeypatch.setattr("rerankers.cross_encoder.pairs.TEXTS", 7)
    assert not tokens.known, "what is not to be kept is not"
    tokens.keep([text for _, text in pairs])
    read: list[str] = []
    tokenized = tokens._tokenized
    monkeypatch.setattr(tokens, "_tokenized", lambda texts: read.extend(texts) or tokenized(texts))
    tokens.keep([text for _, text in pairs])
    assert same(tokens.batch(tokens.of(pairs)), expected)
    assert sorted(read) == sorted({query for query, _ in pairs} - {text for _, text in pairs})


def test_what_is_shortened_is_said(tokenizer: Any) -> None:
    tokens = PairTokens(tokenizer, LENGTH)
    pairs = some_pairs(60)
    lengths = [len(tokenizer(query, text)["input_ids"]) for query, text in pairs]
    assert tokens.shortened(pairs).tolist() == [length > LENGTH for length in lengths]
    assert 0 < tokens.shortened(pairs).sum() < 60


def test_what_is_kept_is_forgotten_when_it_is_too_much(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, pairs = PairTokens(tokenizer, LENGTH), some_pairs(60)
    expected, short = tokens.batch(tokens.of(pairs)), tokens.shortened(pairs)
    monkeypatch.setattr("rerankers.cross_encoder.pairs.KNOWN", 40)
    for start in range(0, 60, 20):
        tokens.keep([text for _, text in pairs[start : start + 20]])
        assert len(tokens.known) <= 40
    assert same(tokens.batch(tokens.of(pairs)), expected) and np.array_equal(tokens.shortened(pairs), short)


def test_batches_hold_every_pair_once_within_the_budget(tokenizer: Any) -> None:
    tokens = PairTokens(tokenizer, 200)
    parts = tokens.of(some_pairs(200))
    lengths = np.array([tokens.length(part) for part in parts])
    for budget in (1, 64, 300, 10**6):
        batches = list(tokens.batches(parts, budget))
        assert sorted(p for batch in batches for p in batch) == list(range(200))
        shapes = [tuple(tokens.batch([parts[p] for p in batch])["input_ids"].shape) for batch in batches]
        assert all(rows * width <= max(budget, width) for rows, width in shapes)
        assert all(width == lengths[batch].max() for (_, width), batch in zip(shapes, batches, strict=True))
        widths = [width for _, width in shapes]
        assert widths == sorted(widths, reverse=True), "the longest first"
    padded = sum(len(batch) * lengths[batch].max() for batch in tokens.batches(parts, 300))
    assert padded < 1.1 * lengths.sum() < 0.8 * 200 * lengths.max(), "batches are not padded to the longest of all"
    assert list(tokens.batches([], 300)) == []


def test_a_tokenizer_without_padding_is_refused() -> None:
    tokenizer = tokenizer_of("scratch", None)
    tokenizer.pad_token = None
    with pytest.raises(UserError, match="does not take padded pairs"):
        PairTokens(tokenizer, 16)
