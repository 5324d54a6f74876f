"""Archives, tables, arrays and pictures made to hurt, as further cases of `experiments.endurance.nasty_cases`."""

# mypy: disable-error-code=misc
from __future__ import annotations

import io
import os
import stat
import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data.dataset import Dataset
from data.files import file_sha256
from data.item_content import Content
from data.pictures import Unavailable, file_name, to_jpeg
from data.run_file import read_run_file
from data.sources.movielens import MovieLens100K
from experiments.endurance.breaking import PNG, Files
from experiments.endurance.list_readers import check_run_file, npy, parquet
from experiments.endurance.nasty_cases import Case, refused, write
from experiments.endurance.readers import Fixed, check_dataset, movielens

CASES: dict[str, tuple[str, Case]] = {}
ARCHIVES, TABLES = "zip: bombs, ../../evil, links", "parquet, CSV and TREC of the wrong kind"
ARRAYS, PICTURES = "arrays: pickles, bombs, wrong kinds", "pictures: bombs, cut, none"


def case(row: str, name: str) -> Any:
    def keep(function: Case) -> Case:
        CASES[name] = row, function
        return function

    return keep


# archives


def unpacked(folder: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Dataset:
    """MovieLens from an archive of these members."""
    store = folder / "in" / "ml-100k"
    store.mkdir(parents=True)
    with zipfile.ZipFile(store / "ml-100k.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    try:
        return MovieLens100K(name="ml_100k", url="http://127.0.0.1:9/x.zip").load(folder / "in")
    finally:
        inside = {path.name for path in store.iterdir()}
        assert inside <= {"ml-100k.zip", "u.data", "u.item", "sha256.json"}, f"more was unpacked: {inside}"
        around = {path.name for path in (*folder.iterdir(), *(folder / "in").iterdir(), *folder.parent.iterdir())}
        assert "evil" not in around and not Path("/tmp/evil-from-a-zip").exists(), "something was written outside"


def right() -> list[tuple[str | zipfile.ZipInfo, bytes]]:
    return [(f"ml-100k/{name}", content) for name, content in movielens()[0].items()]


@case(ARCHIVES, "names that lead out of the folder")
def _(folder: Path) -> None:
    link = zipfile.ZipInfo("ml-100k/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    names = [
        "../evil",
        "../../evil",
        "ml-100k/../../../evil",
        "/tmp/evil-from-a-zip",
        "..\\evil",
        "C:\\evil",
        "ML-100K/U.DATA",
    ]
    evil: list[tuple[str | zipfile.ZipInfo, bytes]] = [(name, b"evil") for name in names]
    dataset = unpacked(folder / "a", [(link, b"/etc"), *evil, *right(), ("ml-100k/link/evil", b"x")])
    assert len(dataset.interactions) == 4
    check_dataset(dataset)


@case(ARCHIVES, "a link in place of the data")
def _(folder: Path) -> None:
    link = zipfile.ZipInfo("ml-100k/u.data")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(lambda: unpacked(folder / "a", [(link, b"/etc/passwd"), right()[1]]), "u.data, line 1")


@case(ARCHIVES, "members of gigabytes")
def _(folder: Path) -> None:
    refused(
        lambda: unpacked(folder / "a", [("ml-100k/u.data", bytes(100 << 20)), right()[1]]), "u.data unpacks to over"
    )


@case(ARCHIVES, "a password, a method unknown, a place beyond the end")
def _(folder: Path) -> None:
    unpacked(folder / "a", right())
    whole = (folder / "a" / "in" / "ml-100k" / "ml-100k.zip").read_bytes()
    start = whole.index(b"PK\x01\x02")
    for number, (at, value) in enumerate(((8, b"\x01\x00"), (10, b"\x63\x00"), (42, b"\xff" * 3))):
        store = folder / str(number) / "ml-100k"
        store.mkdir(parents=True)
        content = bytearray(whole)
        content[start + at : start + at + len(value)] = value
        (store / "ml-100k.zip").write_bytes(content)
        source = MovieLens100K(name="ml_100k", url="http://127.0.0.1:9/x.zip")
        refused(lambda s=source, n=number: s.load(folder / str(n)), "ml-100k.zip is not MovieLens' archive")
        assert {path.name for path in store.iterdir()} == {"ml-100k.zip"}, "something half was left"


@case(ARCHIVES, "a file that changed after it was unpacked")
def _(folder: Path) -> None:
    unpacked(folder / "a", right())
    path = folder / "a" / "in" / "ml-100k" / "u.data"
    path.write_bytes(path.read_bytes() + b"9\t242\t3\t1\n")
    refused(lambda: MovieLens100K(name="ml_100k").load(folder / "a" / "in"), "has changed since it was downloaded")


# ranked lists


@case(TABLES, "columns of the wrong type")
def _(folder: Path) -> None:
    text, pairs = pa.array(["u", "v"]), pa.array(["a", "b"])
    tables = {
        "the request is of type": {"request": pa.array([["u"], ["v"]]), "candidate": pairs},
        "it must hold a list": {"request": text, "candidates": pairs},
        "a request is null": {"request": pa.array(["u", None]), "candidate": pairs},
        "is null": {"request": text, "candidates": pa.array([["a"], None])},
        "is not a finite number": {"request": text, "candidate": pairs, "score": pa.array([1.0, float("nan")])},
        "the score is of type": {"request": text, "candidate": pairs, "score": pa.array([[1.0], [2.0]])},
        "differ in length": {"request": text, "candidates": [["a"], ["b"]], "first_stage_scores": [[1.0], [2.0, 1.0]]},
        "must be validation or test": {"request": text, "candidate": pairs, "phase": ["train", "test"]},
        "has no column request": {"candidate": pairs},
        "holds no list": {"request": pa.array([], pa.string()), "candidate": pa.array([], pa.string())},
    }
    for number, (said, columns) in enumerate(tables.items()):
        path = write(folder, {f"{number}.parquet": parquet(pa.table(columns))}) / f"{number}.parquet"
        refused(lambda path=path: read_run_file(path, "candidates.path"), str(path), said)


@case(TABLES, "numbers, dictionaries and large texts as ids")
def _(folder: Path) -> None:
    for number, kind in enumerate((pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view())):
        table = pa.table({"request": pa.array(["u", "v"]).cast(kind), "candidate": pa.array(["a", "b"]).cast(kind)})
        path = write(folder, {f"{number}.parquet": parquet(table)}) / f"{number}.parquet"
        (run,) = check_run_file(path).values()
        assert list(run.requests) == ["u", "v"] and list(run.items) == ["a", "b"]


@case(TABLES, "30 million rows in some kilobytes")
def _(folder: Path) -> None:
    path = folder / "bomb.parquet"
    rows = pa.array(["u"]).dictionary_encode().take(pa.array(np.zeros(10_000_000, np.int8)))
    table = pa.table({"request": rows, "candidate": rows})
    with pq.ParquetWriter(path, table.schema) as out:
        for _ in range(3):
            out.write_table(table, row_group_size=10_000_000)
    assert path.stat().st_size < 1_000_000
    refused(lambda: read_run_file(path, "candidates.path"), "30,000,000 rows in so small a file")


@case(TABLES, "20 GB of nothing, a pipe, a folder as lists")
def _(folder: Path) -> None:
    for ending in (".parquet", ".csv", ".trec"):
        (folder / f"a{ending}").touch()
        os.truncate(folder / f"a{ending}", 20 << 30)
        refused(lambda e=ending: read_run_file(folder / f"a{e}", "candidates.path"), f"a{ending}")
        os.mkfifo(folder / f"b{ending}")
        refused(lambda e=ending: read_run_file(folder / f"b{e}", "candidates.path"), f"b{ending}")
        (folder / f"c{ending}").mkdir()
        refused(lambda e=ending: read_run_file(folder / f"c{e}", "candidates.path"), "is a folder")


@case(TABLES, "words without end in a line of a run")
def _(folder: Path) -> None:
    path = write(folder, {"a.trec": b"u Q0 a 1 0.5 x\n" + b"x " * 5_000_000 + b"\n"}) / "a.trec"
    refused(lambda: read_run_file(path, "candidates.path"), "line 2: 5000000 words where a TREC run has 6")


@case(TABLES, "CSV of 10 MB in a line, of quotes that never end, of utf-16")
def _(folder: Path) -> None:
    files: Files = {
        "a.csv": b"user_id,item_id\nu," + b"x" * 10_000_000 + b'\n"u',
        "b.csv": b'user_id,item_id\nu,"a\nv,b\n',
        "c.csv": "user_id,item_id\nu,a\n".encode("utf-16"),
        "d.csv": "user_id,item_id\nú,a\n".encode("latin-1"),
    }
    write(folder, files)
    for name in files:
        refused(lambda name=name: read_run_file(folder / name, "candidates.path"), name)


# arrays


def joined(path: Path) -> Dataset:
    return Fixed(name="fixed", image_features=str(path)).load(path.parent)


def array_of(shape: str, kind: str, content: bytes) -> bytes:
    """A .npy with this header, whatever follows it."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


@case(ARRAYS, "a pickle in place of numbers is not run")
def _(folder: Path) -> None:
    ran = folder / "ran"
    pickle = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
    evil = array_of("(3,)", "|O", pickle)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("item_id.npy", evil)
        archive.writestr("features.npy", evil)
    write(folder, {"a.npz": out.getvalue(), "b.npy": evil, "b.items.txt": b"a\nb\nc\n", "c.npy": pickle})
    write(folder, {"c.items.txt": b"a\n"})
    for name in ("a.npz", "b.npy", "c.npy"):
        refused(lambda name=name: joined(folder / name), name, "could not be read")
    assert not ran.exists(), "the pickle was run"


@case(ARRAYS, "shapes that no memory holds")
def _(folder: Path) -> None:
    for number, shape in enumerate(("(1000000000000,)", "(3, 1000000000)", "(-1, 2)", "(3, 2, 2)", "()", "(0, 2)")):
        write(folder, {f"{number}.npy": array_of(shape, "<f4", bytes(24)), f"{number}.items.txt": b"a\nb\nc\n"})
        refused(lambda n=number: joined(folder / f"{n}.npy"), f"{number}.npy")


@case(ARRAYS, "a .npz that unpacks to gigabytes")
def _(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("item_id.npy", npy(np.array(["a", "b", "c"])))
        with archive.open("features.npy", "w", force_zip64=True) as file:
            file.write(array_of("(3, 35000000)", "<f4", b""))
            for _ in range(40):
                file.write(bytes(10 << 20))
    refused(lambda: joined(folder / "a.npz"), "a.npz could not be read", "200 times its size")


@case(ARRAYS, "NaN, texts, complex numbers, another number of rows")
def _(folder: Path) -> None:
    rows = [
        np.full((3, 2), np.nan),
        np.full((3, 2), 1e300),
        np.array([["x"]] * 3),
        np.ones((3, 2), complex),
        np.ones((4, 2)),
    ]
    for number, array in enumerate(rows):
        write(folder, {f"{number}.npy": npy(array), f"{number}.items.txt": b"a\nb\nc\n"})
        refused(lambda n=number: joined(folder / f"{n}.npy"), f"{number}.npy")


# pictures


def shown(content: bytes, folder: Path) -> Image.Image | None:
    """None where the picture counts as missing, for a model as for the folder of pictures."""
    path = write(folder, {"a.png": content}) / "a.png"
    try:
        picture = Content("", str(path)).open(10_000)
    except Unavailable:
        picture = None
    try:
        to_jpeg(content, 224)
    except Unavailable:
        return None
    return picture


def png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return PNG + b"".join(chunk(kind, data) for kind, data in chunks)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@case(PICTURES, "bombs: more pixels than a picture has")
def _(folder: Path) -> None:
    before = time.process_time()
    for side in (6_000, 12_000, 20_000, 100_000, 2**31 - 1):
        assert shown(png(side, side, zlib.compress(bytes(1000))), folder) is None, f"{side} x {side} pixels"
    for kind in ("GIF", "WEBP"):
        out = io.BytesIO()
        Image.new("P" if kind == "GIF" else "RGB", (5_100, 5_100)).save(out, kind)
        assert shown(out.getvalue(), folder) is None
    assert time.process_time() - before < 30


@case(PICTURES, "a text behind the picture that unpacks to gigabytes")
def _(folder: Path) -> None:
    text = b"a\0\0" + zlib.compress(bytes(100 << 20))
    whole = png(8, 8, zlib.compress(bytes(16)))
    assert shown(whole[:33] + chunk(b"zTXt", text) + whole[33:], folder) is None


@case(PICTURES, "cut and empty pictures, other kinds of files, a single pixel, a line")
def _(folder: Path) -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        out = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(out, kind)
        assert shown(out.getvalue(), folder) is not None, f"a whole {kind} is refused"
        for share in (0.3, 0.6, 0.9):
            assert shown(out.getvalue()[: int(share * len(out.getvalue()))], folder) is None, f"a cut {kind} is read"
    kinds = [
        b"",
        b"<svg/>",
        b"GIF89a",
        b"%PDF-1.4",
        b"II*\x00",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        png(1, 1, zlib.compress(bytes(2))),
    ]
    for content in kinds:
        assert shown(content, folder) is None, f"{content[:8]!r} is read"
    path = write(folder, {"line.png": png(5_000, 1, zlib.compress(bytes(626)))}) / "line.png"
    try:
        Content("", str(path)).open(10_000)
    except Unavailable:
        return
    raise AssertionError("a line of 5,000 x 1 pixels goes to the model")


@case(PICTURES, "ids that lead out of the folder of pictures")
def _(folder: Path) -> None:
    names = {
        file_name(item) for item in ("../../evil", "/etc/passwd", "..", ".", "a/b", "a\0b", "x" * 5000, "👍" * 100, "")
    }
    assert len(names) == 9 and all(Path(name).name == name and len(name.encode()) < 255 for name in names)
    write(folder / "pictures", {"a.png": png(8, 8, zlib.compress(bytes(16)))})
    (folder / "evil.png").write_bytes(b"x")
    dataset = Fixed(name="fixed", images=str(folder / "pictures")).load(folder)
    assert sum(image is not None for image in dataset.catalog.image) == 1
    assert file_sha256(folder / "evil.png")
