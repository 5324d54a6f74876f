"""The fuzzer sees each kind of wrong value: whole files are read, and one value of what was read is changed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.dataset import Dataset
from data.run_file import RunFile
from data.sources.passages import PassageSource
from data.sources.source import Source
from experiments.endurance import list_readers, passage_readers, readers
from experiments.endurance.breaking import Files
from experiments.endurance.fuzzing import Reader, structured
from experiments.endurance.naive_files import cells_of, number_of, whole_of


def read(reader: Reader, number: int, folder: Path) -> bool:
    """Its whole files of this number."""
    for name, content in reader.whole()[number].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return reader.read(folder, False)


def turned(values: np.ndarray) -> np.ndarray:
    """Each has the value of another."""
    return np.roll(values, 1, axis=0)


def event(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Dataset], Dataset]:
    def changed(it: Dataset) -> Dataset:
        new: dict[str, Any] = {name: change(getattr(it.interactions, name))}
        return replace(it, interactions=replace(it.interactions, **new))

    return changed


def text(name: str, change: Callable[[np.ndarray], np.ndarray] = turned) -> Callable[[Dataset], Dataset]:
    def changed(it: Dataset) -> Dataset:
        new: dict[str, Any] = {name: change(getattr(it.catalog, name))}
        return replace(it, catalog=replace(it.catalog, **new))

    return changed


def next_to(values: np.ndarray) -> np.ndarray:
    return np.nextafter(values, np.float32(np.inf))


ITEMS = [event("item", turned), text("title"), text("id")]
TIMED = [*ITEMS, event("timestamp", lambda times: times + (np.arange(len(times)) == 0)), event("rating", next_to)]
WRONG: dict[str, list[Callable[[Dataset], Dataset]]] = {
    "movielens": [*TIMED, text("categories", lambda names: np.array([("War",)] * len(names) + [()], object)[:-1])],
    "movielens archive": TIMED,
    "amazon 2014": [*TIMED, text("description"), text("categories"), event("review", turned)],
    "amazon 2018": [*TIMED, text("description"), text("categories"), event("review", turned)],
    "sequences": [*ITEMS, text("description"), text("categories")],
    "item fields": [text("title"), text("description"), text("categories"), text("semantic_summary")],
    "image features": [text("image_features"), text("image_features", next_to)],
}
PASSAGES = [
    event("item", turned),
    text("id"),
    text("description"),
    lambda it: replace(it, queries=turned(it.queries)),
    lambda it: replace(it, user_id=turned(it.user_id)),
]
LISTS: list[Callable[[RunFile], RunFile]] = [
    lambda run: replace(run, scores=next_to(run.scores)),
    lambda run: replace(run, item=turned(run.item)),
    lambda run: replace(run, requests=turned(run.requests)),
]
OF_ITEMS = [reader for reader in (*readers.READERS, *list_readers.READERS) if reader.name in WRONG]
OF_PASSAGES = [reader for reader in passage_readers.READERS if not reader.name.startswith("texts")]
OF_TEXTS = [reader for reader in passage_readers.READERS if reader.name.startswith("texts")]
OF_LISTS = [reader for reader in list_readers.READERS if reader.name.startswith("lists")]


def found(reader: Reader, folder: Path, monkeypatch: pytest.MonkeyPatch, *planted: Any) -> None:
    """`planted`: an object, its attribute, and what is done to what it returns."""
    owner, name, change = planted
    assert read(reader, 0, folder), "it is not compared"
    right = getattr(owner, name)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, lambda *given: change(right(*given)))
        with pytest.raises(AssertionError):
            read(reader, 0, folder)


@pytest.mark.parametrize("reader", OF_ITEMS, ids=lambda reader: reader.name)
def test_a_wrong_value_of_items_is_found(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for change in WRONG[reader.name]:
        found(reader, tmp_path, monkeypatch, Source, "load", change)


@pytest.mark.parametrize("reader", OF_PASSAGES, ids=lambda reader: reader.name)
def test_a_wrong_value_of_passages_is_found(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for change in PASSAGES:
        found(reader, tmp_path, monkeypatch, PassageSource, "load", change)


@pytest.mark.parametrize("reader", OF_LISTS, ids=lambda reader: reader.name)
def test_a_wrong_value_of_lists_is_found(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for change in LISTS:

        def changed(runs: dict[str, RunFile], change: Any = change) -> dict[str, RunFile]:
            return {phase: change(run) for phase, run in runs.items()}

        found(reader, tmp_path, monkeypatch, list_readers, "read_run_file", changed)


@pytest.mark.parametrize("reader", OF_TEXTS, ids=lambda reader: reader.name)
def test_a_wrong_text_to_rank_is_found(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for change in (lambda rows: rows[1:], lambda rows: [rows[0]._replace(text="x"), *rows[1:]]):
        found(reader, tmp_path, monkeypatch, passage_readers, "read_texts", change)


def test_a_wrong_pixel_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a PNG; a JPEG has no pixels that its bytes alone say."""

    def darker(picture: Any) -> Any:
        picture.putpixel((3, 4), tuple(max(0, value - 2) for value in picture.getpixel((3, 4))))
        return picture

    (reader,) = (reader for reader in list_readers.READERS if reader.name == "pictures")
    assert [read(reader, number, tmp_path) for number in (0, 1)] == [False, True]
    right = list_readers.Content.open
    monkeypatch.setattr(list_readers.Content, "open", lambda *given: darker(right(*given)))
    with pytest.raises(AssertionError, match="a pixel is not the file's"):
        read(reader, 1, tmp_path)


def test_every_reader_compares_its_whole_files(tmp_path: Path) -> None:
    for n, reader in enumerate((*readers.READERS, *list_readers.READERS, *passage_readers.READERS)):
        for number in range(len(reader.whole()) if reader.name != "pictures" else 0):
            assert read(reader, number, tmp_path / f"{n}-{number}"), f"{reader.name}, {number}"


def test_the_naive_readings_are_right() -> None:
    assert cells_of('a,"b, ""c""\nd",\n\ne', ",") == [["a", 'b, "c"\nd', ""], [], ["e"]]
    assert cells_of('"",""\n', ",") == [["", ""], []]
    numbers = [
        "1e5",
        " 4.50 ",
        "9" * 400,
        "nan",
        "1_0",
        "٣",
        str(2**63 - 1),
        str(2**63),
        "1.5",
        "\x1e1",
    ]
    assert [number_of(number) for number in numbers[:6]] == [1e5, 4.5, None, None, None, None]
    assert [whole_of(number) for number in numbers] == [10**5, *[None] * 5, 2**63 - 1, None, None, None]


def test_hypothesis_edits_the_files_of_a_reader_whose_rows_it_has_no_strategy_for() -> None:
    whole: list[Files] = [{"a/b.csv": b"id,text\n1,x\n", "c.bin": bytes(40)}]
    reader = Reader("no rows", lambda: whole, lambda folder, skip: True)
    made: list[Files] = []
    assert structured(reader, whole, 0, 30, lambda number, files: made.append(files)) == len(made) >= 20
    assert all(files.keys() == whole[0].keys() for files in made)
    changed = [{name for name in files if files[name] != whole[0][name]} for files in made]
    assert all(len(names) <= 1 for names in changed) and set().union(*changed) == whole[0].keys()
