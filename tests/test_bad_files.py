"""Broken or hostile files: one sentence, or read right. Thousands more: experiments.endurance.bad_input."""

import faulthandler
import gzip
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data.errors import LONGEST, UserError
from data.feature_files import check_sizes, encoder_of
from data.files import read_json, read_text
from data.image_features import _read
from data.rows import read_rows
from data.run_file import read_run_file
from data.sources import record_lines
from data.sources.movielens import MovieLens100K
from data.sources.sequences import Sequences
from experiments.endurance import list_readers, readers
from experiments.endurance.fuzzing import Reader, fuzz, slow

COLUMNS = {"user": "str", "item": "str", "rating": "float64", "timestamp": "int64"}


@pytest.mark.parametrize("reader", [*readers.READERS, *list_readers.READERS], ids=lambda reader: reader.name)
def test_broken_files_are_refused_in_a_sentence_or_read_right(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.endurance.fuzzing.SECONDS", 600)  # however busy the machine is
    counts = fuzz(reader, 1, 1, 61, tmp_path)
    said = (tmp_path / "failures.jsonl").read_text() if counts["failed"] else ""
    assert counts["failed"] == 0, said
    assert sum(counts.values()) == 60 and counts["refused"] > 0
    assert counts["compared"] > 0 or reader.name == "pictures"


def test_the_fuzzer_sees_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(folder: Path, skip: bool) -> bool:
        text = (folder / "a.csv").read_text()  # an undecodable byte is a traceback
        assert len(text.split(",")) == 6, "the wrong number of fields"
        return False

    monkeypatch.setattr("experiments.endurance.fuzzing.SECONDS", 600)
    reader = Reader("careless", lambda: [{"a.csv": b"1,2,3,4,5,6\n"}], read)
    counts = fuzz(reader, 0, 1, 61, tmp_path)
    said = (tmp_path / "failures.jsonl").read_text()
    assert counts["failed"] > 10 and "UnicodeDecodeError" in said and "the wrong number of fields" in said


def test_the_guard_against_hangs_stands_from_the_first_example_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that follows one that died begins anywhere."""
    did: list[str] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: did.append("armed"))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: did.append("cancelled"))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def read(folder: Path, skip: bool) -> bool:
        did.append("read")
        assert signal.getsignal(signal.SIGALRM) is slow
        if did.count("read") == 30:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        fuzz(Reader("any", lambda: [{"a": b"x"}], read), 0, 6, 1000, tmp_path)
    first, last = did.index("armed"), len(did) - 1
    assert did.count("armed") == 2 and first == 2 and did[last] == "cancelled"


def test_a_sentence_can_be_printed_and_is_short() -> None:
    said = str(UserError("a.csv: no column x\ny\x1b[31m\ud800" + "z" * 100_000 + "; mend it"))
    assert said.startswith(r"a.csv: no column x\ny\x1b[31m\ud800z") and said.endswith("z; mend it")
    assert said.isprintable() and len(said) <= LONGEST


def test_line_ends_of_any_system_are_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    for end in ("\n", "\r\n", "\r"):
        path.write_bytes(end.join(["1\t2\t3\t4", "5\t6\t7\t8"]).encode())
        assert len(read_rows(path, "\t", COLUMNS, "error", [])) == 2
        path.write_bytes(end.join(["1\t2\t3\t4", "5\t6\tx\t8"]).encode())
        with pytest.raises(UserError, match="line 2: rating is 'x'"):
            read_rows(path, "\t", COLUMNS, "error", [])


def test_a_row_reads_the_same_whatever_stands_beside_it(tmp_path: Path) -> None:
    """Alone it is parsed by pandas, beside a bad row by Python."""
    path = tmp_path / "u.data"
    for row, good in (
        ("1\t2\t3\t1e5", True),
        ("1\t2\t3\t4.0", True),
        ("1\t2\t1_0\t4", False),
        ("1\t2\t1e30\t4", False),
    ):
        for rows in ([row], [row, "bad"]):
            path.write_text("\n".join(rows))
            assert len(read_rows(path, "\t", COLUMNS, "skip", [])) == good, rows


def test_an_archive_that_is_none_or_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.sources.movielens.LARGEST", 1000)
    path = tmp_path / "ml-100k" / "ml-100k.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml-100k/u.data", bytes(2000))
    with pytest.raises(UserError, match=r"u\.data unpacks to over 1,000 bytes"):
        MovieLens100K(name="m", url="http://127.0.0.1:9/ml-100k.zip").load(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"PK\x03\x04\x14", b"PK\x03\x04\xff"))
    with pytest.raises(UserError, match="is not MovieLens' archive"):
        MovieLens100K(name="m", url="http://127.0.0.1:9/ml-100k.zip").load(tmp_path)
    assert [file.name for file in path.parent.iterdir()] == ["ml-100k.zip"]


def test_a_gz_that_unpacks_to_far_more_than_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_lines, "LONGEST", 1000)
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b"\n" * 3_000_000))
    with pytest.raises(UserError, match="times its size"):
        list(record_lines.lines_of(path))
    path.write_bytes(gzip.compress(b"\n" * 1000))
    assert len(list(record_lines.lines_of(path))) == 1000


def test_a_table_or_prose_is_no_file_of_sequences(tmp_path: Path) -> None:
    path = tmp_path / "sequences.txt"
    source = Sequences(name="s", path=str(tmp_path), items=None)
    path.write_text("".join(f"{n},Film number {n * 7}, a {n * 9}th\n" for n in range(50)))
    with pytest.raises(UserError, match="looks like a table or a text"):
        source.load(tmp_path)
    path.write_text("".join(f"u{n} a,1 b.2 c,3\n" for n in range(50)))  # odd ids, but they come again
    assert len(source.load(tmp_path).catalog) == 3
    (tmp_path / "items.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no item"):
        Sequences(name="s", path=str(tmp_path)).load(tmp_path)


def test_times_after_2100_are_noted(tmp_path: Path) -> None:
    for name, content in readers.movielens()[0].items():
        (tmp_path / name).write_bytes(content.replace(b"881250949", b"881250949000"))
    dataset = MovieLens100K(name="m", path=str(tmp_path)).load(tmp_path)
    assert any("2 interactions are of the year 2100 or later" in note for note in dataset.provenance.notes)


def test_json_and_caches_that_are_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"x")
    for content in ("{", "[1]", "[" * 100_000):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(UserError, match=r"a\.json is not"):
            read_json(tmp_path / "a.json")
        with pytest.raises(UserError, match=r"a\.json is not"):
            encoder_of(tmp_path / "a.npz")
    with pytest.raises(UserError, match="is damaged"):
        _read(tmp_path / "a.npz")


def test_arrays_and_lists_that_unpack_to_far_more(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", features=np.zeros(20 << 20, np.float32))
    with pytest.raises(ValueError, match="200 times its size"):
        check_sizes((tmp_path / "a.npz").read_bytes())
    (tmp_path / "a.csv").write_text('user_id,item_id\nu,"a\nv,b\n')
    with pytest.raises(UserError, match="a quotation mark is not closed"):
        read_run_file(tmp_path / "a.csv", "key")
    (tmp_path / "a.trec").write_text("u Q0 a 1 0.5 x\n" + "x " * 100_000)
    with pytest.raises(UserError, match="line 2: 100000 words"):
        read_run_file(tmp_path / "a.trec", "key")


def test_gigabytes_of_zeros_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room; more than any memory
    with pytest.raises(UserError, match="line 1: a NUL byte"):
        read_text(path)
