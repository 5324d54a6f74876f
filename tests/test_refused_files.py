"""Refused at a second look: code deep in a model folder, words that are none, a sheet too wide, an alias."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import command

from data import tables
from data.errors import UserError
from data.files import read_yaml, write_atomically
from data.model_files import refuse_code
from data.run_formats import from_csv
from data.tables import BadRows, Table, read_table
from experiments.find_run import overrides_of, stored_words

DEEP: dict[str, tuple[Any, str]] = {
    "a/b/pytorch_model.bin": ("PK", r"holds a/b/pytorch_model.bin, a pickle"),
    "a/b/c/modeling.py": ("", r"holds a/b/c/modeling.py, code"),
    "a/b/config.json": ({"auto_map": {"AutoModel": "x.Y"}}, r"names code, auto_map: .* in a/b/config.json"),
    "config_sentence_transformers.json": (
        {"activation_fn": "torch.utils.collect_env.main"},
        "names code, activation_fn: torch.utils.collect_env.main in config_sentence_transformers.json",
    ),
    "router_config.json": ({"types": {"": "os.path"}}, "names code, type: os.path in router_config.json"),
    "a/router_config.json": ({"structure": {}}, "router_config.json cannot be read"),
    "config.json": ({"attn_implementation": {"": "evil/kernel"}}, "names code, attn_implementation"),
}


@pytest.mark.parametrize("name", DEEP)
def test_code_anywhere_in_a_model_folder(name: str, tmp_path: Path) -> None:
    content, says = DEEP[name]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=says):
        refuse_code(tmp_path, "reranker.model")


def test_a_whole_folder_of_sentence_transformers_passes(tmp_path: Path) -> None:
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    contents: dict[str, Any] = {
        "config_sentence_transformers.json": {"activation_fn": "torch.nn.modules.linear.Identity", "prompts": {}},
        "modules.json": [module],
        "1_Router/router_config.json": {"types": {"": module["type"]}, "structure": {"query": [""]}},
        "tokenizer_config.json": {"added_tokens_decoder": {"0": {"content": "a/b"}}},
        "config.json": {"attn_implementation": {"text_config": "sdpa"}},
    }
    for name, content in contents.items():
        write_atomically(tmp_path / name, json.dumps(content))
    refuse_code(tmp_path, "reranker.model")


def test_words_that_runs_store_pass(tmp_path: Path) -> None:
    words = ["reranker=sasrec", "+tuned=from_nothing/sasrec_demo", "candidates/retriever=bm25", "seed=1"]
    words += [
        "dataset.path=../../data",
        "paths.root=/tmp/x",
        "trainer.learning_rate=1e-3",
        "~reranker.model",
        "++a.b-c=1",
    ]
    (tmp_path / "overrides.yaml").write_text(json.dumps(words))
    assert stored_words(tmp_path) == words


@pytest.mark.parametrize("content", ["3", "{a: 1}", "[1, 2]"])
def test_overrides_that_are_no_list_of_words(content: str, tmp_path: Path) -> None:
    (tmp_path / "overrides.yaml").write_text(content)
    with pytest.raises(UserError, match="is no list of overrides"):
        overrides_of(tmp_path)


@pytest.mark.parametrize("content", ["a: &a {b: *a}", "a: &a [1]\nb: [*a, *a]"])
def test_a_stored_config_has_no_alias(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match="it has an alias"):
        read_yaml(path)
    path.write_text("a: '*b'\nc: [x*y, '& *z']\n")
    assert read_yaml(path) == {"a": "*b", "c": ["x*y", "& *z"]}


def test_a_sheet_with_one_cell_far_to_the_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    for _ in range(3):
        sheet.append([None] * 999 + ["x"])
    book.save(tmp_path / "wide.xlsx")

    def read() -> Table:
        return read_table(tmp_path / "wide.xlsx", "dataset.corpus", BadRows("error"))

    assert len(read().rows) == 2
    monkeypatch.setattr(tables, "CELLS", 2_500)
    with pytest.raises(UserError, match="more than 2,500 cells"):
        read()


def test_a_parquet_of_very_many_rows_in_a_few_bytes(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"id": np.zeros(3_000_000, dtype=np.int64)}), path)
    with pytest.raises(UserError, match="3,000,000 rows in so small a file"):
        read_table(path, "dataset.corpus", BadRows("error"))


def test_an_inch_is_no_quotation(tmp_path: Path) -> None:
    path = tmp_path / "lists.csv"
    path.write_text('user_id,item_id,score\nu1,19"-rack,1\nu1,b,2\n')
    assert set(from_csv(path).items) == {'19"-rack', "b"}
    path.write_text('user_id,item_id,score\nu1,"19-rack,1\nu1,b,2\n')
    with pytest.raises(UserError, match="a quotation mark is not closed"):
        from_csv(path)


def test_processes_that_torchrun_did_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = command("train.py", "--help")
    assert done.returncode == 2 and "WORLD_SIZE=2 is set and" not in done.stdout
    assert done.stderr == "error: WORLD_SIZE=2 is set but not LOCAL_RANK; start with torchrun, or unset WORLD_SIZE\n"
