"""python -m experiments.rank: any query, every form of file, the table, what is written, mistakes in one sentence."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import command
from hydra import compose, initialize_config_dir
from tiny_cross_encoders import TEXTS, finished_run, random_cross_encoder

from data.errors import UserError
from data.text_lists import read_texts
from experiments.launch import ROOT
from experiments.rank import found, rank, verbatim
from rerankers import load_reranker

QUERIES = [
    'Tiêu chí là gì, và nếu "a=b" thì [sao]?',
    "it's {a: b}, ${x} or \\ (c) $y",
    "'",
    'ends with a backslash \\"\\',
    "  two  blanks, a\ttab",
    "x=y,z=w",
]


def config(*words: str) -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("rank", [verbatim(word) for word in words])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_cross_encoder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "texts, all=5.txt"
    path.write_text("\n".join(["", *TEXTS, "  "]))
    return path


@pytest.mark.parametrize("query", QUERIES)
def test_the_query_reaches_the_reranker_sign_by_sign(query: str) -> None:
    assert config(f"query={query}").query == query


def test_other_words_and_quotes_of_the_user_stay_what_they_are() -> None:
    assert verbatim("top_k=5") == "top_k=5" and verbatim("--help") == "--help" and verbatim("out=null") == "out=null"
    assert config('query="Tiêu chí, [sao]?"').query == "Tiêu chí, [sao]?"
    assert config("query='a', 'b'").query == "'a', 'b'"


def test_the_table_has_the_order_of_the_api(
    model: Path, lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "best.csv"
    ranking = rank(config(f"run={model}", f"query={QUERIES[0]}", f"passages={lines}", "top_k=3", f"out={out}"))
    expected = load_reranker(model).rank(QUERIES[0], TEXTS, top_k=3)
    assert ranking.passages == expected.passages
    shown = capsys.readouterr().out
    assert f"Query: {QUERIES[0]}" in shown and "the best 3 of 5" in shown
    rows = [line for line in shown.splitlines() if line.startswith("│")]
    assert len(rows) == 3 and len({len(row) for row in rows}) == 1, "a line each, none broken"
    for row, text, score in zip(rows, expected.passages, expected.scores, strict=True):
        assert text in row and f"{score:.4f}" in row
    with out.open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["passage"] for row in written] == expected.passages
    assert [int(row["id"]) for row in written] == [place + 2 for place in expected.order], "lines of the file"
    assert [float(row["score"]) for row in written] == pytest.approx(expected.scores.tolist())


def test_long_passages_are_shortened_and_written_whole(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = " ".join(TEXTS * 5) + "\n dòng hai"
    path, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    path.write_text(json.dumps({"text": long, "title": "Đề mục", "id": "p1"}, ensure_ascii=False))
    rank(config(f"run={model}", "query=Tiêu chí", f"passages={path}", f"out={out}", "normalize=true"))
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(row) == 100 and "…" in row and "Đề mục. Câu lạc bộ" in row and "p1" in row
    (written,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert written["passage"] == f"Đề mục. {long}" and 0 < written["score"] < 1


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".xlsx", ".jsonl", ".parquet"])
def test_every_form_of_table_is_read(tmp_path: Path, ending: str) -> None:
    table = pd.DataFrame({"STT": [7, 8, 9, 10, 11], "Văn bản": TEXTS, "more": "x"})
    path = tmp_path / f"texts{ending}"
    writers: dict[str, Any] = {
        ".csv": lambda: table.to_csv(path, index=False),
        ".tsv": lambda: table.to_csv(path, index=False, sep="\t"),
        ".xlsx": lambda: table.to_excel(path, index=False),
        ".jsonl": lambda: table.to_json(path, orient="records", lines=True, force_ascii=False),
        ".parquet": lambda: table.to_parquet(path),
    }
    writers[ending]()
    texts = read_texts(path, "passages")
    assert [text.text for text in texts] == TEXTS and [text.id for text in texts] == ["7", "8", "9", "10", "11"]
    assert {text.text for text in read_texts(path, "passages", "more")} == {"x"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "\n \n", "has no text; give a file"),
        ("a.csv", "text\na\nb,c\n", "line 3: 2 cells under a header of 1"),
        ("a.csv", "text,id\na,1\n,2\n", "line 3: a row without a text; mend it"),
        ("a.csv", "other\na\n", "has no column of texts; it has other: say which with column="),
        ("a.pdf", "x", "unknown ending '.pdf' of passages; use .txt, .csv"),
        ("a.jsonl", '{"text": {}}', "line 1: {} is no text; mend it"),
    ],
)
def test_files_without_texts_end_in_one_sentence(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        read_texts(tmp_path / name, "passages")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_latest_is_the_newest_run_that_reads_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run of a reranker that reads text; train one"):
        found("latest", tmp_path)
    run = finished_run(tmp_path)
    for name, target, manifest in (
        ("ids", "rerankers.bert4rec.BERT4Rec", {}),
        ("pool", "rerankers.cross_encoder.cross_encoder.CrossEncoderReranker", {"folds": ["a"]}),
    ):
        other = tmp_path / "runs" / name
        other.mkdir()
        (other / "config.yaml").write_text(json.dumps({"reranker": {"_target_": target}, "trainer": {"a": 1}}))
        (other / "manifest.json").write_text(json.dumps(manifest))
    assert found("latest", tmp_path) == str(run)
    shutil.copytree(run, tmp_path / "runs" / "newer")
    (tmp_path / "runs" / "newer" / "manifest.json").touch()
    assert found("latest", tmp_path) == str(tmp_path / "runs" / "newer")
    (run / "mlflow.json").write_text(json.dumps({"run_id": "0" * 32}))
    assert found("0" * 32, tmp_path) == str(run) and found("BAAI/x", tmp_path) == "BAAI/x"


def test_the_command_from_a_shell(model: Path, lines: Path, tmp_path: Path) -> None:
    root = f"paths.root={tmp_path}"
    done = command("-m", "experiments.rank", root, f"run={model}", f"query={QUERIES[0]}", f"passages={lines}")
    assert done.returncode == 0, done.stderr
    assert QUERIES[0] in done.stdout and "Câu lạc bộ Lập trình PTIT" in done.stdout
    for words, said in (
        ([f"run={model}", f"passages={lines}"], "error: query is missing; give query=..."),
        ([f"run={model}", "query=a", "passages=nope.txt"], "error: passages=nope.txt does not exist"),
        (["run=a/b/c", "query=a", f"passages={lines}"], "error: a/b/c is no folder, no run in"),
        ([f"run={model}", "query=", f"passages={lines}"], "error: the query is empty"),
    ):
        failed = command("-m", "experiments.rank", root, *words)
        assert failed.returncode == 2 and said in failed.stderr and "Traceback" not in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1


def test_help_loads_nothing_heavy() -> None:
    done = command("-X", "importtime", "-m", "experiments.rank", "--help")
    assert done.returncode == 0 and "ranks the texts of a file" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in loaded and not loaded & {"torch", "transformers", "pandas", "scipy"}
