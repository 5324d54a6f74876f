"""A source turns files into a Dataset: read, enrich, filter, number. A new format is a subclass with `read`.

Each step says what it removed or joined in one sentence, which stands in `Dataset.provenance.notes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.dataset import Catalog, Dataset, Interactions, Planted, Provenance
from data.errors import UserError, check_seed, in_range, one_of
from data.feature_files import encoder_of, read_features
from data.filters import Notes, drop_duplicates, drop_missing_titles, drop_ratings_below, k_core
from data.item_fields import TEXT_FIELDS, join_images, join_item_fields
from data.progress import bar

FAR = 4_102_444_800  # seconds: the year 2100


@dataclass
class Raw:
    """What `read` returns, in the source's own ids and order."""

    interactions: pd.DataFrame  # user str, item str, timestamp int64, rating float; optional review, headline str
    items: pd.DataFrame  # index = item id str; any of title, description, categories, image, caption, semantic_summary
    source: str
    licence: str
    files: dict[str, str]  # file name -> sha256
    synthetic: bool = False
    notes: Notes = field(default_factory=list)
    timed: bool = True  # False: `timestamp` is only the order within a user
    plant: Callable[[np.ndarray, np.ndarray], Planted] | None = None  # (user ids, item ids) by row -> planted model


@dataclass
class Source:
    """Fields that every recommendation source shares; the YAML of a dataset sets them."""

    name: str
    path: str | None = None  # an existing folder; None: download or generate
    seed: int = 0  # numbers users and items, so that no id carries a meaning
    min_rating: float | None = None
    k_core: int = 1  # every remaining user and item has at least this many interactions
    missing_titles: str = "drop"
    item_fields: Any = None
    images: str | None = None
    image_features: str | None = None
    on_bad_row: str = "error"

    def __post_init__(self) -> None:
        one_of("dataset.missing_titles", self.missing_titles, ("drop", "keep"))
        one_of("dataset.on_bad_row", self.on_bad_row, ("error", "skip"))
        in_range("dataset.k_core", self.k_core, 1)
        check_seed("dataset.seed", self.seed)

    def read(self, data_dir: Path) -> Raw:
        raise NotImplementedError

    def load(self, data_dir: Path) -> Dataset:
        raw = self.read(data_dir)
        items, notes = raw.items.copy(), raw.notes
        if not items.index.is_unique:
            twice = items.index[items.index.duplicated()][0]
            raise UserError(f"dataset {self.name} lists the item id {twice} twice; each item must stand once")
        for column in TEXT_FIELDS:
            if column not in items:
                items[column] = ""
        if "categories" not in items:
            items["categories"] = [()] * len(items)
        if "image" not in items:
            items["image"] = None
        if self.item_fields is not None:
            raw.files |= join_item_fields(items, self.item_fields, notes)
        if self.images is not None:
            join_images(items, Path(self.images), notes)

        events = raw.interactions
        if raw.timed and (late := int((events["timestamp"] >= FAR).sum())):
            notes.append(f"{late:,} interactions are of the year 2100 or later (milliseconds?) and count as they are")
        filters: list[Callable[[pd.DataFrame], pd.DataFrame]] = [
            lambda rows: rows.astype({"user": "category", "item": "category"}),  # four bytes an id
            lambda rows: drop_ratings_below(rows, self.min_rating, notes),
            lambda rows: drop_duplicates(rows, notes),
            lambda rows: k_core(rows, self.k_core, notes),
        ]
        if self.missing_titles == "drop":
            filters.insert(1, lambda rows: drop_missing_titles(rows, items, notes))
        raw.interactions = events[:0]  # what is left out is not kept in memory
        for narrowed in bar(filters, "filtering interactions"):
            events = narrowed(events)
        if events.empty:
            raise UserError(
                f"dataset {self.name} has no interactions left: {'; '.join(notes) or 'the files are empty'}"
            )
        return self._number(raw, events, items)

    def _number(self, raw: Raw, events: pd.DataFrame, items: pd.DataFrame) -> Dataset:
        """Users and items become rows in a seeded random order; events are sorted by user, time, file order."""
        rng = np.random.default_rng(self.seed)
        user_id, user = _numbered(events["user"], rng)
        item_id, item = _numbered(events["item"], rng)
        timestamp = events["timestamp"].to_numpy(np.int64)
        order = np.lexsort((timestamp, user))  # stable: equal timestamps keep the order of the file
        texts = {name: events[name].to_numpy(object)[order] for name in ("review", "headline") if name in events}
        unused = len(items) - items.index.isin(item_id).sum()
        if unused:
            raw.notes.append(f"{unused:,} items without a remaining interaction left the catalogue")
        catalog = to_catalog(items.reindex(pd.Index(item_id)))
        if self.image_features is not None:
            features, files = read_features(item_id, Path(self.image_features), raw.notes)
            made_by = encoder_of(Path(self.image_features))
            catalog = replace(catalog, image_features=features, image_encoder=made_by)
            raw.files |= files
        return Dataset(
            name=self.name,
            kind="recommendation",
            catalog=catalog,
            user_id=user_id,
            interactions=Interactions(
                user=user[order],
                item=item[order],
                timestamp=timestamp[order],
                rating=events["rating"].to_numpy(np.float32)[order],
                **texts,
            ),
            provenance=Provenance(raw.source, raw.licence, raw.files, raw.synthetic, tuple(raw.notes)),
            planted=raw.plant(user_id, item_id) if raw.plant else None,
            timed=raw.timed,
        )


def _numbered(ids: pd.Series, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ids in random order, and the place of each row's id among them, int32."""
    code, distinct = pd.factorize(ids)
    names = np.array(distinct, dtype=object)
    numbered = rng.permutation(np.unique(names))
    return numbered, pd.Index(numbered).get_indexer(names).astype(np.int32)[code]


def to_catalog(items: pd.DataFrame) -> Catalog:
    texts: dict[str, Any] = {name: items[name].fillna("").astype(object).to_numpy() for name in TEXT_FIELDS}
    empty: list[Any] = [None] * len(items)
    categories, image = np.array(empty, dtype=object), np.array(empty, dtype=object)
    for row, (path, picture) in enumerate(zip(items["categories"], items["image"], strict=True)):
        categories[row] = tuple(path) if isinstance(path, tuple | list) else ()
        image[row] = picture if isinstance(picture, str | np.ndarray) else None
    return Catalog(id=np.array(items.index, dtype=object), categories=categories, image=image, **texts)
