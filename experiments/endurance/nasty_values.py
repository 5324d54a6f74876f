"""Ids and numbers made to hurt, as cases of `experiments.endurance.nasty_cases`."""

# mypy: disable-error-code="misc,operator"
from __future__ import annotations

from pathlib import Path

from data.sources.movielens import MovieLens100K
from experiments.endurance.nasty_cases import amazon, case, noted, published, ratings, refused, write
from experiments.endurance.readers import amazon_files, json_lines, movielens, reviews

IDS, NUMBERS = "ids twice, negative, huge", "odd ratings and times"


# ids


@case(IDS, "the same rating twice")
def _(folder: Path) -> None:
    dataset = ratings(folder, "1\t2\t3\t10", "1\t2\t5\t10", "2\t2\t1\t11")
    assert len(dataset.interactions) == 2
    noted(dataset, "repeat")


@case(IDS, "an item twice in items.jsonl and in u.item")
def _(folder: Path) -> None:
    twice = [{"item_id": "a", "title": "x"}, {"item_id": "a", "title": "y"}]
    refused(lambda: published(folder, "u a b\n", twice), "items.jsonl", "record 2", "second time")
    files = movielens()[0]
    write(folder / "ml", files | {"u.item": files["u.item"] * 2})
    refused(lambda: MovieLens100K(name="ml_100k", path=str(folder / "ml")).load(folder), "item id", "twice")


@case(IDS, "a user twice in a file of sequences")
def _(folder: Path) -> None:
    refused(lambda: published(folder, "u a b\nv b\nw c\nu c\n"), "line 4", "user u", "second time")


@case(IDS, "negative, huge and strange ids")
def _(folder: Path) -> None:
    users = ["-1", "0", "007", "9" * 400, "1e5", "user 1", "\u202eabc", "e\u0301", "é", "__proto__", "👩‍👩‍👧"]
    dataset = ratings(folder, *(f"{user}\t-9\t3\t10" for user in users))
    assert set(dataset.user_id) == set(users) and list(dataset.catalog.id) == ["-9"], "an id has changed"


@case(IDS, "numbers as JSON ids")
def _(folder: Path) -> None:
    number = 10**300
    dataset = published(folder, f"u -3 {number}\n", [{"item_id": -3, "title": "a"}, {"item_id": number, "title": "b"}])
    assert dict(zip(dataset.catalog.id, dataset.catalog.title, strict=True)) == {"-3": "a", str(number): "b"}


# numbers


@case(NUMBERS, "NaN, infinite and absurd ratings")
def _(folder: Path) -> None:
    for value in ("nan", "inf", "-inf", "1e400", "1e30", "3,5", "", "1_0", "٣"):
        rows = ["1\t2\t3\t10", f"1\t3\t{value}\t11"]
        refused(lambda rows=rows: ratings(folder, *rows), "u.data, line 2: rating is", "not a finite number")
        dataset = ratings(folder, *rows, skip=True)
        assert len(dataset.interactions) == 1 and dataset.interactions.rating.tolist() == [3.0]
        noted(dataset, "1 bad rows of u.data were left out")


@case(NUMBERS, "a rating that is NaN in JSON")
def _(folder: Path) -> None:
    files = amazon_files(".json") | {"reviews_x.json": json_lines([reviews()[0] | {"overall": float("nan")}])}
    refused(lambda: amazon(folder, files), "reviews_x.json, line 1: overall is nan")


@case(NUMBERS, "timestamps before 1970, in the future and in milliseconds")
def _(folder: Path) -> None:
    rows = ["1\t2\t3\t-5", "1\t3\t3\t4102444800", "1\t4\t3\t881250949000", "2\t4\t3\t9223372036854775807"]
    dataset = ratings(folder, *rows)
    noted(dataset, "3 interactions are of the year 2100 or later")
    assert sorted(dataset.interactions.timestamp) == [-5, 4102444800, 881250949000, 2**63 - 1]


@case(NUMBERS, "a timestamp beyond 64 bits")
def _(folder: Path) -> None:
    refused(lambda: ratings(folder, "1\t2\t3\t9223372036854775808"), "line 1: timestamp", "not a whole number")
