"""Passages in any table, qrels in every form, the folder of BEIR, and files in the form of SQuAD."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from passage_files import ASKED, TEXTS, pairs_of, write_corpus, write_lines, write_queries, write_sheet

from data.dataset import Dataset
from data.errors import UserError
from data.query_splits import QueryFiles
from data.sources.passage_files import PassageFiles
from data.sources.squad import Squad
from experiments.config import configure

WRITE: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": lambda table, path: table.to_csv(path, index=False),
    ".tsv": lambda table, path: table.to_csv(path, index=False, sep="\t"),
    ".xlsx": lambda table, path: table.to_excel(path, index=False),
    ".jsonl": lambda table, path: table.to_json(path, orient="records", lines=True, force_ascii=False),
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
}


def load(folder: Path, **settings: Any) -> Dataset:
    return PassageFiles(name="p", path=str(folder), **settings).load(folder)


@pytest.mark.parametrize("ending", WRITE)
def test_every_table_is_the_same_data(ending: str, tmp_path: Path) -> None:
    lists = ending in (".jsonl", ".parquet")
    corpus = pd.DataFrame({"doc_id": list(TEXTS), "Passage": list(TEXTS.values())})
    queries = pd.DataFrame(
        {
            "qid": list(ASKED),
            "question": [text for text, _ in ASKED.values()],
            "positives": [ids if lists else ", ".join(ids) for _, ids in ASKED.values()],
        }
    )
    WRITE[ending](corpus, tmp_path / f"corpus{ending}")
    WRITE[ending](queries, tmp_path / f"queries{ending}")
    dataset = load(tmp_path)
    assert pairs_of(dataset) == ASKED
    assert dict(zip(dataset.catalog.id, dataset.catalog.description, strict=True)) == TEXTS
    (tmp_path / "other").mkdir()
    write_corpus(tmp_path / "other")
    write_queries(tmp_path / "other")
    assert load(tmp_path / "other").sha256 == dataset.sha256


QRELS = {
    "trec": ["q1 0 1 1", "q1 0 3 2", "", "q2 Q0 2 1", "q3 0 3 1", "q3 0 4 0"],
    "beir": ["query-id\tcorpus-id\tscore", "q1\t1\t1", "q1\t3\t2", "q2\t2\t1", "q3\t3\t1", "q3\t4\t0"],
    "csv": ["qid,docid,rel", '"q1",1,1', "q1,3,2.0", "q2,2,1", "q3,3,1", "q3,4,-1"],
    "no header": ["q1\t1\t1", "q1\t3\t2", "q2\t2\t1", "q3\t3\t1", "q3\t4\t0"],
    "jsonl": [{"query_id": q, "doc_id": d, "score": s} for q, d, s in
              (("q1", 1, 1), ("q1", 3, 2), ("q2", 2, 1), ("q3", 3, 1), ("q3", 4, 0))],
}  # fmt: skip


@pytest.mark.parametrize("form", QRELS)
def test_qrels(form: str, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    write_queries(tmp_path, relevant=False)
    name = "judged.jsonl" if form == "jsonl" else "judged.txt"
    write_lines(tmp_path / name, *QRELS[form])
    dataset = load(tmp_path, qrels=name)
    assert pairs_of(dataset) == ASKED and set(dataset.provenance.files) == {"corpus.jsonl", "queries.jsonl", name}
    assert dataset.provenance.notes == (
        f"1 rows of {name} judge a passage as not relevant",
        f"{name} has 2 grades of relevance above 0, which count alike",
    )


def test_two_fields_are_relevant_pairs(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    write_queries(tmp_path, relevant=False)
    write_lines(tmp_path / "pairs", *(f"{query} {passage}" for query, (_, ids) in ASKED.items() for passage in ids))
    assert pairs_of(load(tmp_path, qrels="pairs")) == ASKED


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("q1 0 99 1", "line 2: the corpus has no passage '99', which is to be relevant"),
        ("q9 0 1 1", "line 2: the queries have no id 'q9'"),
        ("q1 0 1 yes", "line 2: the score 'yes' is no number"),
        ("q1 0 1", "line 2: 3 fields where the first line has 4"),
    ],
)
def test_bad_judgements_are_named(line: str, problem: str, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    write_queries(tmp_path, relevant=False)
    write_lines(tmp_path / "qrels.txt", "q1 0 1 1", line, "q3 0 3 1")
    with pytest.raises(UserError, match=r"qrels\.txt, line 2: ") as caught:
        load(tmp_path, qrels="qrels.txt")
    assert problem in str(caught.value)
    dataset = load(tmp_path, qrels="qrels.txt", on_bad_row="skip")
    assert pairs_of(dataset) == {"q1": (ASKED["q1"][0], ["1"]), "q3": ASKED["q3"]}
    assert "1 bad rows of qrels.txt were left out" in dataset.provenance.notes
    assert "1 queries without a relevant passage were left out" in dataset.provenance.notes


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["q1 Q0 1 1 12.5 bm25"], "6 fields, which are no qrels; give `qid 0 docid rel`"),
        (["query-id\tpassage", "q1\t1"], "needs query-id and corpus-id"),
        ([""], "is empty"),
        (["q1 0 1 0"], "has no query with a relevant passage"),
    ],
)
def test_other_files_are_no_qrels(lines: list[str], problem: str, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    write_queries(tmp_path, relevant=False)
    write_lines(tmp_path / "qrels.txt", *lines)
    with pytest.raises(UserError, match=problem):
        load(tmp_path, qrels="qrels.txt")


def beir(folder: Path, **parts: list[tuple[str, str, int]]) -> Path:
    rows = {"1": ("Hoà Bình", "Hoà Bình có hồ"), "2": ("Sport", "trận đấu"), "3": ("Why?", "a lake"), "4": ("", "x")}
    write_lines(folder / "corpus.jsonl", *({"_id": i, "title": t, "text": x} for i, (t, x) in rows.items()))
    asked = {f"q{n}": f"question number {n}" for n in range(8)} | {"again": " Question  NUMBER 3", "idle": "nobody"}
    write_lines(folder / "queries.jsonl", *({"_id": i, "text": t, "metadata": {}} for i, t in asked.items()))
    for part, judged in parts.items():
        lines = ("\t".join(map(str, row)) for row in judged)
        write_lines(folder / "qrels" / f"{part}.tsv", "query-id\tcorpus-id\tscore", *lines)
    return folder


def test_the_folder_of_beir_has_parts(tmp_path: Path) -> None:
    folder = beir(
        tmp_path,
        train=[(f"q{n}", "1", 1) for n in range(4)] + [("q5", "4", 1)],
        dev=[("q4", "2", 1)],
        test=[("q5", "3", 1), ("q5", "2", 1), ("again", "3", 1), ("q6", "1", 0)],
    )
    dataset = load(folder)
    words = dict(zip(dataset.catalog.id, dataset.catalog.description, strict=True))
    assert words == {"1": "Hoà Bình có hồ", "2": "Sport. trận đấu", "3": "Why? a lake", "4": "x"}
    assert dataset.parts is not None
    parts = dict(zip(dataset.user_id, dataset.parts, strict=True))
    assert parts == {"q0": "train", "q1": "train", "q2": "train", "q4": "validation", "q5": "test", "again": "test"}
    assert pairs_of(dataset)["q5"][1] == ["3", "2"], "of a query in two parts the test's judgements"
    assert "2 train queries have the text of a test query and were left out" in dataset.provenance.notes
    assert "3 queries without a relevant passage were left out" in dataset.provenance.notes
    assert set(dataset.provenance.files) == {
        *("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/dev.tsv", "qrels/test.tsv")
    }
    split = QueryFiles().split(dataset)
    assert set(dataset.user_id[split.validation.ids]) == {"q4"}
    assert set(dataset.user_id[split.test.ids]) == {"q5", "again"}


def test_a_folder_of_beir_with_one_part_has_none(tmp_path: Path) -> None:
    dataset = load(beir(tmp_path, test=[("q1", "1", 1), ("q2", "2", 1)]))
    assert dataset.parts is None and set(pairs_of(dataset)) == {"q1", "q2"}
    assert load(tmp_path, qrels="qrels/test.tsv").sha256 == dataset.sha256


def test_what_is_missing_or_twice_is_said(tmp_path: Path, config: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"needs dataset\.path, a folder with corpus\.jsonl, queries\.jsonl"):
        configure(config("dataset=passages", small=False)).source.load(tmp_path)
    with pytest.raises(UserError, match=r"has no corpus with one of \.csv, \.tsv, \.xlsx, .*; say which"):
        load(tmp_path)
    write_corpus(tmp_path)
    write_queries(tmp_path, relevant=False)
    with pytest.raises(UserError, match=r"has no column of relevant passages \(or give dataset\.qrels=\)"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"has no column answers \(dataset\.relevant_column\); it has _id, text"):
        load(tmp_path, relevant_column="answers")
    with pytest.raises(UserError, match="exclude each other"):
        PassageFiles(name="p", qrels="x", relevant_column="y")
    (tmp_path / "qrels").mkdir()
    with pytest.raises(UserError, match=r"qrels has no file of qrels; give it train\.tsv"):
        load(tmp_path)
    write_lines(tmp_path / "queries.csv", "query", "x")
    with pytest.raises(
        UserError, match=r"has queries\.csv, queries\.jsonl; say which file is meant with dataset\.quer"
    ):
        load(tmp_path)
    write_lines(tmp_path / "qrels.txt", "q1 0 1 1")
    with pytest.raises(UserError, match="has no column of query ids, which qrels need; it has query"):
        load(tmp_path, queries="queries.csv", qrels="qrels.txt")
    for part in ("train", "test"):
        write_lines(tmp_path / "qrels" / f"{part}.tsv", "q1 0 1 1")
    with pytest.raises(UserError, match="both say what is for the test"):
        load(tmp_path, queries="queries.jsonl", test_queries="queries.csv")


def test_hostile_files_end_in_a_sentence(tmp_path: Path) -> None:
    write_queries(tmp_path)
    for lines, problem in (
        (["[1]"], "line 1: not a JSON object"),
        (['{"id": "1", "text": "x"}', '{"id": '], "line 2: not JSON"),
        (['{"id": "1", "text": ["x"]}'], "line 1: .'x'. is no text"),
        (['{"id": {}, "text": "x"}'], "line 1: {} is no id"),
        (['{"id": 1e400, "text": "x"}'], "line 1: inf is no id"),
        (["[" * 100_000], "line 1: not JSON"),
        (['{"name": "x"}'], "has no column of passage ids; it has name: say which with dataset.id_column="),
    ):
        write_lines(tmp_path / "corpus.jsonl", *lines)
        with pytest.raises(UserError, match=problem) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    (tmp_path / "corpus.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(UserError, match=r"corpus\.parquet is not a parquet file"):
        load(tmp_path, corpus="corpus.parquet")
    write_lines(tmp_path / "corpus.docx", "x")
    with pytest.raises(UserError, match=r"unknown ending '\.docx' of dataset\.corpus; use \.csv"):
        load(tmp_path, corpus="corpus.docx")
    torn = "\\ud83d half " * 50_000  # half of a letter beyond U+FFFF, escaped as JSON may have it
    write_lines(tmp_path / "corpus.jsonl", *(f'{{"id": {i}, "text": "{torn}"}}' for i in "123"))
    assert "\ufffd" in load(tmp_path, corpus="corpus.jsonl").catalog.description[0]


def squad(*paragraphs: tuple[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {"version": "1", "data": [{"title": "t", "paragraphs": [{"context": c, "qas": q} for c, q in paragraphs]}]}


def ask(name: Any, text: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "question": text, "answers": [{"text": "x", "answer_start": 0}]} | more


def test_squad_contexts_are_passages_and_equal_ones_are_one(tmp_path: Path) -> None:
    again = squad(("một hồ ", [ask("c", "ở đâu?")]), ("unasked", []))["data"]
    first = squad(("một hồ", [ask("a", " hồ? "), ask("b", "none?", is_impossible=True)]), ("two", [ask(7, "seven?")]))
    write_lines(tmp_path / "train.json", {"data": first["data"] + again})
    dataset = Squad(name="s", path=str(tmp_path)).load(tmp_path)
    assert pairs_of(dataset) == {"a": ("hồ?", ["0-0"]), "7": ("seven?", ["0-1"]), "c": ("ở đâu?", ["0-0"])}
    assert set(dataset.catalog.id) == {"0-0", "0-1", "1-1"}
    assert dataset.provenance.notes == ("1 questions marked as impossible were left out",)

    write_lines(tmp_path / "test.json", squad(("two", [ask("d", "Seven?")]), ("new", [ask("e", "new?")])))
    with pytest.raises(UserError, match=r"it has test\.json, train\.json; say which with dataset\.file="):
        Squad(name="s", path=str(tmp_path)).load(tmp_path)
    both = Squad(name="s", path=str(tmp_path), file="train.json", test_file="test.json").load(tmp_path)
    assert pairs_of(both)["d"] == ("Seven?", ["0-1"]) and pairs_of(both)["e"] == ("new?", ["test-0-1"])
    assert dict(zip(both.user_id, both.parts, strict=True)) == {  # type: ignore[arg-type]
        **dict.fromkeys("ac", "train"),
        **dict.fromkeys("de", "test"),
    }


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "is not in the form of SQuAD: the file has no list named data"),
        ({"data": [{"context": "x"}]}, "article 0 has no list named paragraphs"),
        ({"data": [{"paragraphs": ["x"]}]}, "article 0, paragraph 0 has no list named qas"),
        ({"data": []}, "dataset s has no passage: train.json has none;"),
        (squad(("", [ask("a", "x")])), "article 0, paragraph 0: no context; mend it"),
        (squad(("c", [{"id": "a"}])), "article 0, paragraph 0, question 0: no text named question"),
        (squad(("c", [{"question": "a"}])), "question 0: no id"),
        (squad(("c", [ask("a", "x"), ask("a", "y")])), "question 1: the query id a stands there a second time"),
        ('{"data": ', "is not JSON"),
    ],
)
def test_json_of_another_shape(content: Any, problem: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "train.json", content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=problem):
        Squad(name="s", path=str(tmp_path)).load(tmp_path)


def test_missing_squad_files_are_said(tmp_path: Path, config: Callable[..., Any]) -> None:
    for name, needs in (("squad", r"a \.json file in the form of SQuAD"), ("xquad_vi", r"xquad\.vi\.json")):
        with pytest.raises(UserError, match=rf"dataset={name} needs dataset\.path, a folder with {needs}"):
            configure(config(f"dataset={name}", small=False)).source.load(tmp_path)
    with pytest.raises(UserError, match=r"has not exactly one \.json file: it has none"):
        Squad(name="s", path=str(tmp_path)).load(tmp_path)


def test_shared_xquad_is_the_same_from_json_and_from_lines(shared_data: Path, config: Callable[..., Any]) -> None:
    folder = shared_data / "vi-xquad"
    files = [f"dataset.corpus={folder / 'corpus.jsonl'}", f"dataset.queries={folder / 'queries_test.jsonl'}"]
    lines = configure(config("dataset=passages", *files, small=False)).source.load(shared_data)
    whole = configure(config("dataset=xquad_vi", f"dataset.path={folder}", small=False)).source.load(shared_data)
    assert lines.sha256 == whole.sha256 and len(whole.catalog) == 240 and len(whole.user_id) == 1190
    assert set(lines.provenance.files) == {"vi-xquad/corpus.jsonl", "vi-xquad/queries_test.jsonl"}


def test_shared_proptit_is_read_by_its_known_names(shared_data: Path) -> None:
    settings = {"corpus": "CLB_PROPTIT.csv", "queries": "train_data_proptit.xlsx"}
    dataset = load(shared_data / "proptit", **settings)
    assert (len(dataset.catalog), len(dataset.user_id), len(dataset.interactions)) == (99, 100, 211)


def test_a_sheet_of_a_wrong_size_is_read_whole(tmp_path: Path) -> None:
    """Some programs write `<dimension ref="A1"/>`, which would hide all other cells."""
    write_corpus(tmp_path)
    rows = [("id", "query", "relevant"), *((i, t, ";".join(r)) for i, (t, r) in ASKED.items())]
    sheet = write_sheet(tmp_path / "queries.xlsx", *rows)
    with zipfile.ZipFile(sheet) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    cut = {name: re.subn(rb'<dimension ref="[^"]*"', b'<dimension ref="A1"', data) for name, data in content.items()}
    assert sum(n for _, n in cut.values()) == 1
    with zipfile.ZipFile(sheet, "w") as archive:
        for name, (data, _) in cut.items():
            archive.writestr(name, data)
    assert pairs_of(load(tmp_path)) == ASKED
