"""Tables of texts and their cells, read in the plainest way, for the fuzzer."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from experiments.endurance.naive_files import (
    Unclear,
    cells_of,
    filled,
    json_of,
    lines_of,
    plain,
    sheet_of,
    text_of,
)  # fmt: skip

Row = dict[str, Any]


def table_of(path: Path) -> tuple[list[Row], int]:
    """Rows by the names of columns, in small letters, and how many are not of the table's form."""
    if path.suffix == ".jsonl":
        found = [json_of(line) for line in filled(lines_of(path.read_bytes()))]
        rows = [{plain(name): value for name, value in row.items()} for row in found if row is not None]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return folded(rows, names), found.count(None)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.ParquetFile(path).read()
            names = [plain(name) for name in table.column_names]
            columns = [table.column(n).to_pylist() for n in range(len(names))]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Unclear(str(error)) from None
        return folded([dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)], names), 0
    if path.suffix == ".xlsx":
        cells: list[list[Any]] = sheet_of(path)
    elif path.suffix == ".tsv":
        cells = [line.split("\t") for line in lines_of(path.read_bytes())]
    else:
        text = text_of(path)
        cells = [*cells_of(text, max(",;\t", key=text.partition("\n")[0].count))]
    return with_header(cells)


def with_header(cells: list[list[Any]]) -> tuple[list[Row], int]:
    full = []
    for row in cells:
        while row and row[-1] in ("", None):
            row.pop()
        if any(str(cell).strip() for cell in row if cell is not None):
            full.append(row)
    names = ["" if cell is None else plain(str(cell)) for cell in full[0]]
    rows = [dict(zip(names, [*row, *[None] * len(names)], strict=False)) for row in full[1:] if len(row) <= len(names)]
    return folded(rows, names), len(full) - 1 - len(rows)


def folded(rows: list[Row], names: list[str]) -> list[Row]:
    """Of names that differ in case alone the first counts."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(name.casefold(), name)
    return [{small: row.get(name) for small, name in first.items()} for row in rows]


def column(rows: list[Row], known: tuple[str, ...]) -> str | None:
    return next((name for name in known if rows and name in rows[0]), None)


def id_of(value: Any) -> str | None:
    """None: no id."""
    if isinstance(value, bool | list | dict | bytes):
        return None
    if isinstance(value, float):
        return "" if value != value else str(int(value)) if value.is_integer() else None
    if value is None or isinstance(value, str | int):
        return "" if value is None else str(value)
    raise Unclear(f"a {type(value).__name__}")


def words_of(value: Any) -> str | None:
    if isinstance(value, bool | list | dict | bytes):
        return None
    if value is None or isinstance(value, str | int | float):
        return "" if value is None or value != value else str(value)
    raise Unclear(f"a {type(value).__name__}")


def ids_of(value: Any) -> list[str] | None:
    """None: the cell is bad."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = list(ast.literal_eval(value.strip()))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    if isinstance(value, list):
        names = [id_of(entry) for entry in value if entry is not None and entry == entry]
        return None if None in names else [str(name) for name in names]
    if isinstance(value, str):
        return [name.strip() for name in re.split(r"[,;|\n\r\t]", value) if name.strip()] if value.strip() else None
    name = id_of(value)
    return [name] if name else None
