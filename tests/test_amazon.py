"""Raw Amazon files of 2014 and 2018, hostile and broken ones among them."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from data.sources.amazon import AmazonReviews
from data.sources.item_text import clean_markup
from data.sources.record_lines import LONGEST, lines_of

META = [
    {
        "asin": "A1",
        "title": 'Men\'s "Daily" Cream &amp; Soap',
        "price": 3.5,
        "imUrl": "http://x/a1.jpg",
        "categories": [["Beauty", "Skin Care"], ["Beauty", "Gifts &amp; Sets"]],
        "related": {"also_bought": ["A2"], "new": True, "rank": None},
        "description": "Soft.<br>\nFor <b>all</b> ages 3 < 5, I <3 it<script>var x = 1;</script>",
        "brand": "Fo\\o",
    },
    {"asin": "A2", "title": "An \ud83d\ude00 as two halves", "categories": [["Beauty"]]},
    {"asin": "A3", "categories": []},
    {"asin": "A9", "title": "Nobody reviewed it"},
    {"asin": "A1", "title": "A second line of A1"},
]


def review(user: str, item: str, when: Any = 1_400_000_000, rating: Any = 5.0, **more: Any) -> dict[str, Any]:
    return {"reviewerID": user, "asin": item, "overall": rating, "unixReviewTime": when, **more}


REVIEWS = [
    review("u1", "A2", reviewText="Don't\nbuy <i>it</i>", summary="No &amp; no"),
    review("u1", "A1", rating=2),
    review("u2", "A1", 1_300_000_000, summary="Fine"),
    review("u2", "A3"),
    review("u2", "A4"),
]


def amazon(folder: Path, reviews: list[Any] = REVIEWS, meta: list[Any] = META, **settings: Any) -> AmazonReviews:
    """Reviews as JSON, metadata as Python dicts, as in 2014; a text among them is a line as it is."""
    folder.mkdir(exist_ok=True)
    lines = ["\n".join(row if isinstance(row, str) else json.dumps(row) for row in reviews)]
    lines += ["\n".join(row if isinstance(row, str) else ascii(row) for row in meta)]
    for name, text in zip(("reviews_X_5.json.gz", "meta_X.json.gz"), lines, strict=True):
        (folder / name).write_bytes(gzip.compress(text.encode()))
    return AmazonReviews(name="x", path=str(folder), **settings)


def amazon_of(folder: Path, **settings: Any) -> AmazonReviews:
    return AmazonReviews(name="x", path=str(folder), **settings)


def test_files_of_2014(tmp_path: Path) -> None:
    raw = amazon(tmp_path).read(tmp_path)
    assert raw.interactions.to_dict("list") == {
        "user": ["u1", "u1", "u2", "u2", "u2"],
        "item": ["A2", "A1", "A1", "A3", "A4"],
        "timestamp": [1_400_000_000, 1_400_000_000, 1_300_000_000, 1_400_000_000, 1_400_000_000],
        "rating": [5.0, 2.0, 5.0, 5.0, 5.0],
        "review": ["No & no: Don't buy it", "", "Fine", "", ""],
        "headline": ["No & no", "", "Fine", "", ""],
    }
    assert raw.items["title"].to_dict() == {
        "A1": 'Men\'s "Daily" Cream & Soap',
        "A2": "An \U0001f600 as two halves",
        "A3": "",
    }
    assert raw.items.loc["A1", "description"] == "Soft. For all ages 3 < 5, I <3 it"
    assert raw.items.loc["A1", "categories"] == ("Beauty", "Skin Care", "Gifts & Sets")
    assert raw.items.loc["A1", "brand"] == "Fo\\o"
    assert raw.notes == [
        "1 lines of meta_X.json.gz repeat an item; its first line counts",
        "1 of 4 items with reviews are not in meta_X.json.gz",
    ]
    dataset = amazon(tmp_path).load(tmp_path)
    assert sorted(dataset.catalog.id) == ["A1", "A2"]  # without a title: A3, A4
    first = dataset.sequences.row(dataset.user_id.tolist().index("u1"))
    assert dataset.catalog.id[first].tolist() == ["A2", "A1"]  # the same second: the file's order
    assert not dataset.catalog.has("image")
    kept = amazon(tmp_path, missing_titles="keep").load(tmp_path)
    assert sorted(kept.catalog.id) == ["A1", "A2", "A3", "A4"]


def test_files_of_2018(tmp_path: Path) -> None:
    pictures = {"imageURL": ["http://x/small.jpg"], "imageURLHighRes": ["http://x/large.jpg", "http://x/2.jpg"]}
    flat = {"category": ["Toys &amp; Games", "Toys &amp; Games", "</span></span>"], "description": ["One.", "Two."]}
    meta = [
        {"asin": "A1", "title": " Toy\n", **flat, **pictures},
        {"asin": "A2", "title": "var aPageStart = (new Date()).getTime();", "main_cat": "Toys"},
        {"asin": "A3", "title": '<span id="productTitle">Toy</span>', "imageURL": [], "imageURLHighRes": []},
        {"asin": "A4", "title": "A <b>bold</b> toy", "imageURL": ["http://x/small.jpg"], "imageURLHighRes": []},
    ]
    source = amazon(tmp_path, REVIEWS, [json.dumps(row) for row in meta], fetch_images=True)
    raw = source.read(tmp_path)
    assert raw.items["title"].tolist() == ["Toy", "", "", "A bold toy"]
    assert raw.items["image"].tolist() == ["http://x/large.jpg", None, None, "http://x/small.jpg"]
    assert raw.items["categories"].tolist() == [("Toys & Games",), ("Toys",), (), ()]
    assert raw.items.loc["A1", "description"] == "One. Two."
    assert raw.notes == ["2 titles are raw HTML or JavaScript and count as missing"]


def test_real_gift_cards(shared_data: Path) -> None:
    folder = shared_data / "amazon18-giftcards-raw"
    assert sum(1 for _ in lines_of(folder / "meta_Gift_Cards.json.gz")) == 1_547
    dataset = AmazonReviews(name="gift", path=str(folder)).load(Path())
    assert (len(dataset.user_id), len(dataset.catalog), len(dataset.interactions)) == (458, 148, 2_965)
    assert "7 of 2,972 interactions that repeat a user-item pair were left out" in dataset.provenance.notes
    assert set(dataset.provenance.files) == {"Gift_Cards_5.json.gz", "meta_Gift_Cards.json.gz"}
    row = dataset.catalog.row_of_id["B004LLIKVU"]
    assert dataset.catalog.title[row] and dataset.catalog.categories[row][0] == "Gift Cards"
    events = dataset.interactions
    assert events.review is not None and "Five Stars: Great" in events.review
    assert events.headline is not None and all(map(str.startswith, events.review, events.headline))
    assert not any("<br" in text or "&amp;" in text for text in dataset.catalog.description)


def test_headlines_follow_their_reviews_and_count_in_the_hash(tmp_path: Path) -> None:
    dataset = amazon(tmp_path, [*REVIEWS[::-1], review("u2", "A2", 1_200_000_000, summary="First")]).load(tmp_path)
    events = dataset.interactions
    assert events.review is not None and events.headline is not None
    pairs = zip(dataset.user_id[events.user], dataset.catalog.id[events.item], strict=True)
    told = dict(zip(pairs, events.headline, strict=True))
    assert told == {("u1", "A2"): "No & no", ("u1", "A1"): "", ("u2", "A1"): "Fine", ("u2", "A2"): "First"}
    assert all(map(str.startswith, events.review, events.headline))
    hashes = {
        replace(dataset, interactions=replace(events, headline=headline)).sha256
        for headline in (events.headline, events.headline[::-1], None)
    }
    assert len(hashes) == 3 and dataset.sha256 in hashes


BAD_REVIEWS = [
    ("[1, 2]", "a list, not a JSON object or Python dict"),
    ("{'asin': 'A1'", "neither JSON nor a Python dict of plain values: \"{'asin': 'A1'\""),
    ("[" * 100_000, "neither JSON nor"),
    ("{'a': " + "-" * 100_000 + "1}", "neither JSON nor"),
    ("{[]: 1}", "neither JSON nor"),
    (json.dumps({"asin": "A1"}), "no reviewerID"),
    (json.dumps(review("", "A1")), "reviewerID is '', not a text that is not empty"),
    (json.dumps(review("u", "A1", when=1.5)), "unixReviewTime is 1.5, not a whole number"),
    (json.dumps(review("u", "A1", when=True)), "unixReviewTime is True, not a whole number"),
    (json.dumps(review("u", "A1", when=2**63)), "unixReviewTime is 9223372036854775808, not a whole number"),
    (repr(review("u", "A1")).replace("5.0", "0x" + "f" * 9999), "overall is a very long int, not a finite"),
    (json.dumps(review("u", "A1", rating="5")), "overall is '5', not a finite number"),
    (json.dumps(review("u", "A1", rating=float("nan"))), "overall is nan, not a finite number"),
    (json.dumps(review("u", "A1")) + "\0", "a NUL byte"),
    (json.dumps(review("u", "A1")) + "\udcff", "not utf-8 text"),
]


@pytest.mark.parametrize(("bad", "says"), BAD_REVIEWS, ids=[says[:30] for _, says in BAD_REVIEWS])
def test_bad_line_is_named_by_its_number_or_counted(tmp_path: Path, bad: str, says: str) -> None:
    source = amazon(tmp_path)
    good = [json.dumps(row) for row in REVIEWS]
    text = "\n".join([*good[:2], "", bad, *good[2:]]).encode(errors="surrogateescape")
    (tmp_path / "reviews_X_5.json.gz").unlink()
    (tmp_path / "reviews_X_5.json").write_bytes(text)
    with pytest.raises(UserError) as error:
        source.read(tmp_path)
    assert f"{tmp_path / 'reviews_X_5.json'}, line 4: {says}" in str(error.value)
    assert str(error.value).endswith("pass dataset.on_bad_row=skip to leave such rows out")
    raw = amazon_of(tmp_path, on_bad_row="skip").read(tmp_path)
    assert len(raw.interactions) == len(REVIEWS)
    assert "1 bad rows of reviews_X_5.json were left out" in raw.notes


def test_code_in_a_file_never_runs(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = f"""{{'asin': 'A1', 'title': __import__('pathlib').Path({str(canary)!r}).touch()}}"""
    with pytest.raises(UserError, match=r"meta_X.json.gz, line 1: neither JSON nor a Python dict of plain values"):
        amazon(tmp_path / "a", meta=[evil, *META]).read(tmp_path)
    raw = amazon(tmp_path / "a", meta=[evil, *META], on_bad_row="skip").read(tmp_path)
    assert "1 bad rows of meta_X.json.gz were left out" in raw.notes
    assert raw.items.loc["A1", "title"].startswith("Men's")
    assert not canary.exists()


def test_metadata_of_other_items_is_not_parsed_and_none_of_ours_is_missed(tmp_path: Path) -> None:
    meta = [
        "{'asin': 'A9', broken",
        """{'title': "an 'asin': 'A9' in a title", 'asin': 'A1'}""",
        """{"title": "'asin': ", "asin": "A2"}""",
        """{u'asin': u'A3', u'title': u'an "asin": "A9" too'}""",
        r"""{"title": "escaped", "asin": "\u0041\u0034"}""",
    ]
    raw = amazon(tmp_path, meta=meta).read(tmp_path)
    assert raw.items.index.tolist() == ["A1", "A2", "A3", "A4"]


def test_damaged_files(tmp_path: Path) -> None:
    source = amazon(tmp_path, [review(f"u{n}", "A1", reviewText=f"{n**99}") for n in range(999)], on_bad_row="skip")
    path = tmp_path / "reviews_X_5.json.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"is cut off or damaged after [1-9]\d* lines .*download it again"):
        source.read(tmp_path)
    path.write_bytes(whole[:-8] + b"\0" * 8)  # its checksum
    with pytest.raises(UserError, match=r"damaged after 99\d lines \(CRC check failed"):
        source.read(tmp_path)
    for content in (b"", b"<html>moved</html>"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not a gzip file"):
            source.read(tmp_path)
    path.write_bytes(gzip.compress(b"\n" + b" " * (LONGEST + 1)))
    with pytest.raises(UserError, match="line 2: over 4,194,304 bytes"):
        source.read(tmp_path)
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(UserError, match="no interactions left"):
        source.load(tmp_path)


def test_which_files_are_meant(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs dataset.path"):
        AmazonReviews(name="x").read(tmp_path)
    with pytest.raises(UserError, match=r"not exactly one file of reviews: it has no file that ends in .json.gz"):
        amazon_of(tmp_path).read(tmp_path)
    amazon(tmp_path)
    (tmp_path / "captions.jsonl").write_text("{}")  # not taken for reviews beside a file that is named like them
    (tmp_path / "meta_Y.json").write_text("")
    with pytest.raises(UserError, match=r"one file of metadata: it has meta_X.json.gz, meta_Y.json; say which with"):
        amazon_of(tmp_path).read(tmp_path)
    with pytest.raises(UserError, match=r"has no file nothing.json \(dataset.reviews\); it has captions.jsonl"):
        amazon_of(tmp_path, reviews="nothing.json").read(tmp_path)
    assert len(amazon_of(tmp_path, metadata="meta_X.json.gz").read(tmp_path).items) == 3
    with pytest.raises(UserError, match="exclude each other"):
        amazon_of(tmp_path, fetch_images=True, images="pictures")
    with pytest.raises(UserError, match=r"dataset.reviews_url=http://x/ must end in .json.gz"):
        AmazonReviews(name="x", reviews_url="http://x/")


def test_markup_without_end_takes_no_time() -> None:
    assert clean_markup("a <script>" + "<script>" * 100_000) == "a"
    assert clean_markup("a" + "<b" * 100_000).startswith("a<b")
