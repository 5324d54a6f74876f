"""Files made to hurt, each with the outcome that is right: what is refused says why, what is read is read whole.

    python -m experiments.endurance.nasty_cases "a .gz of 10 GB of zeros" /tmp/x    # one of them, as it runs here

Each is a process of its own with 2 GB of memory and a minute.
"""

# mypy: disable-error-code="misc,operator"
from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.errors import UserError
from data.sources.amazon import AmazonReviews
from data.sources.movielens import FILES, MovieLens100K
from data.sources.sequences import Sequences
from experiments.endurance.breaking import Files
from experiments.endurance.fuzzing import limit_memory
from experiments.endurance.outcome import Endurance, Outcome
from experiments.endurance.readers import amazon_files, check_dataset, json_lines, movielens, reviews, sequences
from experiments.endurance.small import command, environment
from experiments.launch import ROOT

SECONDS = 60
Case = Callable[[Path], None]  # gets an empty folder; AssertionError where the outcome is not the right one
CASES: dict[str, tuple[str, Case]] = {}  # case -> the row of the table it belongs to, and the case

IDS, NUMBERS, NOTHING_THERE = "ids twice, negative, huge", "odd ratings and times", "files that are hardly there"
LONG, PACKED, NO_FILE = (
    "lines of 10 MB and titles of 100,000",
    "gzip: bombs, cut, joined",
    "no file but something else",
)


def case(row: str, name: str) -> Callable[[Case], Case]:
    def keep(function: Case) -> Case:
        CASES[name] = row, function
        return function

    return keep


def refused(read: Callable[[], Any], *parts: str) -> None:
    """By a sentence with all `parts`."""
    try:
        read()
    except UserError as error:
        lacking = [part for part in parts if part not in str(error)]
        assert not lacking, f"the error does not say {lacking}: {error}"
    else:
        raise AssertionError(f"it was read, though the error {parts} is right")


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def ratings(folder: Path, *rows: str, skip: bool = False) -> Dataset:
    """MovieLens with these rows, and an item for each that they name."""
    items = dict.fromkeys(row.split("\t")[1] for row in rows)
    films = "".join(f"{item}|Title {n}|||" + "|0" * 19 + "\n" for n, item in enumerate(items))
    write(folder, {"u.data": "\n".join(rows).encode(), "u.item": films.encode("latin-1")})
    dataset = MovieLens100K(name="ml_100k", path=str(folder), on_bad_row="skip" if skip else "error").load(folder)
    check_dataset(dataset)
    return dataset


def published(folder: Path, lines: str, items: list[dict[str, Any]] | None = None) -> Dataset:
    write(folder, {"sequences.txt": lines.encode()} | ({"items.jsonl": json_lines(items)} if items else {}))
    source = Sequences(name="sequences", path=str(folder), items="items.jsonl" if items else None)
    source.missing_titles = "keep"
    dataset = source.load(folder)
    check_dataset(dataset, rated=False)
    return dataset


def amazon(folder: Path, files: Files, skip: bool = False) -> Dataset:
    write(folder, files)
    return AmazonReviews(name="amazon", path=str(folder), on_bad_row="skip" if skip else "error").load(folder)


def noted(dataset: Dataset, part: str) -> None:
    assert any(part in note for note in dataset.provenance.notes), f"no note says {part!r}: {dataset.provenance.notes}"


# ids


@case(IDS, "the same rating twice")
def _(folder: Path) -> None:
    dataset = ratings(folder, "1\t2\t3\t10", "1\t2\t5\t10", "2\t2\t1\t11")
    assert len(dataset.interactions) == 2
    noted(dataset, "repeat")


@case(IDS, "an item twice in items.jsonl and in u.item")
def _(folder: Path) -> None:
    twice = [{"item_id": "a", "title": "x"}, {"item_id": "a", "title": "y"}]
    refused(lambda: published(folder, "u a b\n", twice), "items.jsonl", "record 2", "second time")
    files = movielens()[0]
    write(folder / "ml", files | {"u.item": files["u.item"] * 2})
    refused(lambda: MovieLens100K(name="ml_100k", path=str(folder / "ml")).load(folder), "item id", "twice")


@case(IDS, "a user twice in a file of sequences")
def _(folder: Path) -> None:
    refused(lambda: published(folder, "u a b\nv b\nw c\nu c\n"), "line 4", "user u", "second time")


@case(IDS, "negative, huge and strange ids")
def _(folder: Path) -> None:
    users = ["-1", "0", "007", "9" * 400, "1e5", "user 1", "\u202eabc", "e\u0301", "é", "__proto__", "👩‍👩‍👧"]
    dataset = ratings(folder, *(f"{user}\t-9\t3\t10" for user in users))
    assert set(dataset.user_id) == set(users) and list(dataset.catalog.id) == ["-9"], "an id has changed"


@case(IDS, "numbers as JSON ids")
def _(folder: Path) -> None:
    number = 10**300
    dataset = published(folder, f"u -3 {number}\n", [{"item_id": -3, "title": "a"}, {"item_id": number, "title": "b"}])
    assert dict(zip(dataset.catalog.id, dataset.catalog.title, strict=True)) == {"-3": "a", str(number): "b"}


# numbers


@case(NUMBERS, "NaN, infinite and absurd ratings")
def _(folder: Path) -> None:
    for value in ("nan", "inf", "-inf", "1e400", "1e30", "3,5", "", "1_0", "٣"):
        rows = ["1\t2\t3\t10", f"1\t3\t{value}\t11"]
        refused(lambda rows=rows: ratings(folder, *rows), "u.data, line 2: rating is", "not a finite number")
        dataset = ratings(folder, *rows, skip=True)
        assert len(dataset.interactions) == 1 and dataset.interactions.rating.tolist() == [3.0]
        noted(dataset, "1 bad rows of u.data were left out")


@case(NUMBERS, "a rating that is NaN in JSON")
def _(folder: Path) -> None:
    files = amazon_files(".json") | {"reviews_x.json": json_lines([reviews()[0] | {"overall": float("nan")}])}
    refused(lambda: amazon(folder, files), "reviews_x.json, line 1: overall is nan")


@case(NUMBERS, "timestamps before 1970, in the future and in milliseconds")
def _(folder: Path) -> None:
    rows = ["1\t2\t3\t-5", "1\t3\t3\t4102444800", "1\t4\t3\t881250949000", "2\t4\t3\t9223372036854775807"]
    dataset = ratings(folder, *rows)
    noted(dataset, "3 interactions are of the year 2100 or later")
    assert sorted(dataset.interactions.timestamp) == [-5, 4102444800, 881250949000, 2**63 - 1]


@case(NUMBERS, "a timestamp beyond 64 bits")
def _(folder: Path) -> None:
    refused(lambda: ratings(folder, "1\t2\t3\t9223372036854775808"), "line 1: timestamp", "not a whole number")


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


def tried(name: str, row: str, folder: Path) -> Outcome:
    words = command("-m", "experiments.endurance.nasty_cases", name, str(folder))
    try:
        ended = subprocess.run(
            words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=SECONDS, check=False
        )
        said = "" if ended.returncode == 0 else " ".join(ended.stderr.split()[-60:]) or f"exit {ended.returncode}"
    except subprocess.TimeoutExpired:
        said = f"over {SECONDS} s"
    lost = "a traceback, a hang or a wrong outcome" if said else "nothing"
    return Outcome(row, 1, int(not said), lost, failures=[f"{name}: {said}"] if said else [])


def outcomes(settings: Endurance) -> Iterator[Outcome]:
    for number, (name, (row, _)) in enumerate(sorted(all_cases().items(), key=lambda item: item[1][0])):
        yield tried(name, row, settings.scratch / f"nasty-{number}")


def all_cases() -> dict[str, tuple[str, Case]]:
    from experiments.endurance import nasty_files

    return CASES | nasty_files.CASES


if __name__ == "__main__":
    from experiments.endurance import nasty_cases  # not this module, which is __main__

    chosen = nasty_cases.all_cases()[sys.argv[1]][1]
    (into := Path(sys.argv[2])).mkdir(parents=True, exist_ok=True)
    limit_memory()
    chosen(into)
    print(json.dumps("survived"))
