"""The readers of recommendation data for the fuzzer: files that are right, and what must hold of all that is read."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.sources.amazon import AmazonReviews
from data.sources.movielens import FILES, GENRES, MovieLens100K
from data.sources.sequences import Sequences
from experiments.endurance import naive_datasets
from experiments.endurance.breaking import Files, packed
from experiments.endurance.fuzzing import Reader
from experiments.endurance.naive_datasets import Event, Item
from experiments.endurance.naive_files import Unclear, lines_of
from experiments.endurance.read_datasets import (
    BOM,
    TITLES,
    Fixed,
    check_dataset,
    check_left_out,
    handling,
    in_windows,
)

# MovieLens


def movielens() -> list[Files]:
    data = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n22\t377\t1\t878887116\n196\t377\t5\t881250949\n"
    titles = zip((242, 302, 377), TITLES, strict=False)
    item = "".join(f"{i}|{t}|01-Jan-1995||http://x|{'|'.join('010' * 6)}|1\n" for i, t in titles)
    plain = {"u.data": data.encode(), "u.item": item.encode("latin-1", "replace")}
    return [plain, {"u.data": in_windows(plain)["u.data"], "u.item": plain["u.item"].replace(b"\n", b"\r\n")}]


def movielens_archive() -> list[Files]:
    members = {f"ml-100k/{name}": content for name, content in movielens()[0].items()}
    return [{"ml-100k/ml-100k.zip": packed({"ml-100k/README": b"x", **members})}]


def read_movielens(folder: Path, skip: bool) -> bool:
    dataset = MovieLens100K(name="ml_100k", path=str(folder), on_bad_row=handling(skip)).load(folder)
    return check_movielens(dataset, (folder / "u.data").read_bytes(), (folder / "u.item").read_bytes())


def check_movielens(dataset: Dataset, data: bytes, item: bytes) -> bool:
    check_dataset(dataset)
    (events, bad), (items, bad_items) = (
        naive_datasets.ratings(lines_of(data)),
        naive_datasets.films(lines_of(item, "latin-1")),
    )
    check_left_out(dataset, {"u.data": bad, "u.item": bad_items})
    naive_datasets.same(dataset, events, items)
    return True


def read_movielens_archive(folder: Path, skip: bool) -> bool:
    source = MovieLens100K(name="ml_100k", url="http://127.0.0.1:9/x.zip", on_bad_row=handling(skip))
    dataset = source.load(folder)
    assert {path.name for path in folder.iterdir()} == {"ml-100k"}, "something was written beside the folder"
    with zipfile.ZipFile(folder / "ml-100k" / "ml-100k.zip") as archive:
        return check_movielens(dataset, *(archive.read(f"ml-100k/{name}") for name in FILES))


def structured_movielens() -> Any:
    from hypothesis import strategies as st

    word = st.text(st.characters(exclude_characters="\n\r\t|", codec="utf-8"), max_size=8)
    number = st.one_of(st.integers(), st.floats(), word).map(str)
    rows = st.lists(st.tuples(word, st.sampled_from(["1", "2", "ä"]), number, number).map("\t".join), max_size=8)
    title = st.text(st.characters(codec="latin-1", exclude_characters="\n|"), max_size=20)
    films = st.lists(st.tuples(st.sampled_from(["1", "2", "3", ""]), title), max_size=4)

    def item(films: list[tuple[str, str]]) -> bytes:
        return "\n".join(f"{i}|{t}|d|v|u" + "|1" * len(GENRES) for i, t in films).encode("latin-1", "replace")

    return st.builds(lambda r, f: {"u.data": "\n".join(r).encode(), "u.item": item(f)}, rows, films)


# Amazon


def reviews() -> list[dict[str, Any]]:
    texts = ["good <br /> thing", "Đẹp lắm 👍", "", "x" * 50]
    users, items = ["A1", "A1", "A2", "A3"], ["B001", "B002", "B001", "B003"]
    return [
        {"reviewerID": u, "asin": i, "overall": 4.0, "unixReviewTime": 1393545600 + n, "reviewText": t, "summary": "s"}
        for n, (u, i, t) in enumerate(zip(users, items, texts, strict=True))
    ]


def products() -> list[dict[str, Any]]:
    return [
        {"asin": "B001", "title": TITLES[1], "categories": [["Beauty", "Nails"]], "imUrl": "http://x/a.jpg"},
        {"asin": "B002", "title": "It's &amp; x", "description": ["one", "two"], "category": ["a", "b"], "brand": "c"},
        {"asin": "B003", "title": TITLES[2], "imageURLHighRes": ["http://x/b.jpg"], "main_cat": "All"},
        {"asin": "B009", "title": "unused"},
    ]


def amazon_files(ending: str, as_text: Any = json.dumps) -> Files:
    files = {f"reviews_x{ending}": json_lines(reviews()), f"meta_x{ending}": json_lines(products(), as_text)}
    return {name: gzip.compress(text, 1, mtime=0) if ending.endswith("gz") else text for name, text in files.items()}


def json_lines(records: list[Any], as_text: Any = json.dumps) -> bytes:
    return "".join(f"{as_text(record)}\n" for record in records).encode()


def amazon_2014() -> list[Files]:
    return [amazon_files(".json.gz", repr), amazon_files(".json", repr)]


def amazon_2018() -> list[Files]:
    return [amazon_files(".json.gz"), amazon_files(".json"), in_windows(amazon_files(".json"))]


def read_amazon(folder: Path, skip: bool) -> bool:
    dataset = AmazonReviews(name="amazon", path=str(folder), on_bad_row=handling(skip)).load(folder)
    check_dataset(dataset)
    (path,), (about,) = folder.glob("reviews_x*"), folder.glob("meta_x*")
    try:
        events, bad = naive_datasets.reviews(path)
        check_left_out(dataset, {path.name: bad})
        naive_datasets.same(dataset, events, naive_datasets.products(about, {event.item for event in events}))
    except Unclear:
        return False
    return True


def structured_amazon() -> Any:
    from hypothesis import strategies as st

    value = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    )

    def some(record: dict[str, Any]) -> Any:
        """A right record with up to two values of any kind."""
        return st.dictionaries(st.sampled_from(sorted(record)), value, max_size=2).map(lambda new: record | new)

    def file(records: list[dict[str, Any]]) -> Any:
        return st.tuples(*map(some, records)).map(lambda made: json_lines(list(made)))

    return st.fixed_dictionaries({"reviews_x.json": file(reviews()), "meta_x.json": file(products()[:2])})


# Sequences and texts of items


def sequences() -> list[Files]:
    lines = "u1 a b c\nu2 b c d é\nu3 a d\n7 11 a d b\n"
    records = [{"item_id": "a", "title": TITLES[1]}, {"item_id": "b", "title": "x", "categories": [["p", "q"]]}]
    records += [{"item_id": "c", "title": "C", "description": ["d", "e"]}, {"item_id": 11, "title": TITLES[2]}]
    plain = {"sequences.txt": lines.encode(), "items.jsonl": json_lines(records)}
    table = 'item_id,title,categories\na,"Ký, ức",x\nb,"He said ""no""",\nc,A. the answer,"y"\nd,👍,z\n'
    return [plain, in_windows(plain), {"sequences.txt": lines.encode(), "items.csv": table.encode()}]


def read_sequences(folder: Path, skip: bool) -> bool:
    items = "items.jsonl" if (folder / "items.jsonl").exists() else "items.csv"
    dataset = Sequences(name="sequences", path=str(folder), items=items, on_bad_row=handling(skip)).load(folder)
    check_dataset(dataset, rated=False)
    events, bad = naive_datasets.sequences(folder / "sequences.txt")
    check_left_out(dataset, {"sequences.txt": bad})
    naive_datasets.same(dataset, events, naive_datasets.texts_of_items(folder / items))
    return True


def structured_sequences() -> Any:
    from hypothesis import strategies as st

    letters = st.characters(codec="utf-8", exclude_characters="\n")
    word = st.sampled_from(["a", "b", "c"]) | st.text(letters, max_size=5)
    lines = st.lists(st.lists(word, min_size=1, max_size=5).map(" ".join), max_size=6).map("\n".join).map(str.encode)
    record = st.fixed_dictionaries({"item_id": word | st.integers()}, optional={"title": word, "categories": word})
    items = st.lists(record, max_size=4).map(json_lines)
    return st.fixed_dictionaries({"sequences.txt": lines, "items.jsonl": items})


def item_fields() -> list[Files]:
    records = [{"item_id": "a", "plot": "Nhân vật", "tags": ["x", "y"]}, {"item_id": "b", "plot": "p", "year": 1995}]
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(["movie_title", "wiki_summary"])
    rows.writerows([[TITLES[0], 'a "film", long'], [TITLES[2].upper(), "line\nbreak"]])
    plain = {"plots.jsonl": json_lines(records), "wiki.csv": out.getvalue().encode()}
    return [plain, {name: BOM + content for name, content in plain.items()}]


def read_item_fields(folder: Path, skip: bool) -> bool:
    by_id = {"path": str(folder / "plots.jsonl"), "fields": {"plot": "description", "tags": "categories"}}
    fields = {"wiki_summary": "semantic_summary"}
    by_title = {"path": str(folder / "wiki.csv"), "on": "title", "key": "movie_title", "fields": fields}
    dataset = Fixed(name="fixed", item_fields=[by_id, by_title]).load(folder)
    check_dataset(dataset)
    items = {name: Item(title) for name, title in zip("abc", TITLES, strict=False)}
    plots, wiki = (naive_datasets.records(folder / name) for name in ("plots.jsonl", "wiki.csv"))
    items = naive_datasets.joined(items, plots, None, plot="description", tags="categories")
    items = naive_datasets.joined(items, wiki, "movie_title", wiki_summary="semantic_summary")
    naive_datasets.same(dataset, [Event("u", "a", 1, 1.0), Event("u", "b", 2, 1.0), Event("v", "c", 1, 1.0)], items)
    return True


def structured_item_fields() -> Any:
    from hypothesis import strategies as st

    value = st.text(max_size=8) | st.integers() | st.floats() | st.none() | st.lists(st.text(max_size=4), max_size=2)
    rest = {"plot": value, "tags": value, "__proto__": value}
    record = st.fixed_dictionaries({"item_id": st.sampled_from(["a", "b", 3]) | value}, optional=rest)
    cell = st.sampled_from(['"', ",", "x", TITLES[0], "\r\n", "ê"]) | st.text(max_size=5)
    table = st.lists(st.lists(cell, min_size=1, max_size=3).map(",".join), max_size=4).map(
        lambda rows: "\n".join(["movie_title,wiki_summary", *rows]).encode()
    )
    return st.fixed_dictionaries({"plots.jsonl": st.lists(record, max_size=4).map(json_lines), "wiki.csv": table})


READERS = [
    Reader("movielens", movielens, read_movielens, structured_movielens),
    Reader("movielens archive", movielens_archive, read_movielens_archive),
    Reader("amazon 2014", amazon_2014, read_amazon),
    Reader("amazon 2018", amazon_2018, read_amazon, structured_amazon),
    Reader("sequences", sequences, read_sequences, structured_sequences),
    Reader("item fields", item_fields, read_item_fields, structured_item_fields),
]
