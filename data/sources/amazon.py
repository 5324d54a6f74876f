"""Amazon product reviews and metadata (McAuley, UCSD), raw files of the releases of 2014 and 2018.

python train.py dataset=amazon_beauty                            # or amazon_games, amazon_toys: downloaded once
python train.py dataset=amazon_reviews dataset.path=/my/folder   # a folder with a review and a metadata file
python train.py dataset=amazon_beauty dataset.fetch_images=true  # and the picture of each item

Metadata of 2014 (and some of its reviews) are Python dicts as text, which are parsed as literals and never run.
"""

import html
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from data.dataset import Dataset
from data.download import download
from data.errors import UserError, in_range
from data.files import existing_folder, file_sha256
from data.pictures import fetch_pictures
from data.progress import download_bar
from data.rows import READABLE
from data.sources.item_text import clean_markup, names_of, whole
from data.sources.record_lines import BadRow, read_record_lines
from data.sources.source import Raw, Source

TYPES: dict[str, Any] = {"str": str, "int64": int, "float64": (int, float)}
ENDINGS = (".json.gz", ".jsonl.gz", ".json", ".jsonl")
ASIN = re.compile(rb"""asin["']\s*:\s*(?:["']([^"'\\]+)["'])?""")  # no group: not to be read this way
SCRAPED = re.compile(
    r"</?(?:span|div|script|style|img|a|table|tr|td|ul|li|link|p|h\d)\b|\bvar \w+ *=|\bfunction *\(|getTime\(",
    re.IGNORECASE,
)


@dataclass
class AmazonReviews(Source):
    reviews: str | None = None  # file names in the folder `path`; None: the one file that can be meant
    metadata: str | None = None
    reviews_url: str | None = None  # downloaded once where `path` is None
    metadata_url: str | None = None
    fetch_images: bool = False
    image_size: int = 224  # pixels of the longer side, at most
    image_workers: int = 16
    image_retries: int = 3
    image_timeout: float = 20.0  # seconds for one picture

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("dataset.image_size", self.image_size, 16, 4096)
        in_range("dataset.image_workers", self.image_workers, 1, 64)
        in_range("dataset.image_retries", self.image_retries, 0, 10)
        in_range("dataset.image_timeout", self.image_timeout, 0.1, 600)
        if self.fetch_images and self.images is not None:
            raise UserError("dataset.fetch_images=true and dataset.images= exclude each other; give one of them")
        for key, url in (("reviews_url", self.reviews_url), ("metadata_url", self.metadata_url)):
            if url is not None and not urlsplit(url).path.endswith(ENDINGS):
                raise UserError(f"dataset.{key}={url} must end in {', '.join(ENDINGS)}")

    def read(self, data_dir: Path) -> Raw:
        reviews, metadata = self._files(data_dir / self.name)
        notes: list[str] = []
        events = read_reviews(reviews, self.on_bad_row, notes)
        items = read_items(metadata, set(events["item"]), self.on_bad_row, notes)
        if not self.fetch_images:
            items = items.drop(columns="image")
        return Raw(
            interactions=events,
            items=items,
            source=self.reviews_url
            or "Amazon reviews (McAuley, UCSD), https://cseweb.ucsd.edu/~jmcauley/datasets.html",
            licence="Amazon reviews, for research; not redistributable",
            files={path.name: file_sha256(path) for path in (reviews, metadata)},
            notes=notes,
        )

    def load(self, data_dir: Path) -> Dataset:
        """Pictures are fetched last, for the items that the filters left; until then `image` holds addresses."""
        dataset = super().load(data_dir)
        if not self.fetch_images:
            return dataset
        paths, note = fetch_pictures(
            dict(zip(dataset.catalog.id, dataset.catalog.image, strict=True)),
            data_dir / self.name / "images",
            size=self.image_size,
            workers=self.image_workers,
            retries=self.image_retries,
            timeout=self.image_timeout,
        )
        image = np.array([paths.get(item) for item in dataset.catalog.id], dtype=object)
        provenance = replace(dataset.provenance, notes=(*dataset.provenance.notes, note))
        return replace(dataset, catalog=replace(dataset.catalog, image=image), provenance=provenance)

    def _files(self, store: Path) -> tuple[Path, Path]:
        if self.path is not None:
            folder = existing_folder(Path(self.path), "dataset.path")
            names = [path.name for path in sorted(folder.iterdir()) if path.name.endswith(ENDINGS) and path.is_file()]
            about = [name for name in names if name.startswith("meta_")]
            other = [name for name in names if name not in about]
            known = [name for name in other if name.startswith("reviews_") or ".jsonl" not in name]
            return (
                folder / the_one(folder, names, "reviews", self.reviews, known or other),
                folder / the_one(folder, names, "metadata", self.metadata, about),
            )
        if self.reviews_url is None or self.metadata_url is None:
            raise UserError(
                f"dataset={self.name} needs dataset.path, a folder with a review and a metadata file, "
                "or both dataset.reviews_url and dataset.metadata_url"
            )
        reviews, metadata = (
            download(url, store / Path(urlsplit(url).path).name, download_bar)
            for url in (self.reviews_url, self.metadata_url)
        )
        return reviews, metadata


def the_one(folder: Path, names: list[str], key: str, given: str | None, candidates: list[str]) -> str:
    if given is not None:
        if not (folder / given).is_file():
            raise UserError(
                f"{folder} has no file {given} (dataset.{key}); it has {', '.join(names) or 'no such files'}"
            )
        return given
    if len(candidates) != 1:
        found = ", ".join(candidates or names) or f"no file that ends in {', '.join(ENDINGS)}"
        raise UserError(f"{folder} has not exactly one file of {key}: it has {found}; say which with dataset.{key}=")
    return candidates[0]


def read_reviews(path: Path, on_bad_row: str, notes: list[str]) -> pd.DataFrame:
    rows = read_record_lines(path, review_of, on_bad_row, notes)
    table = pd.DataFrame(rows, columns=pd.Index(["user", "item", "timestamp", "rating", "review", "headline"]))
    return table.astype({"timestamp": "int64", "rating": "float64"})


def review_of(record: dict[str, Any]) -> tuple[str, str, int, float, str, str]:
    """The summary stands before the text, as a heading; either may be absent."""
    headline = clean_markup(record.get("summary"))
    review = ": ".join(filter(None, (headline, clean_markup(record.get("reviewText")))))
    return (
        field(record, "reviewerID", "str"),
        field(record, "asin", "str"),
        field(record, "unixReviewTime", "int64"),
        float(field(record, "overall", "float64")),
        review,
        headline,
    )


def field(record: dict[str, Any], name: str, kind: str) -> Any:
    if name not in record:
        raise BadRow(f"no {name}")
    value = record[name]
    if isinstance(value, TYPES[kind]) and not isinstance(value, bool):
        if kind == "str" and value.strip():
            return whole(value)
        if kind != "str" and abs(value) < 2**63:
            return value
    raise BadRow(f"{name} is {shown(value)}, not {READABLE[kind]}")


def shown(value: Any) -> str:
    try:
        return repr(value)[:40]
    except ValueError:  # Python prints no whole number of more than 4,300 digits
        return f"a very long {type(value).__name__}"


def read_items(path: Path, wanted: set[str], on_bad_row: str, notes: list[str]) -> pd.DataFrame:
    """title, description, categories, image (an address) and brand of the wanted items, by asin.

    A metadata file has up to a hundred times the items that reviews name: lines of other items are not parsed.
    """
    known = {b"", *(item.encode() for item in wanted)}
    rows = read_record_lines(
        path, item_of, on_bad_row, notes, wanted=lambda line: not known.isdisjoint(ASIN.findall(line) or [b""])
    )
    columns = ["item", "title", "description", "categories", "image", "brand"]
    table = pd.DataFrame(rows, columns=pd.Index(columns), dtype=object).set_index("item")
    table = table[table.index.isin(wanted)]
    if repeated := int(table.index.duplicated().sum()):
        notes.append(f"{repeated:,} lines of {path.name} repeat an item; its first line counts")
        table = table[~table.index.duplicated()]
    if without := len(wanted) - len(table):
        notes.append(f"{without:,} of {len(wanted):,} items with reviews are not in {path.name}")
    scraped = table["title"].isna()
    if scraped.any():
        notes.append(f"{int(scraped.sum()):,} titles are raw HTML or JavaScript and count as missing")
    return table.assign(title=table["title"].fillna(""))


def item_of(record: dict[str, Any]) -> tuple[str, str | None, str, tuple[str, ...], str | None, str]:
    """Fields by their names of 2014 or 2018; a title that is a piece of a web page is None."""
    title = record.get("title")
    scraped = isinstance(title, str) and SCRAPED.search(html.unescape(title))
    categories = record.get("category") or record.get("categories") or record.get("main_cat")
    pictures = (record.get(name) for name in ("imageURLHighRes", "imageURL", "imUrl"))
    addresses = [first for picture in pictures for first in (picture if isinstance(picture, list) else [picture])[:1]]
    return (
        field(record, "asin", "str"),
        None if scraped else clean_markup(title),
        clean_markup(record.get("description")),
        names_of(categories, clean_markup),
        next((address for address in addresses if isinstance(address, str) and address), None),
        clean_markup(record.get("brand")),
    )
