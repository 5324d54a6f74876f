"""Odd data: it runs with the numbers of a naive calculation, or one sentence refuses it."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from data.errors import UserError
from data.files import read_records
from data.sources.passage_files import PassageFiles
from data.splits import shown
from data.tables import BadRows, read_table
from experiments.endurance.fuzzing import fuzz, reader_named
from experiments.endurance.nasty_requests import brute_force, first_after, left_out_last, problem
from experiments.endurance.nasty_tables import SHEET, bomb, changed
from experiments.endurance.odd_ids import all_cases
from experiments.endurance.passage_readers import READERS

QUICK = [
    "a single user",
    "a first stage that saw one pair",
    "a user without an item, skipped",
    "sampled negatives, all that there are",
    "milliseconds, a temporal cut",
    "2**62, a temporal cut",
    "all equal",
    "a NaN rating",
    "a pair again, later",
    "a user all of whose items are filtered",
    "numbers that are negative, huge or written in two ways",
    "blanks, slashes, quotes, line breaks, twins of composed letters",
    "two queries of one text",
    "positives that are not there, skipped",
]


@pytest.mark.parametrize("what", QUICK)
def test_odd_data_runs_right_or_is_refused(what: str, tmp_path: Path) -> None:
    (case,) = [case for case in all_cases() if case.what == what]
    assert problem(case, tmp_path) is None


def test_a_wrong_number_and_a_wrong_sentence_are_found(tmp_path: Path) -> None:
    (case,) = [case for case in all_cases() if case.what == "two users"]
    assert case.events is not None
    turned = [(user, item, -moment) for user, item, moment in case.events]
    assert "by hand" in str(problem(replace(case, events=turned), tmp_path / "a"))
    assert "was to be refused" in str(problem(replace(case, says="x"), tmp_path / "b"))
    (case,) = [case for case in all_cases() if case.what == "a 1,000-core"]
    assert "in other words" in str(problem(replace(case, says="nothing of it"), tmp_path / "c"))


def test_the_naive_calculation() -> None:
    events = [("u", "b", 3), ("u", "a", 1), ("u", "c", 2), ("u", "a", 9), ("v", "a", 1), ("v", "b", 2)]
    assert left_out_last(events) == {"u": {"b"}}
    assert first_after([*events, ("v", "c", 8)], 0.3) == {"u": {"b"}, "v": {"c"}}
    ranked = pd.DataFrame({"request": ["u"] * 3, "candidate": list("cba"), "score": [3.0, 2, 1], "rank": [1, 2, 3]})
    assert brute_force({"u": {"b"}}, ranked, ["u"], "mrr_at_10") == 0.5
    assert brute_force({"u": {"b", "x"}}, ranked, ["u"], "recall_at_1") == 0


def test_a_moment_that_no_calendar_has_is_told_as_a_number() -> None:
    assert shown(0) == "1970-01-01 00:00 UTC"
    assert shown(-62_135_596_800).endswith("1-01-01 00:00 UTC")
    for moment in (253_402_300_800, -62_135_596_801, 2**62, 1_700_000_000_000):
        assert str(moment) in shown(moment)


@pytest.mark.parametrize("reader", [reader.name for reader in READERS])
def test_a_few_broken_files_of_each_reader(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.endurance.fuzzing.SECONDS", 600)  # however busy the machine is
    counts = fuzz(reader_named("experiments.endurance.passage_readers", reader), 7, 0, 20, tmp_path)
    assert counts["failed"] == 0 and sum(counts.values()) >= 20


def test_a_workbook_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.tables.UNPACKED", 1 << 20)
    (tmp_path / "corpus.xlsx").write_bytes(bomb(SHEET, "</sheetData>", "<row/>" * 100_000, 4))
    with pytest.raises(UserError, match="unpacks to"):
        read_table(tmp_path / "corpus.xlsx", "dataset.corpus", BadRows("error"))


def test_a_row_of_a_number_that_no_sheet_has_is_refused(tmp_path: Path) -> None:
    """openpyxl makes up every row before it."""
    content = changed(SHEET, lambda text: text.replace('r="2"', 'r="9999999999"'))
    (tmp_path / "corpus.xlsx").write_bytes(content)
    with pytest.raises(UserError, match=r"corpus\.xlsx is not an XLSX file \(a row beyond 1,048,576\)"):
        read_table(tmp_path / "corpus.xlsx", "dataset.corpus", BadRows("error"))


def test_a_long_text_and_many_separators_in_a_csv(tmp_path: Path) -> None:
    """Python's csv takes no more than 131,072 characters by default; a row of a million empty cells took minutes."""
    text = "word " * 100_000
    (tmp_path / "corpus.csv").write_text(f'id,text\n1,"{text}"\n2,x{"," * 1_000_000}\n', encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text('{"query": "x", "relevant": ["1"]}\n', encoding="utf-8")
    dataset = PassageFiles(name="passages", path=str(tmp_path)).load(tmp_path)
    assert sorted(map(len, dataset.catalog.description)) == [1, len(text) - 1]
    (tmp_path / "items.csv").write_text(f'item_id,title\n1,"{text}"\n', encoding="utf-8")
    assert len(read_records(tmp_path / "items.csv")[0]["title"]) == len(text)


def test_half_a_letter_in_a_joined_text_is_mended(tmp_path: Path) -> None:
    """No tokenizer takes it, and no file can be written with it."""
    from data.item_fields import join_item_fields

    (tmp_path / "fields.jsonl").write_text(json.dumps({"item_id": "1", "title": "a\ud800b"}), encoding="utf-8")
    items = pd.DataFrame({"title": [""]}, index=pd.Index(["1"]))
    join_item_fields(items, str(tmp_path / "fields.jsonl"), [])
    assert items["title"].tolist() == ["a\ufffdb"]
