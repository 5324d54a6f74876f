"""The readers of recommendation data and of lists made elsewhere, as the fuzzer takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.dataset import Dataset
from data.sources.sequences import Sequences
from experiments.endurance.fuzzing import Reader


def check_dataset(dataset: Dataset, timed: bool = True) -> None:
    """What every loaded dataset must be, whatever its files were."""
    events, users, items = dataset.interactions, len(dataset.user_id), len(dataset.catalog)
    assert len(events) and users and items
    assert len(set(dataset.user_id)) == users and len(set(dataset.catalog.id)) == items, "ids are not unique"
    assert all(isinstance(name, str) and name for name in (*dataset.user_id, *dataset.catalog.id)), "an id is no text"
    assert (events.user >= 0).all() and (events.user < users).all(), "a user's row is out of range"
    assert (events.item >= 0).all() and (events.item < items).all(), "an item's row is out of range"
    order = np.lexsort((events.timestamp, events.user))
    assert (order == np.arange(len(events))).all(), "interactions are not sorted"
    assert not timed or np.isfinite(events.rating).all(), "a rating is not finite"
    assert dataset.sequences.offsets[-1] == len(events) and (dataset.sequences.lengths > 0).all()
    catalog = dataset.catalog
    for column in (catalog.title, catalog.description, catalog.caption, catalog.semantic_summary):
        assert len(column) == items and all(isinstance(text, str) for text in column), "a text is no text"
    assert all(isinstance(name, str) for names in catalog.categories for name in names), "a category is no text"
    assert len(dataset.sha256) == 64  # every text can be encoded


def read_sequences(folder: Path, skip: bool) -> None:
    found = Sequences(name="sequences", path=str(folder), on_bad_row="skip" if skip else "error").load(folder)
    check_dataset(found, timed=False)


def sequences() -> list[dict[str, bytes]]:
    lines = "u1 a b c\nu2 b c d é\nu3 a d\n7 11 a d b\n"
    items = '{"item_id": "a", "title": "Ký ức"}\n{"item_id": "b", "title": "x", "categories": [["p", "q"]]}\n'
    items += (
        '{"item_id": "c", "title": "C", "description": ["d", "e"]}\n{"item_id": 11, "title": "👍", "caption": "k"}\n'
    )
    plain = {"sequences.txt": lines.encode(), "items.jsonl": items.encode()}
    bom = {name: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n") for name, content in plain.items()}
    return [plain, bom]


READERS = [Reader("sequences", sequences, read_sequences)]
