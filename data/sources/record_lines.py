"""Files of one record a line, JSON or a Python dict as `repr` writes it, plain or gzip: streamed, never executed."""

import ast
import codecs
import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from data.errors import UserError
from data.progress import bar

Row = TypeVar("Row")
DENSEST = 100  # times its size that a .gz may unpack to; texts do up to 10, and zeros up to 1,032
LONGEST = 1 << 22  # bytes of a line; the longest of Amazon's have some hundred thousand


class BadRow(Exception):
    """Says what is wrong with a record, without its place."""


def read_record_lines(
    path: Path,
    make: Callable[[dict[str, Any]], Row],
    on_bad_row: str,
    notes: list[str],
    wanted: Callable[[bytes], bool] = lambda line: True,
) -> list[Row]:
    """`make` of every record; a line that is no record, or of which `make` raises BadRow, is a bad row.

    Lines that are not `wanted` are not parsed, so what is wrong with them stays unseen. Empty lines are no rows.
    """
    rows, skipped = [], 0
    for number, line in enumerate(bar(lines_of(path), f"reading {path.name}"), start=1):
        if line.isspace() or not wanted(line):
            continue
        try:
            rows.append(make(parse(line)))
        except BadRow as problem:
            if on_bad_row == "error":
                raise UserError(
                    f"{path}, line {number}: {problem}; mend it or pass dataset.on_bad_row=skip to leave such rows out"
                ) from None
            skipped += 1
    if skipped:
        notes.append(f"{skipped:,} bad rows of {path.name} were left out")
    return rows


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file, unpacked as they are read where its name ends in .gz."""
    number = read = 0
    packed = path.suffix == ".gz"
    with path.open("rb") as start:
        if packed and start.read(2) != b"\x1f\x8b":
            raise UserError(f"{path} is not a gzip file; download it again, or rename it if it is plain text")
    most = 2 * LONGEST if packed else math.inf
    try:
        with (
            path.open("rb") as raw,
            gzip.open(raw) if packed else nullcontext(raw) as file,
            io.BufferedReader(file) as lines,  # type: ignore[arg-type]
        ):
            while line := lines.readline(LONGEST + 1):
                number += 1
                if len(line) > LONGEST:
                    raise UserError(
                        f"{path}, line {number}: over {LONGEST:,} bytes; the file must have a record a line"
                    )
                read += len(line)
                if read > most and read > (most := 2 * LONGEST + DENSEST * raw.tell()):
                    raise UserError(
                        f"{path} has unpacked to over {DENSEST} times its size at line {number:,}, as no file of "
                        "records does; unpack it yourself if it is one"
                    )
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path} is cut off or damaged after {number:,} lines ({error}); delete it and download it again"
        ) from None


def parse(line: bytes) -> dict[str, Any]:
    if b"\0" in line:
        raise BadRow("a NUL byte")
    try:
        text = line.removeprefix(codecs.BOM_UTF8).decode().strip()
    except UnicodeDecodeError:
        raise BadRow("not utf-8 text") from None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        try:
            record = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise BadRow(f"neither JSON nor a Python dict of plain values: {text[:40]!r}") from None
    if not isinstance(record, dict):
        raise BadRow(f"a {type(record).__name__}, not a JSON object or Python dict")
    return record
