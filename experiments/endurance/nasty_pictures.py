"""Arrays of image features and pictures made to hurt, as cases of `experiments.endurance.nasty_cases`."""

# mypy: disable-error-code=misc
from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from data.dataset import Dataset
from data.item_content import Content
from data.pictures import Unavailable, file_name, to_jpeg
from experiments.endurance.breaking import PNG
from experiments.endurance.canaries import objects_that_mark, pickle_that_marks
from experiments.endurance.list_readers import npy
from experiments.endurance.nasty_cases import case, refused, write
from experiments.endurance.read_datasets import Fixed

NEITHER = (False, False)
ARRAYS, PICTURES = "arrays: pickles, bombs, wrong kinds", "pictures: bombs, cut, none"


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
    pickle, evil = pickle_that_marks(ran), objects_that_mark(ran)
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


def readable(content: bytes, folder: Path) -> tuple[bool, bool]:
    """Whether a model can open the picture, and whether the folder of pictures takes it."""
    path = write(folder, {"a.png": content}) / "a.png"

    def done(read: Callable[[], object]) -> bool:
        try:
            read()
        except Unavailable:
            return False
        return True

    return done(lambda: Content("", str(path)).open(10_000)), done(lambda: to_jpeg(content, 224))


def png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return PNG + b"".join(chunk(kind, data) for kind, data in chunks)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@case(PICTURES, "bombs: more pixels than a picture has")
def _(folder: Path) -> None:
    for side in (6_000, 12_000, 20_000, 100_000, 2**31 - 1):
        assert readable(png(side, side, zlib.compress(bytes(1000))), folder) == NEITHER, f"{side} x {side} pixels"
    for kind in ("GIF", "WEBP"):
        out = io.BytesIO()
        Image.new("P" if kind == "GIF" else "RGB", (5_100, 5_100)).save(out, kind)
        assert readable(out.getvalue(), folder) == NEITHER


@case(PICTURES, "a text behind the picture that unpacks to gigabytes")
def _(folder: Path) -> None:
    text = b"a\0\0" + zlib.compress(bytes(100 << 20))
    whole = png(8, 8, zlib.compress(bytes(16)))
    assert readable(whole[:33] + chunk(b"zTXt", text) + whole[33:], folder) == NEITHER


@case(PICTURES, "cut and empty pictures, other kinds of files, a single pixel, a line")
def _(folder: Path) -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        out = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(out, kind)
        assert readable(out.getvalue(), folder) == (True, True), f"a whole {kind} is refused"
        for share in (0.3, 0.6, 0.9):
            cut = out.getvalue()[: int(share * len(out.getvalue()))]
            assert readable(cut, folder) == NEITHER, f"a cut {kind} is read"
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
        assert readable(content, folder) == NEITHER, f"{content[:8]!r} is read"
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
    assert (folder / "evil.png").read_bytes() == b"x", "a file outside of the folder was written"
