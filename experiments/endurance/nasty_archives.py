"""gzip and zip made to hurt, as cases of `experiments.endurance.nasty_cases`."""

# mypy: disable-error-code="misc,operator"
from __future__ import annotations

import gzip
import stat
import zipfile
from pathlib import Path

from data.dataset import Dataset
from data.sources.movielens import MovieLens100K
from experiments.endurance.breaking import Files
from experiments.endurance.nasty_cases import amazon, case, refused
from experiments.endurance.read_datasets import check_dataset
from experiments.endurance.readers import amazon_files, json_lines, movielens, reviews

PACKED, ARCHIVES = "gzip: bombs, cut, joined", "zip: bombs, ../../evil, links"


# packed


def packed_reviews(content: bytes) -> Files:
    return amazon_files(".json.gz") | {"reviews_x.json.gz": content}


def bomb(chunk: bytes, gigabytes: int) -> bytes:
    """Many gzip members of 10 MB, one behind the other."""
    return gzip.compress(chunk * (10_000_000 // len(chunk)), mtime=0) * (100 * gigabytes)


@case(PACKED, "a .gz of 10 GB of zeros")
def _(folder: Path) -> None:
    refused(lambda: amazon(folder, packed_reviews(bomb(b"\0", 10))), "reviews_x.json.gz, line 1: over 4,194,304 bytes")


@case(PACKED, "a .gz of 10 GB of empty lines, of bad rows")
def _(folder: Path) -> None:
    for name, line in (("empty", b"\n"), ("blank", b"   \n"), ("bad", b"x" * 400_000 + b"\n")):
        content = packed_reviews(bomb(line, 10))
        refused(lambda n=name, c=content: amazon(folder / n, c, skip=True), "reviews_x.json.gz", "times its size")


@case(PACKED, "a .gz that is cut, has rubbish behind it, or is none")
def _(folder: Path) -> None:
    right = amazon_files(".json.gz")["reviews_x.json.gz"]
    for cut in (right[:-1], right[:-8], right[: len(right) // 2], right[:12]):
        refused(lambda cut=cut: amazon(folder, packed_reviews(cut)), "reviews_x.json.gz", "cut off or damaged")
    refused(lambda: amazon(folder, packed_reviews(right + b"rubbish")), "damaged")
    refused(lambda: amazon(folder, packed_reviews(json_lines(reviews()))), "not a gzip file")
    refused(lambda: amazon(folder, packed_reviews(right[:-8] + b"\0" * 8)), "damaged")  # wrong checksum


@case(PACKED, "a .gz of several members")
def _(folder: Path) -> None:
    joined = b"".join(gzip.compress(json_lines([record])) for record in reviews())
    assert len(amazon(folder, packed_reviews(joined)).interactions) == len(reviews())


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
