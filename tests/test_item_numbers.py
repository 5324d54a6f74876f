"""Numbers of items and users: permutations, and what each scheme lets them know of the data."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.dataset import Dataset, Ragged
from data.splits import LeaveOneOut, Split
from rerankers.vip5.item_numbers import LEAKS, SCHEMES, Numbers, first_appearances, number, numbered


@pytest.mark.parametrize("scheme", SCHEMES)
def test_numbers_are_seeded_permutations_from_one(scheme: str, demo: Dataset, split: Split) -> None:
    first, again, other = (number(scheme, demo, split, seed) for seed in (0, 0, 1))
    for got, n in ((first.item, 60), (first.user, 120)):
        assert got.dtype == np.int64 and sorted(got) == list(range(1, n + 1))
    assert np.array_equal(first.item, again.item) and np.array_equal(first.user, again.user)
    assert not np.array_equal(first.item, other.item) and not np.array_equal(first.user, other.user)
    assert (scheme in LEAKS) == (scheme != "random")


def test_first_appearances_by_hand() -> None:
    rows = Ragged.from_rows([[4, 0], [], [4, 2, 5, 2], [0, 3]])
    order = first_appearances(rows, 8, np.random.default_rng(0))
    assert order[:5].tolist() == [4, 0, 2, 5, 3] and sorted(order[5:]) == [1, 6, 7], (
        "those that never appear come last"
    )
    assert numbered(order)[[4, 0, 2, 5, 3]].tolist() == [1, 2, 3, 4, 5]


def by_walking(numbers: Numbers, sequences: Ragged) -> dict[int, int]:
    """P5's loop: users by their number, each one's new items numbered on."""
    out: dict[int, int] = {}
    for user in np.argsort(numbers.user):
        for item in sequences.row(user).tolist():
            out.setdefault(item, len(out) + 1)
    return out


def test_sequential_numbers_follow_the_walk_of_users(demo: Dataset, split: Split) -> None:
    for scheme, sequences in (("p5_sequential", demo.sequences), ("train_sequential", split.train.histories)):
        numbers = number(scheme, demo, split, 3)
        walked = by_walking(numbers, sequences)
        assert {item: numbers.item[item] for item in walked} == walked


def test_a_part_of_the_users_is_walked_in_the_same_order(demo: Dataset, split: Split) -> None:
    """As the preflight's training has it."""
    part = replace(split, train=split.train.take(np.arange(100, 20, -3)))
    numbers = number("train_sequential", demo, part, 3)
    rows = [split.train.histories.row(user) if user in part.train.ids else [] for user in range(120)]
    walked = by_walking(numbers, Ragged.from_rows(rows))
    assert {item: numbers.item[item] for item in walked} == walked
    assert np.array_equal(numbers.user, number("train_sequential", demo, split, 3).user)


def test_what_only_the_test_has_is_numbered_last_without_it(demo: Dataset, split: Split) -> None:
    rows = [demo.sequences.row(user).tolist() for user in range(len(demo.sequences))]
    target = rows[7][-1]
    rows = [[item for item in row if item != target] for row in rows]
    rows[7].append(target)
    cut = Ragged.from_rows(rows)
    events = replace(demo.interactions, item=cut.values, user=cut.row_of_value)
    events = replace(events, timestamp=np.arange(len(cut.values)))
    data = replace(demo, interactions=events)
    parts = LeaveOneOut().split(data)
    assert number("train_sequential", data, parts, 0).item[target] == 60
    numbers = number("p5_sequential", data, parts, 0)
    before = [item for item, place in by_walking(numbers, cut).items() if place < numbers.item[target]]
    assert numbers.item[target] == len(before) + 1 and set(rows[7]) - {target} <= set(before)


def test_random_numbers_know_nothing_of_the_data(demo: Dataset, split: Split) -> None:
    turned = demo.interactions.item[::-1]
    other = replace(demo, interactions=replace(demo.interactions, item=turned))
    assert np.array_equal(number("random", demo, split, 0).item, number("random", other, split, 0).item)
    shop: Any = SimpleNamespace(user_id=range(3), catalog=range(5000))
    numbers = number("random", shop, split, 0).item
    rows = np.random.default_rng(0).permutation(5000)  # as a dataset of the same seed numbers its rows
    for known in (np.arange(5000), rows, np.argsort(rows), numbers[rows], numbers[np.argsort(rows)]):
        assert abs(np.corrcoef(numbers, known)[0, 1]) < 0.05
