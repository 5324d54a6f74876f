"""What must hold of every dataset that a reader makes, and what the readers' files and checks share."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from data.dataset import Dataset
from data.sources.source import Raw, Source
from experiments.endurance.breaking import Files

BOM = b"\xef\xbb\xbf"
TITLES = ["Toy Story (1995)", "Ký ức vui vẻ", "👩‍👩‍👧 & <b>Té</b>", "A. the answer"]


def check_dataset(dataset: Dataset, rated: bool = True) -> None:
    """What every loaded dataset must be, whatever its files were."""
    events, users, items = dataset.interactions, len(dataset.user_id), len(dataset.catalog)
    assert len(events) and users and items
    assert len(set(dataset.user_id)) == users and len(set(dataset.catalog.id)) == items, "ids are not unique"
    assert all(isinstance(name, str) and name for name in (*dataset.user_id, *dataset.catalog.id)), "an id is no text"
    assert (events.user >= 0).all() and (events.user < users).all(), "a user's row is out of range"
    assert (events.item >= 0).all() and (events.item < items).all(), "an item's row is out of range"
    order = np.lexsort((events.timestamp, events.user))
    assert (order == np.arange(len(events))).all(), "interactions are not sorted"
    assert not rated or np.isfinite(events.rating).all(), "a rating is not finite"
    assert dataset.sequences.offsets[-1] == len(events) and (dataset.sequences.lengths > 0).all()
    catalog = dataset.catalog
    for column in (catalog.title, catalog.description, catalog.caption, catalog.semantic_summary):
        assert len(column) == items and all(isinstance(text, str) for text in column), "a text is no text"
    assert all(isinstance(name, str) for names in catalog.categories for name in names), "a category is no text"
    assert len(dataset.sha256) == 64  # every text can be encoded


def check_left_out(dataset: Dataset, bad: dict[str, int]) -> None:
    """`bad`: file name -> its bad rows, each of which the notes must count."""
    for name, expected in bad.items():
        said = re.compile(rf"([\d,]+) bad rows of {re.escape(name)} were left out")
        counted = [found[1] for note in dataset.provenance.notes if (found := said.match(note))]
        assert [f"{expected:,}"] * (expected > 0) == counted, f"{expected} bad rows of {name}, {counted} counted"


def handling(skip: bool) -> str:
    return "skip" if skip else "error"


def in_windows(files: Files) -> Files:
    """The same files with a byte-order mark and CRLF."""
    return {name: BOM + content.replace(b"\n", b"\r\n") for name, content in files.items()}


class Fixed(Source):
    """A dataset whose own files are right, so that only what is joined to it can be broken."""

    def read(self, data_dir: Path) -> Raw:
        events = pd.DataFrame({"user": ["u", "u", "v"], "item": ["a", "b", "c"]}, dtype=object)
        events = events.assign(timestamp=[1, 2, 1], rating=1.0)
        items = pd.DataFrame({"title": TITLES[:3]}, index=pd.Index(["a", "b", "c"], dtype=object))
        return Raw(events, items, "made up", "none", {})
