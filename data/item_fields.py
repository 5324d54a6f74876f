"""Enriching any dataset from files made elsewhere: item texts joined by id or title, pictures by file name.

dataset.item_fields=items.jsonl                                             # fields of the same name, by item_id
'dataset.item_fields={path: wiki.csv, on: title, key: movie_title, fields: {wiki_summary: semantic_summary}}'
'dataset.item_fields=[{...}, {...}]'                                        # several files
"""

from pathlib import Path
from typing import Any

import pandas as pd

from data.errors import UserError
from data.files import existing_file, existing_folder, file_sha256, read_records
from data.sources.item_text import whole

TEXT_FIELDS = ("title", "description", "caption", "semantic_summary")
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
SETTINGS = {"path", "on", "key", "fields"}


def join_item_fields(items: pd.DataFrame, spec: Any, notes: list[str]) -> dict[str, str]:
    """Fills columns of `items` in place; returns the sha256 of each file read."""
    hashes = {}
    for entry in spec if isinstance(spec, list) else [spec]:
        entry = {"path": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict):
            raise UserError(
                f"dataset.item_fields={entry} is not allowed; give a file, {{path: file, ...}} or a list of these"
            )
        if unknown := set(entry) - SETTINGS:
            raise UserError(
                f"dataset.item_fields has the unknown key {min(unknown)}; allowed: {', '.join(sorted(SETTINGS))}"
            )
        fields = entry.get("fields")
        if fields is not None and not isinstance(fields, dict):
            raise UserError(f"dataset.item_fields.fields={fields} must map names, as in {{plot: caption}}")
        if not isinstance(entry.get("path"), str):
            raise UserError("dataset.item_fields needs path=, the JSONL or CSV file to join")
        path = existing_file(Path(entry["path"]), "dataset.item_fields.path")
        by = entry.get("on", "id")
        if by not in ("id", "title"):
            raise UserError(f"dataset.item_fields.on={by} is not allowed; choose id or title")
        _join(
            items,
            path,
            by,
            entry.get("key", "item_id" if by == "id" else "title"),
            entry.get("fields"),
            notes,
        )
        hashes["/".join(path.parts[-2:])] = file_sha256(path)
    return hashes


def _join(items: pd.DataFrame, path: Path, by: str, key: str, fields: dict[str, str] | None, notes: list[str]) -> None:
    records = read_records(path)
    present = {name for record in records for name in record}
    fields = fields or {name: name for name in (*TEXT_FIELDS, "categories") if name in present}
    for name in (key, *fields):
        if name not in present:
            raise UserError(f"{path} has no field {name}; it has {', '.join(sorted(map(str, present)))}")
    for target in fields.values():
        allowed = (*TEXT_FIELDS, "categories")
        if target not in allowed:
            raise UserError(f"dataset.item_fields maps to {target}, which no item has; choose {', '.join(allowed)}")
    fold = _fold if by == "title" else str
    table = {fold(record[key]): record for record in records if record.get(key) is not None}
    keys = items["title"].map(_fold) if by == "title" else items.index.to_series().astype(str)
    matched = [table.get(value) for value in keys]
    found = sum(record is not None for record in matched)
    if not found:
        raise UserError(f"{path} matches none of the {len(items):,} items by {by} ({key}); check on= and key=")
    for name, target in fields.items():
        values = [None if record is None or record.get(name) in (None, "") else record[name] for record in matched]
        new = [
            before if value is None else _value(target, value)
            for before, value in zip(items[target].tolist(), values, strict=True)
        ]
        items[target] = pd.Series(new, index=items.index, dtype=object)
        given = sum(value is not None for value in values)
        notes.append(f"{path.name} gave {target} to {given:,} of {len(items):,} items")


def _fold(title: Any) -> str:
    return " ".join(str(title).split()).casefold()


def _value(target: str, value: Any) -> Any:
    texts = [whole(str(part)) for part in (value if isinstance(value, list) else [value])]
    return tuple(texts) if target == "categories" else ", ".join(texts)


def join_images(items: pd.DataFrame, folder: Path, notes: list[str]) -> None:
    """Gives each item the picture whose file name is its id."""
    existing_folder(folder, "dataset.images")
    pictures = {path.stem: str(path) for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES}
    items["image"] = pd.Series([pictures.get(str(i)) for i in items.index], index=items.index, dtype=object)
    found = int(items["image"].notna().sum())
    if not found:
        raise UserError(f"dataset.images={folder} has no picture named by an item id ({', '.join(PICTURES)})")
    notes.append(f"{found:,} of {len(items):,} items have a picture")
