"""Parquet files of any size: a part of the rows is in memory at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError, in_one_line
from data.files import written_whole
from data.progress import bar

ROWS = 2**20  # rows of a part; pyarrow's own choice, so that a file written whole has the same bytes
PAIRS = 2**23  # candidates of a part where a row is a list
READ = 2**16  # rows read together
BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError)  # what a size or a name that is broken raises


def write_parts(path: Path, tables: Iterable[pa.Table]) -> None:
    """Each table becomes a row group. Readers see the old file or the whole new one, never a part."""
    rest = iter(tables)
    first = next(rest)
    with written_whole(path) as file, pq.ParquetWriter(file, first.schema) as writer:
        for table in itertools.chain([first], rest):
            writer.write_table(table, row_group_size=max(len(table), 1))


def open_parquet(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
        if file.metadata.num_rows > 1_000_000 + 10 * path.stat().st_size:
            raise pa.ArrowInvalid(f"{file.metadata.num_rows:,} rows in so small a file")
        _ = file.schema_arrow.names
        return file
    except BROKEN as error:
        raise UserError(f"{path} is not a parquet file ({in_one_line(error)}); give another path") from None


def read_parts(path: Path, file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.Table]:
    """At least one table, which may be empty."""
    empty, n_rows = True, file.metadata.num_rows
    try:
        for batch in bar(file.iter_batches(READ, columns=columns), f"reading {path.name}", n_rows // READ + 1):
            empty = False
            yield pa.Table.from_batches([batch])
    except BROKEN as error:
        raise UserError(f"{path} is a damaged parquet file ({in_one_line(error)}); give another path") from None
    if empty:
        yield file.schema_arrow.empty_table().select(columns)
