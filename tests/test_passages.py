"""ProPTIT's form, what any corpus and any queries can have wrong with them, and folds of the real data."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from passage_files import pairs_of, write_lines, write_sheet

from data.dataset import Dataset
from data.errors import UserError
from data.query_splits import QueryFiles, QueryFolds
from data.sources.proptit import Proptit
from data.splits import LeaveOneOut, Temporal
from experiments.config import configure

HEADER = ("Query", "Ground truth document", "Difficulty")
CORPUS = '\ufeffSTT,Văn bản\n1,"Hoà Bình: hồ,\nnúi"\n2, trận đấu \n3,"a ""lake"""\n15,never asked\n'
ROWS = (("hồ ở đâu?", "1, 3 ", 1), (" ai thắng ", 2, 1), ("which lake", 3.0, None), ("all of it", "1;2\n15", 2))


def load(folder: Path, corpus: str = CORPUS, rows: Any = ROWS, test: Any = None, **settings: Any) -> Dataset:
    (folder / "CLB_PROPTIT.csv").write_text(corpus, encoding="utf-8")
    write_sheet(folder / "train_data_proptit.xlsx", HEADER, *rows)
    if test is not None:
        write_sheet(folder / "test.xlsx", HEADER, *test)
        settings["test_queries"] = "test.xlsx"
    return Proptit(name="p", path=str(folder), **settings).load(folder)


def test_sheet_and_csv_become_queries_and_what_is_relevant(tmp_path: Path) -> None:
    dataset = load(tmp_path)
    assert pairs_of(dataset) == {
        "1": ("hồ ở đâu?", ["1", "3"]),
        "2": ("ai thắng", ["2"]),
        "3": ("which lake", ["3"]),
        "4": ("all of it", ["1", "2", "15"]),
    }
    words = dict(zip(dataset.catalog.id, dataset.catalog.description, strict=True))
    assert words == {"1": "Hoà Bình: hồ,\nnúi", "2": "trận đấu", "3": 'a "lake"', "15": "never asked"}
    assert dataset.kind == "passages" and not dataset.timed and dataset.parts is None
    assert set(dataset.provenance.files) == {"CLB_PROPTIT.csv", "train_data_proptit.xlsx"}
    assert not dataset.provenance.notes and not any(dataset.catalog.title)


def test_rows_are_a_seeded_permutation(tmp_path: Path) -> None:
    corpus = "STT,Văn bản\n" + "".join(f"{n},text {n}\n" for n in range(200))
    rows = [(f"query {n}", n, 1) for n in range(200)]
    first, again, other = (load(tmp_path, corpus, rows, seed=seed) for seed in (0, 0, 1))
    assert first.sha256 == again.sha256 != other.sha256 and pairs_of(first) == pairs_of(other)
    for ids in (first.catalog.id, first.user_id):
        assert abs(np.corrcoef(ids.astype(int), np.arange(200))[0, 1]) < 0.2


def test_decomposed_letters_are_the_same_data(tmp_path: Path) -> None:
    composed = load(tmp_path)
    decomposed = load(
        tmp_path,
        unicodedata.normalize("NFD", CORPUS),
        [(unicodedata.normalize("NFD", query), *rest) for query, *rest in ROWS],
    )
    assert unicodedata.normalize("NFD", CORPUS) != CORPUS
    assert composed.sha256 == decomposed.sha256


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (("x", "3, 99", 1), "the corpus has no passage '99', which is to be relevant"),
        (("x", "xx", 1), "the corpus has no passage 'xx'"),
        (("x", 1.3, 1), "1.3 is no id; ids are texts or whole numbers"),
        (("x", None, 1), "no relevant passage is given; the cell is empty"),
        (("x", "  ", 1), "no relevant passage is given"),
        ((None, 3, 1), "a query without words"),
        (("x", True, 1), "True is no id"),
        (("x", "[1, 2", 1), "is no list of ids"),
    ],
)
def test_bad_rows_of_a_sheet_are_named_as_it_counts_them(row: Any, problem: str, tmp_path: Path) -> None:
    rows = [ROWS[0], (None, None, None), row, *ROWS[1:]]
    with pytest.raises(UserError, match=r"train_data_proptit\.xlsx, row 4: ") as caught:
        load(tmp_path, rows=rows)
    assert problem in str(caught.value) and "pass dataset.on_bad_row=skip" in str(caught.value)
    skipped = load(tmp_path, rows=rows, on_bad_row="skip")
    assert {text for text, _ in pairs_of(skipped).values()} == {"hồ ở đâu?", "ai thắng", "which lake", "all of it"}
    assert skipped.provenance.notes == ("1 bad rows of train_data_proptit.xlsx were left out",)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1,twice", "the passage id 1 stands there a second time"),
        ("7,", "passage 7 has no text"),
        ("7, \u00a0 ", "passage 7 has no text"),
        (",words", "a passage without an id"),
        ("7,words, and more", "3 cells under a header of 2; quote texts that hold the separator"),
    ],
)
def test_bad_rows_of_a_corpus_are_named_by_their_line(line: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CLB_PROPTIT\.csv, line 7: ") as caught:
        load(tmp_path, CORPUS + line + "\n")
    assert problem in str(caught.value)
    skipped = load(tmp_path, CORPUS + line + "\n", on_bad_row="skip")
    assert skipped.catalog.id.tolist() == load(tmp_path).catalog.id.tolist()
    assert skipped.provenance.notes == ("1 bad rows of CLB_PROPTIT.csv were left out",)


def test_a_passage_left_out_takes_its_queries_with_it(tmp_path: Path) -> None:
    dataset = load(tmp_path, CORPUS.replace(" trận đấu ", ""), on_bad_row="skip")
    assert set(pairs_of(dataset)) == {"1", "3"}
    assert dataset.provenance.notes == (
        "1 bad rows of CLB_PROPTIT.csv were left out",
        "2 bad rows of train_data_proptit.xlsx were left out",
    )


def test_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset p has no passage: CLB_PROPTIT\.csv, .* have none"):
        load(tmp_path, "STT,Văn bản\n")
    with pytest.raises(UserError, match="is empty; it needs a first row with the names of the columns"):
        load(tmp_path, "\n\n")
    with pytest.raises(UserError, match="has no query with a relevant passage: the files are empty"):
        load(tmp_path, rows=[])
    with pytest.raises(UserError, match="has no query with a relevant passage: 1 bad rows"):
        load(tmp_path, rows=[("x", "99", 1)], on_bad_row="skip")


def test_repeated_texts_stay_and_are_counted(tmp_path: Path) -> None:
    dataset = load(tmp_path, CORPUS + "16,trận đấu\n", [*ROWS, ("AI  thắng", "16", 1)])
    assert len(dataset.catalog) == 5 and len(dataset.user_id) == 5
    assert dataset.provenance.notes == (
        "1 passages have the text of another passage",
        "1 queries have the text of another query",
    )
    for fold in range(4):
        split = QueryFolds(folds=4, fold=fold).split(dataset)
        same = [row for row, query in enumerate(dataset.queries) if query.casefold().startswith("ai")]  # type: ignore
        assert len(np.intersect1d(split.test.ids, same)) in (0, 2), "one text is on one side"


def test_a_second_file_of_queries_is_the_test(tmp_path: Path) -> None:
    rows = [(f"training query {n}", 3, 1) for n in range(8)]
    dataset = load(tmp_path, rows=[*rows, (" HỒ ở  đâu? ", 15, 1)], test=ROWS[:2])
    assert dataset.parts is not None and sorted(dataset.parts) == ["test"] * 2 + ["train"] * 8
    assert dataset.provenance.notes == ("1 train queries have the text of a test query and were left out",)
    assert pairs_of(dataset)["test-1"] == ("hồ ở đâu?", ["1", "3"])
    split = QueryFiles().split(dataset)
    assert set(dataset.user_id[split.test.ids]) == {"test-1", "test-2"}
    with pytest.raises(UserError, match=r"has no training and test queries of their own; give dataset\.test_queries="):
        QueryFiles().split(load(tmp_path))


def test_folds_say_that_the_files_parts_are_not_used(tmp_path: Path) -> None:
    said = "the files' own parts are not used; protocol=query_files tests on them"
    assert said in QueryFolds(folds=4, fold=0).split(load(tmp_path, test=[("ai?", 2, 1), ("who?", 3, 1)])).notes
    assert said not in QueryFolds(folds=4, fold=0).split(load(tmp_path)).notes


def test_what_is_missing_is_said(tmp_path: Path, config: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"needs dataset\.path, a folder with CLB_PROPTIT\.csv and train_data_proptit"):
        configure(config("dataset=proptit", small=False)).source.load(tmp_path)
    with pytest.raises(UserError, match=r"dataset\.path=.*nowhere does not exist"):
        Proptit(name="p", path=str(tmp_path / "nowhere")).load(tmp_path)
    with pytest.raises(UserError, match=r"has no file CLB_PROPTIT\.csv \(dataset\.corpus\)"):
        Proptit(name="p", path=str(tmp_path)).load(tmp_path)
    with pytest.raises(UserError, match=r"has no column text \(dataset\.text_column\); it has STT, Văn bản"):
        load(tmp_path, text_column="text")
    with pytest.raises(UserError, match="two columns are named STT; rename one of them"):
        load(tmp_path, "STT,STT\n1,x\n")
    with pytest.raises(UserError, match="choose error or skip"):
        Proptit(name="p", on_bad_row="ignore")


def test_hostile_files_end_in_a_sentence(tmp_path: Path) -> None:
    load(tmp_path)
    sheet = tmp_path / "train_data_proptit.xlsx"
    for content in (b"", b"Query,Ground truth document\nx,1\n", b"PK\x03\x04 torn", sheet.read_bytes()[:900]):
        sheet.write_bytes(content)
        with pytest.raises(UserError, match=r"train_data_proptit\.xlsx is not an XLSX file") as caught:
            Proptit(name="p", path=str(tmp_path)).load(tmp_path)
        assert "\n" not in str(caught.value)
    for corpus, problem in (
        ("STT,Văn bản\n1,a\0b\n", "line 2: a NUL byte"),
        ('STT,Văn bản\n1,"never closed\n2,x\n', "line 2: not a CSV record .*is a closing quote missing"),
    ):
        with pytest.raises(UserError, match=problem):
            load(tmp_path, corpus)
    (tmp_path / "CLB_PROPTIT.csv").write_bytes("STT,Văn bản\n1,đ\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"CLB_PROPTIT\.csv, line 1: "):
        Proptit(name="p", path=str(tmp_path)).load(tmp_path)


def test_other_names_and_tables(tmp_path: Path) -> None:
    write_lines(tmp_path / "texts.csv", "number;words", '5;"one; two"', "6;three")
    write_lines(tmp_path / "asked.tsv", "q\tdocs", 'what is "one\t5.0', "three?\t['5', 6]")
    source = Proptit("p", str(tmp_path), 0, "error", "texts.csv", "asked.tsv", None, "number", "words", "q", "docs")
    assert pairs_of(source.load(tmp_path)) == {"1": ('what is "one', ["5"]), "2": ("three?", ["5", "6"])}


def test_protocols_of_users_say_which_to_use(tmp_path: Path) -> None:
    dataset = load(tmp_path)
    for protocol in (LeaveOneOut(), Temporal()):
        with pytest.raises(UserError, match="use protocol=query_folds candidates/retriever=bm25"):
            protocol.split(dataset)


@pytest.mark.parametrize("reranker", ["bert4rec", "popularity"])
def test_training_on_queries_by_default_ends_in_one_sentence(
    reranker: str, tmp_path: Path, config: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    from experiments.stages import load as load_stage
    from experiments.stages import open_data

    load(tmp_path)
    experiment = configure(config("dataset=proptit", f"dataset.path={tmp_path}", f"reranker={reranker}", small=False))
    with caplog.at_level("INFO"), pytest.raises(UserError, match="use protocol=query_folds candidates/retriever=bm25"):
        open_data(experiment, load_stage(experiment))
    assert "proptit: 4 queries, 4 passages, 7 relevant pairs" in caplog.messages


@pytest.mark.parametrize("group_by", ["none", "document"])
@pytest.mark.parametrize("name", ["proptit", "xquad_vi"])
def test_folds_of_the_shared_data(name: str, group_by: str, shared_data: Path, config: Callable[..., Any]) -> None:
    path = shared_data / {"proptit": "proptit", "xquad_vi": "vi-xquad"}[name]
    experiment = configure(config(f"dataset={name}", f"dataset.path={path}", small=False))
    dataset = experiment.source.load(shared_data)
    counts = (len(dataset.catalog), len(dataset.user_id), len(dataset.interactions))
    assert counts == {"proptit": (99, 100, 211), "xquad_vi": (240, 1190, 1190)}[name]
    assert dataset.queries is not None
    assert all(unicodedata.is_normalized("NFC", text) for text in (*dataset.queries, *dataset.catalog.description))
    tested: list[int] = []
    for fold in range(5):
        split = QueryFolds(fold=fold, group_by=group_by).split(dataset)
        phases = (split.train, split.validation, split.test)
        rows = np.concatenate([phase.ids for phase in phases])
        assert len(rows) == len(set(rows)) == len(dataset.user_id)
        tested += split.test.ids.tolist()
        texts = [{" ".join(query.split()).casefold() for query in phase.queries} for phase in phases]  # type: ignore
        assert not texts[2] & (texts[0] | texts[1]) and not texts[0] & texts[1]
        if group_by == "document":
            asked = [set(split.train.histories.values), set(split.validation.relevant.values)]
            assert not set(split.test.relevant.values) & (asked[0] | asked[1])
            if name == "proptit":
                assert "9 groups of queries that share passages, the largest of 90 queries" in split.notes
    assert sorted(tested) == list(range(len(dataset.user_id)))
