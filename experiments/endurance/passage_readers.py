"""The readers of passages and of lists of texts, as the fuzzer takes them."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.sources.passage_files import PassageFiles
from data.sources.proptit import Proptit
from data.sources.squad import Squad
from data.text_lists import read_texts
from experiments.endurance.breaking import Files
from experiments.endurance.fuzzing import Reader
from experiments.endurance.naive_files import Unclear
from experiments.endurance.naive_passages import Held, of_folder, same, texts_of
from experiments.endurance.naive_passages import squad as squad_of
from experiments.endurance.read_datasets import BOM, handling, in_windows
from experiments.endurance.read_passages import check_passages
from experiments.endurance.readers import json_lines

UNESCAPED = partial(json.dumps, ensure_ascii=False)
TEXTS = ["Câu lạc bộ PTIT, 2011.", "👩‍👩‍👧 & A. the answer", 'Slogan: "từ trái tim"', "A <|im_end|> title; 5 | 6"]
ASKED = [("Slogan là gì?", ["3"]), ("who, when?", ["1", "4"]), ("A. the answer", ["2", "1"])]


def corpus_rows() -> list[dict[str, Any]]:
    return [{"id": str(n), "text": text, "title": "T" * (n % 2)} for n, text in enumerate(TEXTS, start=1)]


def query_rows() -> list[dict[str, Any]]:
    return [{"id": f"q{n}", "query": text, "relevant": found} for n, (text, found) in enumerate(ASKED)]


# tables of passages


def separated(rows: list[dict[str, Any]], mark: str) -> bytes:
    def cell(value: Any) -> str:
        text = "; ".join(value) if isinstance(value, list) else value
        return text.replace("\t", " ") if mark == "\t" else '"' + text.replace('"', '""') + '"'

    lines = [mark.join(rows[0]), *(mark.join(map(cell, row.values())) for row in rows)]
    return "\n".join([*lines, ""]).encode()


def workbook(rows: list[dict[str, Any]]) -> bytes:
    from openpyxl import Workbook

    book = Workbook()
    sheet: Any = book.active
    sheet.append(list(rows[0]))
    for row in rows:
        sheet.append(["; ".join(value) if isinstance(value, list) else value for value in row.values()])
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def columns(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), out, compression="none")
    return out.getvalue()


def tables(ending: str, as_bytes: Callable[[list[dict[str, Any]]], bytes], text: bool = True) -> list[Files]:
    numbered = (
        [row | {"id": n} for n, row in enumerate(corpus_rows(), start=1)] if ending != "tsv" and not text else None
    )
    files = {f"corpus.{ending}": as_bytes(numbered or corpus_rows()), f"queries.{ending}": as_bytes(query_rows())}
    return [files, in_windows(files)] if text else [files]


def read_tables(folder: Path, skip: bool) -> bool:
    dataset = PassageFiles(name="passages", path=str(folder), on_bad_row=handling(skip)).load(folder)
    (corpus,), (queries,) = folder.glob("corpus.*"), folder.glob("queries.*")
    judgements = folder / "qrels" if (folder / "qrels").exists() else None
    return compared(dataset, lambda: of_folder(folder, corpus.name, queries.name, judgements))


def compared(dataset: Dataset, naive: Callable[[], Held]) -> bool:
    check_passages(dataset)
    try:
        same(dataset, naive())
    except Unclear:
        return False
    return True


def structured_lines() -> Any:
    from hypothesis import strategies as st

    anything: Any = st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=12),
            st.sampled_from("1 2 3".split()),
        ),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
        max_leaves=6,
    )
    passage = st.fixed_dictionaries({"id": anything, "text": anything}, optional={"title": anything})
    query = st.fixed_dictionaries({"query": anything, "relevant": anything}, optional={"id": anything})

    def files(passages: list[dict[str, Any]], queries: list[dict[str, Any]]) -> Files:
        return {"corpus.jsonl": json_lines(passages), "queries.jsonl": json_lines(queries)}

    return st.builds(files, st.lists(passage, max_size=4), st.lists(query, max_size=4))


# judgements in files of their own


def beir() -> list[Files]:
    rows = [{"_id": row["id"], "title": row["title"], "text": row["text"]} for row in corpus_rows()]
    files = {
        "corpus.jsonl": json_lines(rows, UNESCAPED),
        "queries.jsonl": json_lines([{"_id": row["id"], "text": row["query"]} for row in query_rows()], UNESCAPED),
    }
    pairs = [(row["id"], name) for row in query_rows() for name in row["relevant"]]
    head, lines = "query-id\tcorpus-id\tscore\n", [f"{query}\t{passage}\t1\n" for query, passage in pairs]
    one = {"qrels/test.tsv": (head + "".join(lines) + "q0\t4\t0\n").encode()}
    two = {"qrels/train.tsv": (head + lines[0]).encode(), "qrels/test.tsv": (head + "".join(lines[1:])).encode()}
    return [files | one, files | two, in_windows(files | one)]


def trec() -> list[Files]:
    files = {name: content for name, content in beir()[0].items() if not name.startswith("qrels")}
    lines = [f"{row['id']} 0 {name} 1\n" for row in query_rows() for name in row["relevant"]]
    return [files | {"judged.trec": "".join(lines).encode()}]


def read_trec(folder: Path, skip: bool) -> bool:
    source = PassageFiles(name="passages", path=str(folder), qrels="judged.trec", on_bad_row=handling(skip))
    dataset = source.load(folder)
    return compared(dataset, lambda: of_folder(folder, "corpus.jsonl", "queries.jsonl", folder / "judged.trec"))


# others


def proptit() -> list[Files]:
    corpus = [{"STT": row["id"], "Văn bản": row["text"]} for row in corpus_rows()]
    queries = [{"Query": row["query"], "Ground truth document": ", ".join(row["relevant"])} for row in query_rows()]
    return [{"CLB_PROPTIT.csv": separated(corpus, ","), "train_data_proptit.xlsx": workbook(queries)}]


def read_proptit(folder: Path, skip: bool) -> bool:
    dataset = Proptit(name="proptit", path=str(folder), on_bad_row=handling(skip)).load(folder)
    return compared(dataset, lambda: of_folder(folder, "CLB_PROPTIT.csv", "train_data_proptit.xlsx"))


def squad() -> list[Files]:
    def question(n: int, text: str) -> dict[str, Any]:
        return {
            "id": f"q{n}",
            "question": text,
            "answers": [{"text": "x", "answer_start": 0}],
            "is_impossible": n == 3,
        }

    paragraphs = [{"context": text, "qas": [question(n, f"{text}?")]} for n, text in enumerate(TEXTS)]
    whole = {"version": "1.1", "data": [{"title": "a", "paragraphs": paragraphs[:2]}, {"paragraphs": paragraphs[2:]}]}
    text = json.dumps(whole, ensure_ascii=False, indent=1).encode()
    return [{"xquad.vi.json": text}, {"xquad.vi.json": BOM + text.replace(b"\n", b"\r\n")}]


def read_squad(folder: Path, skip: bool) -> bool:
    source = Squad(name="xquad_vi", path=str(folder), file="xquad.vi.json", on_bad_row=handling(skip))
    dataset = source.load(folder)
    held, impossible = squad_of(folder / "xquad.vi.json")
    said = [note.split()[0] for note in dataset.provenance.notes if "marked as impossible" in note]
    assert said == [f"{impossible:,}"] * (impossible > 0), f"{impossible} questions are impossible, {said} counted"
    return compared(dataset, lambda: held)


def listed(ending: str, as_bytes: Callable[[list[dict[str, Any]]], bytes]) -> Callable[[], list[Files]]:
    return lambda: [{f"texts.{ending}": as_bytes(corpus_rows())}]


def lines_to_rank() -> list[Files]:
    whole = {"texts.txt": "\n".join([*TEXTS, "", ""]).encode()}
    return [whole, in_windows(whole)]


def read_listed(folder: Path, skip: bool) -> bool:
    (path,) = folder.iterdir()
    texts = read_texts(path, "passages")
    assert texts and all(text.text and text.id for text in texts)
    assert all(unicodedata.is_normalized("NFC", text.text) and text.text.encode() for text in texts)
    try:
        naive = texts_of(path)
    except Unclear:
        return False
    assert [tuple(text) for text in texts] == naive, "a text is not the file's"
    return True


READERS = [
    Reader("passages as CSV", lambda: tables("csv", lambda rows: separated(rows, ",")), read_tables),
    Reader("passages as TSV", lambda: tables("tsv", lambda rows: separated(rows, "\t")), read_tables),
    Reader(
        "passages as JSONL",
        lambda: tables("jsonl", lambda rows: json_lines(rows, UNESCAPED)),
        read_tables,
        structured_lines,
    ),
    Reader("passages as parquet", lambda: tables("parquet", columns, text=False), read_tables),
    Reader("passages as XLSX", lambda: tables("xlsx", workbook, text=False), read_tables),
    Reader("a folder of BEIR", beir, read_tables),
    Reader("qrels of TREC", trec, read_trec),
    Reader("proptit", proptit, read_proptit),
    Reader("xquad_vi", squad, read_squad),
    Reader("texts to rank, a line each", lines_to_rank, read_listed),
    Reader("texts to rank as CSV", listed("csv", lambda rows: separated(rows, ",")), read_listed),
    Reader("texts to rank as XLSX", listed("xlsx", workbook), read_listed),
]
