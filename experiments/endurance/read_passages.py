"""What must hold of every dataset of passages that a reader makes: of its files, no line is lost in silence."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.sources.passages import PassageSource, RawPassages

COUNTED = re.compile(r"([\d,]+) (?:bad rows of (\S+) were left out|queries without a relevant passage were left out)")


def check_passages(dataset: Dataset) -> None:
    """What every loaded dataset of passages must be, whatever its files were."""
    events, queries, passages = dataset.interactions, len(dataset.user_id), len(dataset.catalog)
    assert queries and passages and len(events) >= queries
    assert len(set(dataset.user_id)) == queries and len(set(dataset.catalog.id)) == passages, "ids are not unique"
    assert dataset.queries is not None and len(dataset.queries) == queries
    for texts in (dataset.user_id, dataset.catalog.id, dataset.queries, dataset.catalog.description):
        assert all(isinstance(text, str) and text.strip() == text != "" for text in texts), "a text is empty"
        assert all(unicodedata.is_normalized("NFC", text) for text in texts), "a text is not composed"
    assert (events.user >= 0).all() and (events.user < queries).all(), "a query's row is out of range"
    assert (events.item >= 0).all() and (events.item < passages).all(), "a passage's row is out of range"
    pairs = set(zip(events.user.tolist(), events.item.tolist(), strict=True))
    assert len(pairs) == len(events), "a passage is relevant twice"
    assert (dataset.sequences.lengths > 0).all(), "a query without a relevant passage"
    assert len(dataset.sha256) == 64  # every text can be encoded


def loaded(source: PassageSource, folder: Path) -> tuple[RawPassages, Dataset]:
    """What was read, and the dataset of it; the files are read once."""
    found: list[RawPassages] = []
    read = source.read

    def once(data_dir: Path, bad: Any) -> RawPassages:
        found.append(read(data_dir, bad))
        return found[0]

    source.read = once  # type: ignore[method-assign]
    dataset = source.load(folder)
    check_passages(dataset)
    return found[0], dataset


def check_counts(folder: Path, raw: RawPassages, dataset: Dataset, corpus: str, queries: str) -> None:
    """Of two JSONL files: every line is a row of the dataset, or counted as left out."""
    for name, kept in ((corpus, len(dataset.catalog)), (queries, len(dataset.user_id))):
        lines = [line for line in lines_of(folder / name) if line.strip()]
        gone = [found for note in raw.notes if (found := COUNTED.match(note)) and found[2] in (None, name)]
        out = sum(int(found[1].replace(",", "")) for found in gone if found[2] == name or name == queries)
        assert kept + out == len(lines), f"{len(lines)} lines of {name}, {kept} kept and {out} counted as left out"
    if not any(COUNTED.match(note) for note in raw.notes):
        texts = [json.loads(line) for line in lines_of(folder / corpus) if line.strip()]
        naive = {plain(str(row.get("_id", row.get("id")))) for row in texts}
        assert naive >= set(dataset.catalog.id) or len(naive) == len(dataset.catalog), "an id is not the file's"


def lines_of(path: Path) -> list[str]:
    """As any system ends them."""
    return path.read_text(encoding="utf-8-sig").split("\n")


def plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()
