"""What a model reads of an item: its title, with its caption or its semantic summary."""

from __future__ import annotations

from data.dataset import Catalog
from data.errors import UserError, one_of

FIELDS = {"text_only": None, "caption": "caption", "semantic_summary": "semantic_summary"}


def check_item_text(mode: str) -> None:
    one_of("reranker.item_text", mode, tuple(FIELDS))


def item_texts(catalog: Catalog, mode: str) -> list[str]:
    """One text an item; an item without the mode's text has its title alone. No item with it is a UserError."""
    field = FIELDS[mode]
    if field is None:
        return [str(title) for title in catalog.title]
    if not catalog.has(field):
        raise UserError(
            f"reranker.item_text={mode} needs items with a {field}, and none of the {len(catalog):,} has one; make "
            f"them with `python -m experiments.enrich field={field}`, or join a file with dataset.item_fields="
        )
    extra = getattr(catalog, field)
    return [f"{title}: {text}" if text else str(title) for title, text in zip(catalog.title, extra, strict=True)]
