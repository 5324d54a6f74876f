"""Published sequences: one line a user, `user item item ...`, oldest first, as SASRec, S3-Rec, P5 and VIP5 give them.

python train.py dataset=beauty_sequences dataset.path=/my/beauty            # a folder with sequences.txt, items.jsonl
python train.py dataset=sequences dataset.path=/my/data dataset.items=null  # ids alone

Ids of these files are numbered by first appearance, test items included, so "last id + 1" beats published models;
here, as everywhere, users and items become rows in a seeded random order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.errors import UserError
from data.files import existing_folder, file_sha256, read_records, words_by_line
from data.sources.item_text import clean, names_of, whole
from data.sources.source import Raw, Source

TEXTS = ("title", "description", "caption", "semantic_summary")


@dataclass
class Sequences(Source):
    sequences: str = "sequences.txt"  # in the folder `path`
    items: str | None = "items.jsonl"  # one object a line with item_id, and any of title, description, categories ...
    source: str = "sequences of unknown origin"
    licence: str = "unknown"

    def read(self, data_dir: Path) -> Raw:
        if self.path is None:
            raise UserError(f"dataset={self.name} needs dataset.path, the folder that holds {self.sequences}")
        folder = existing_folder(Path(self.path), "dataset.path")
        names = [self.sequences, *([self.items] if self.items else [])]
        for name in names:
            if not (folder / name).is_file():
                raise UserError(f"{folder} has no file {name}; give dataset.sequences= and dataset.items= (or null)")
        notes: list[str] = []
        events = read_sequences(folder / self.sequences, self.on_bad_row, notes)
        if self.items:
            items = read_items(folder / self.items)
            touched = set(events["item"])
            if touched and touched.isdisjoint(items.index):
                raise UserError(
                    f"{self.items} has none of the items of {self.sequences} (it has {items.index[0]!r}, the other "
                    f"{events['item'].iloc[0]!r}); give the same ids, or dataset.items=null"
                )
            if unknown := len(touched - set(items.index)):
                notes.append(f"{unknown:,} items are not in {self.items} and have no text")
        else:
            items = pd.DataFrame(index=pd.Index(events["item"].unique()))
        return Raw(
            interactions=events,
            items=items,
            source=self.source,
            licence=self.licence,
            files={name: file_sha256(folder / name) for name in names},
            notes=notes,
            timed=False,
        )


def read_sequences(path: Path, on_bad_row: str, notes: list[str]) -> pd.DataFrame:
    """user, item, timestamp (the place in the line) and rating (NaN), without a loop over users."""
    words, line = words_by_line(path)
    first = np.flatnonzero(np.diff(line, prepend=-1))
    length = np.diff(np.append(first, len(line)))  # words of each line that is not empty
    user = words[first]
    twice = pd.Index(user).duplicated()
    bad = (length < 2) | twice
    if len(bad) and bad.mean() > 0.5:
        raise UserError(
            f"{path} is not a file of sequences: each line must be `user item item ...`, separated by blanks, one "
            "line a user; for a file of ratings write a reader (README, Add a dataset)"
        )
    if finding := layout(path, words, line, first):
        if on_bad_row == "error":
            raise UserError(
                f"{finding}; each line must be `user item item ...`, separated by blanks; if that is what it holds "
                "pass dataset.on_bad_row=skip"
            )
        notes.append(finding)
    if bad.any() and on_bad_row == "error":
        at = int(np.argmax(bad))
        problem = f"user {user[at]} stands there a second time" if twice[at] else f"user {user[at]} has no item"
        raise UserError(
            f"{path}, line {line[first[at]] + 1}: {problem}; mend it or pass dataset.on_bad_row=skip to leave such "
            "rows out"
        )
    if bad.any():
        notes.append(f"{int(bad.sum()):,} bad rows of {path.name} were left out")
    place = np.arange(len(line)) - np.repeat(first, length)
    keep = (place > 0) & ~np.repeat(bad, length)
    return pd.DataFrame(
        {
            "user": np.repeat(user, length)[keep],
            "item": words[keep],
            "timestamp": place[keep],
            "rating": np.nan,
        }
    )


def layout(path: Path, words: np.ndarray, line: np.ndarray, first: np.ndarray) -> str | None:
    """What looks wrong: a table or a text gives users and items in plenty, and numbers that mean nothing. Ids that
    end in a colon, most of them of items that stand there once, look the same.
    """
    start = words[: np.searchsorted(line, line[0] + 1000)] if len(line) else words
    marked = [line[at] for at, word in enumerate(start) if "," in word or word[-1] in ".;:!?"]
    if len(np.unique(marked)) <= 0.5 * len(np.unique(line[: len(start)])):
        return None
    code, distinct = pd.factorize(np.delete(words, first))
    count = np.bincount(code)
    if (count == 1).mean() <= 0.5:
        return None
    return (
        f"{path} looks like a table or a text: most of its lines have words with a comma or a full stop, and "
        f"{(count == 1).sum():,} of {len(distinct):,} items stand there once"
    )


def read_items(path: Path) -> pd.DataFrame:
    """JSONL or CSV with `item_id`; texts on one line, category paths as one tuple of distinct names."""
    records = read_records(path)
    for number, record in enumerate(records, start=1):
        if record.get("item_id") in (None, ""):
            raise UserError(f"{path}, record {number}: no item_id; each item needs one")
    if not records:
        raise UserError(f"{path} holds no item; give dataset.items=null to do without texts")
    index = pd.Index([whole(str(record["item_id"])) for record in records], dtype=object)
    if index.has_duplicates:
        at = int(np.argmax(index.duplicated()))
        raise UserError(f"{path}, record {at + 1}: the item_id {index[at]} stands there a second time; give it once")
    columns: dict[str, Any] = {
        name: [clean(record.get(name)) for record in records]
        for name in TEXTS
        if any(record.get(name) for record in records)
    }
    columns["categories"] = [names_of(record.get("categories")) for record in records]
    return pd.DataFrame(columns, index=index)
