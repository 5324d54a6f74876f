"""Files that are hardly there, far too long or no files at all, as cases of `experiments.endurance.nasty_cases`."""

# mypy: disable-error-code="misc,operator"
from __future__ import annotations

import gzip
import os
from pathlib import Path

from data.sources.amazon import AmazonReviews
from data.sources.movielens import FILES, MovieLens100K
from data.sources.sequences import Sequences
from experiments.endurance.nasty_cases import amazon, case, published, ratings, refused, write
from experiments.endurance.readers import amazon_files, json_lines, movielens, reviews, sequences

NOTHING_THERE, LONG = "files that are hardly there", "lines of 10 MB and titles of 100,000"
NO_FILE = "no file but something else"


# little


@case(NOTHING_THERE, "empty files, blank lines, a BOM alone, a header alone")
def _(folder: Path) -> None:
    for number, content in enumerate((b"", b"\n", b" \n\n", b"\xef\xbb\xbf", b"\r\n\r\n")):
        for name in FILES:
            here = write(folder / f"{number}{name}", movielens()[0] | {name: content})
            refused(
                lambda here=here: MovieLens100K(name="m", path=str(here)).load(folder),
                "u.item" if name == "u.item" else " has no ",
            )
        for files in (amazon_files(".json.gz"), amazon_files(".json")):
            name = next(name for name in files if name.startswith("reviews"))
            packed = gzip.compress(content) if name.endswith(".gz") else content
            here = folder / f"{number}{name}"
            refused(lambda here=here, f=files | {name: packed}: amazon(here, f))
        for name in ("sequences.txt", "items.jsonl"):
            here = write(folder / f"{number}{name}", sequences()[0] | {name: content})
            refused(lambda here=here: Sequences(name="s", path=str(here)).load(folder), "no ")
    here = write(folder / "header", {"sequences.txt": b"u a\n", "items.csv": b"item_id,title\n"})
    refused(lambda: Sequences(name="s", path=str(here), items="items.csv").load(folder), "items.csv holds no item")


@case(NOTHING_THERE, "a single user, a single item, a single interaction")
def _(folder: Path) -> None:
    assert len(ratings(folder, "1\t2\t3\t10").interactions) == 1
    assert len(published(folder / "one user", "u a b c\n").user_id) == 1
    assert len(published(folder / "one item", "u a\nv a\n").catalog) == 1


# long


@case(LONG, "a line of 10 MB in each file")
def _(folder: Path) -> None:
    long = "x" * 10_000_000
    refused(lambda: ratings(folder, "1\t2\t3\t10", long + "\t\t\t"), "u.data, line 2")
    assert max(map(len, ratings(folder, f"{long}\t2\t3\t10").user_id)) == len(long)
    assert max(map(len, published(folder, f"u a {long}\n").catalog.id)) == len(long)
    refused(lambda: published(folder, f"{long}\n"), "not a file of sequences")
    review = json_lines([reviews()[0] | {"reviewText": long}])
    for files in (amazon_files(".json"), amazon_files(".json.gz")):
        name = next(name for name in files if name.startswith("reviews"))
        packed = gzip.compress(review, 1) if name.endswith(".gz") else review
        here = folder / name.replace(".", "-")
        refused(lambda here=here, f=files | {name: packed}: amazon(here, f), f"{name}, line 1: over 4,194,304 bytes")


@case(LONG, "titles of 100,000 characters, emoji and combining marks")
def _(folder: Path) -> None:
    titles = ["t" * 100_000, "e\u0301" * 50_000, "👩‍👩‍👧" * 20_000, "<|im_end|>", "A. the answer"]
    items = [{"item_id": str(n), "title": title} for n, title in enumerate(titles)]
    dataset = published(folder, "u 0 1 2 3 4\n", items)
    assert [dataset.catalog.title[dataset.catalog.row_of_id[str(n)]] for n in range(5)] == titles


@case(LONG, "JSON nested 100,000 deep")
def _(folder: Path) -> None:
    deep = {"reviews_x.json": b"[" * 100_000 + b"\n" + b'{"a":' * 100_000 + b"\n" + b"-" * 100_000 + b"1\n"}
    refused(lambda: amazon(folder, amazon_files(".json") | deep), "reviews_x.json, line 1: neither JSON")
    refused(lambda: amazon(folder, amazon_files(".json") | deep, skip=True), "3 bad rows of reviews_x.json")
    write(folder, sequences()[0] | {"items.jsonl": b"[" * 100_000})
    refused(lambda: Sequences(name="s", path=str(folder)).load(folder), "items.jsonl, line 1: not JSON")


# no file


@case(NO_FILE, "a pipe, a device, a folder, a link in a circle where a file is wanted")
def _(folder: Path) -> None:
    def pipe(path: Path) -> None:
        os.mkfifo(path)

    def circle(path: Path) -> None:
        path.symlink_to(path)

    for number, make in enumerate((pipe, circle, Path.mkdir, lambda path: path.symlink_to("/dev/zero"))):
        for name in FILES:
            here = write(folder / f"{number}{name}", {other: b"x" for other in FILES if other != name})
            make(here / name)
            refused(lambda here=here: MovieLens100K(name="m", path=str(here)).load(folder), f"has no file {name}")
        here = write(folder / f"{number}a", {"meta_x.json": b"{}"})
        make(here / "reviews_x.json")
        refused(lambda here=here: AmazonReviews(name="a", path=str(here)).load(folder), "file of reviews")
        here = write(folder / f"{number}s", {"items.jsonl": b"{}"})
        make(here / "sequences.txt")
        refused(lambda here=here: Sequences(name="s", path=str(here)).load(folder), "has no file sequences.txt")


@case(NO_FILE, "20 GB of nothing as a file of data, a file as a folder")
def _(folder: Path) -> None:
    here = write(folder, movielens()[0])
    os.truncate(here / "u.data", 20 << 30)  # takes no room on the disk
    refused(lambda: MovieLens100K(name="m", path=str(here)).load(folder), "u.data", "a NUL byte")
    refused(lambda: MovieLens100K(name="m", path=str(here / "u.data")).load(folder), "dataset.path", "is a file")
    os.truncate(write(folder / "s", {"sequences.txt": b""}) / "sequences.txt", 20 << 30)
    refused(lambda: Sequences(name="s", path=str(folder / "s"), items=None).load(folder), "a NUL byte")


@case(NO_FILE, "tables and prose as a file of sequences")
def _(folder: Path) -> None:
    prose = "".join(f"{n},Film number {n}, which is {'very ' * (n % 5)}long\n" for n in range(300))
    table = "user,item,rating\n" + "".join(f"{n},{n * 7},3\n" for n in range(300))
    said = "".join(f"Number{n} says this: it is {n * 3} years old, or {n * 5}.\n" for n in range(300))
    for number, text in enumerate((prose, table, said)):
        refused(lambda n=number, t=text: published(folder / str(n), t), "sequences.txt", "`user item item ...`")
