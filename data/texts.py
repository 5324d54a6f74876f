"""What is read of an item and of a request, by text retrievers and by every reranker of text."""

from __future__ import annotations

import numpy as np

from data.dataset import Catalog, Ragged
from data.errors import UserError, one_of

FIELDS = {"text_only": None, "caption": "caption", "semantic_summary": "semantic_summary"}


def check_item_text(mode: str) -> None:
    one_of("reranker.item_text", mode, tuple(FIELDS))


def folded(text: str) -> str:
    """What two texts share that say the same: neither case nor blanks count."""
    return " ".join(text.split()).casefold()


def item_texts(catalog: Catalog, mode: str = "text_only") -> list[str]:
    """One text an item: its title, or the words of an item without a title (a passage); `mode` adds a field to it,
    where the item has it. No item with that field is a UserError."""
    texts = [str(title or words) for title, words in zip(catalog.title, catalog.description, strict=True)]
    field = FIELDS[mode]
    if field is None:
        return texts
    if not catalog.has(field):
        raise UserError(
            f"reranker.item_text={mode} needs items with a {field}, and none of the {len(catalog):,} has one; make "
            f"them with `python -m experiments.enrich field={field}`, or join a file with dataset.item_fields="
        )
    extra = getattr(catalog, field)
    return [f"{text}: {more}" if more else text for text, more in zip(texts, extra, strict=True)]


def request_texts(
    catalog: Catalog, histories: Ragged, queries: np.ndarray | None, max_history: int, mode: str = "text_only"
) -> list[str]:
    """[R] the query; of a recommendation the items of its history."""
    if queries is not None:
        return [str(query) for query in queries]
    return history_texts(item_texts(catalog, mode), histories, max_history)


def history_texts(texts: list[str], histories: Ragged, max_history: int) -> list[str]:
    """[R] the items of each history, newest first, at most `max_history`."""
    return ["; ".join(texts[item] for item in row[::-1] if item >= 0) for row in histories.last(max_history)]
