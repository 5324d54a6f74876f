"""What files of recommendation data hold, read in the plainest way, and what a reader made of it beside that."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.dataset import Dataset
from data.sources.movielens import GENRES
from experiments.endurance.naive_files import (
    Unclear,
    cells_of,
    distinct,
    filled,
    json_of,
    lines_of,
    literal_of,
    mended,
    number_of,
    one_line,
    text_of,
    whole_of,
    without_markup,
)


class Event(NamedTuple):
    user: str
    item: str
    time: int
    rating: float | None = None
    review: str | None = None
    headline: str | None = None


class Item(NamedTuple):
    title: str = ""
    categories: tuple[str, ...] = ()
    description: str = ""
    semantic_summary: str = ""


def same(dataset: Dataset, events: list[Event], items: dict[str, Item]) -> None:
    """Every event and every text of the dataset is that of the file: of a pair that comes again the earliest counts,
    and items without a title are left out, where any has one."""
    titled = {name for name, item in items.items() if item.title.strip()}
    first: dict[tuple[str, str], Event] = {}
    for event in sorted(events, key=lambda event: event.time):  # what is of one time keeps the order of the file
        if event.item in titled or not titled:
            first.setdefault(event[:2], event)
    expected: dict[str, list[Event]] = {}
    for event in first.values():
        expected.setdefault(event.user, []).append(event)
    found = rows_of(dataset)
    assert found.keys() == expected.keys(), "users are missing or too many"
    for user, own in expected.items():
        assert found[user] == [shortened(event) for event in own], f"an event of user {user[:40]!r} is not the file's"
    used = {event.item for event in first.values()}
    catalog = dataset.catalog
    assert set(catalog.id) == used, "items are missing or too many"
    texts = zip(catalog.title, catalog.categories, catalog.description, catalog.semantic_summary, strict=True)
    for name, have in zip(catalog.id, texts, strict=True):
        assert have == tuple(items.get(name, Item())), f"a text of item {name[:40]!r} is not the file's"


def shortened(event: Event) -> tuple[Any, ...]:
    rating = None if event.rating is None else float(np.float32(event.rating))
    return (*event[1:3], rating, *event[4:])


def rows_of(dataset: Dataset) -> dict[str, list[tuple[Any, ...]]]:
    """user -> (item, time, rating, review, headline), oldest first."""
    events = dataset.interactions
    out: dict[str, list[tuple[Any, ...]]] = {}
    for at in range(len(events)):
        rating = float(events.rating[at])
        words = [None if texts is None else texts[at] for texts in (events.review, events.headline)]
        row = dataset.catalog.id[events.item[at]], int(events.timestamp[at]), None if rating != rating else rating
        out.setdefault(dataset.user_id[events.user[at]], []).append((*row, *words))
    return out


# MovieLens


def ratings(lines: list[str]) -> tuple[list[Event], int]:
    """The good rows, and how many are bad."""
    out, bad = [], 0
    for line in filled(lines):
        user, item, rating, time, *_ = *line.split("\t"), "", "", "", ""
        value, moment = number_of(rating), whole_of(time)
        if user and item and value is not None and moment is not None:
            out.append(Event(user, item, moment, value))
        else:
            bad += 1
    return out, bad


def films(lines: list[str]) -> tuple[dict[str, Item], int]:
    out, bad = {}, 0
    for line in filled(lines):
        name, title, *rest = *line.split("|"), ""
        flags = [whole_of(flag) for flag in rest[3 : 3 + len(GENRES)]]
        if name and title and len(rest) > 3 + len(GENRES) and None not in flags:
            assert name not in out, "a film stands there twice"
            out[name] = Item(title, tuple(genre for genre, flag in zip(GENRES, flags, strict=True) if (flag or 0) > 0))
        else:
            bad += 1
    return out, bad


# Amazon


def reviews(path: Path) -> tuple[list[Event], int]:
    out, bad = [], 0
    for record in (literal_of(line) for line in content_of(path).split(b"\n") if line and not line.isspace()):
        event = None if record is None else review(record)
        out += [event] if event else []
        bad += event is None
    return out, bad


def content_of(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def review(record: dict[str, Any]) -> Event | None:
    user, item, time, rating = (record.get(name, "") for name in ("reviewerID", "asin", "unixReviewTime", "overall"))
    if not all(isinstance(name, str) and name.strip() for name in (user, item)):
        return None
    if type(time) is not int or type(rating) not in (int, float):
        return None
    if not all(abs(number) < 2**63 for number in (time, rating)):
        return None
    headline, text = without_markup(record.get("summary")), without_markup(record.get("reviewText"))
    both = f"{headline}: {text}" if headline and text else headline or text
    return Event(mended(str(user)), mended(str(item)), time, float(rating), both, headline)


def products(path: Path, wanted: set[str]) -> dict[str, Item]:
    """The first line of each item that is wanted."""
    out: dict[str, Item] = {}
    for line in content_of(path).split(b"\n"):
        record = literal_of(line) if line.strip() else None
        name = record.get("asin") if record else None
        if record and isinstance(name, str) and (name := mended(name)) in wanted and name not in out:
            title = record.get("title")
            if isinstance(title, str) and any(sign in title for sign in ("var ", "function", "getTime")):
                raise Unclear("a title that may be a piece of a web page")
            categories = record.get("category") or record.get("categories") or record.get("main_cat")
            names = distinct(categories, without_markup)
            out[name] = Item(without_markup(title), names, without_markup(record.get("description")))
    return out


# Sequences and texts of items


def sequences(path: Path) -> tuple[list[Event], int]:
    out, bad, seen = [], 0, set()
    for line in lines_of(path.read_bytes()):
        user, *row = *line.encode().split(), b""
        if user:
            name = user.decode()
            if len(row) < 2 or name in seen:
                bad += 1
            else:
                out += [Event(name, item.decode(), place) for place, item in enumerate(row[:-1], start=1)]
            seen.add(name)
    return out, bad


def records(path: Path) -> list[dict[str, Any]]:
    """JSONL, or CSV with a header."""
    if path.suffix == ".jsonl":
        found = [json_of(line) for line in filled(lines_of(path.read_bytes()))]
        assert None not in found, "a line that is no JSON object"
        return [record for record in found if record is not None]
    header, *rows = cells_of(text_of(path), ",")
    return [dict(zip(header, row + [None] * len(header), strict=False)) for row in rows if row]


def texts_of_items(path: Path) -> dict[str, Item]:
    out = {}
    for record in records(path):
        texts = [one_line(record.get(name)) for name in ("title", "description", "semantic_summary")]
        out[mended(str(record["item_id"]))] = Item(texts[0], distinct(record.get("categories")), *texts[1:])
    return out


def joined(
    items: dict[str, Item], rows: Iterable[dict[str, Any]], by_title: str | None, **fields: str
) -> dict[str, Item]:
    """`items` with the fields of the last row of the same id, or of the same title."""

    def folded(title: Any) -> str:
        return " ".join(str(title).split()).casefold()

    key = by_title or "item_id"
    known = {folded(row[key]) if by_title else str(row[key]): row for row in rows if row.get(key) is not None}
    out = {}
    for name, item in items.items():
        row = known.get(folded(item.title) if by_title else name, {})
        new: dict[str, Any] = {}
        for field, target in fields.items():
            if (value := row.get(field)) not in (None, ""):
                texts = [mended(str(part)) for part in (value if isinstance(value, list) else [value])]
                new[target] = tuple(texts) if target == "categories" else ", ".join(texts)
        out[name] = item._replace(**new)
    return out
