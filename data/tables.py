"""Tables as people keep them: CSV, TSV, XLSX, JSONL and parquet, read into rows that know where they stand.

A row that breaks the form of its file (more cells than the header, a line that is no JSON object) is a bad row. Rows
without any value, such as the hundreds that a spreadsheet drags behind it, are no rows.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data.errors import UserError, in_one_line
from data.files import existing_file, read_text
from data.parquet_parts import BROKEN, open_parquet

LAST_ROW = 1_048_576  # of a sheet
CELLS = 50_000_000  # of a sheet
UNPACKED = 1 << 29  # bytes in the archive that an XLSX is: some million passages
ENDINGS = (".csv", ".tsv", ".xlsx", ".jsonl", ".parquet")


class Place(NamedTuple):
    """Where a row stands: `corpus.csv, line 7`, or `queries.xlsx, row 7` as the spreadsheet counts."""

    file: Path
    where: str

    def __str__(self) -> str:
        return f"{self.file}, {self.where}"


@dataclass
class BadRows:
    """Ends the load at a bad row, or counts it where `on_bad_row` is "skip"."""

    on_bad_row: str
    left_out: Counter[str] = field(default_factory=Counter)  # file name -> rows

    def __call__(self, place: Place, problem: str) -> None:
        if self.on_bad_row != "skip":
            raise UserError(f"{place}: {problem}; mend it or pass dataset.on_bad_row=skip to leave such rows out")
        self.left_out[place.file.name] += 1

    @property
    def notes(self) -> list[str]:
        return [f"{n:,} bad rows of {name} were left out" for name, n in self.left_out.items()]


@dataclass(frozen=True)
class Table:
    path: Path
    columns: list[str]  # as the file writes them, composed (NFC) and without blanks at their ends
    rows: list[dict[str, Any]]  # values as the file types them: texts, numbers, lists, None
    places: list[Place]

    def column(self, key: str, given: str | None, known: tuple[str, ...], what: str) -> str:
        """The column that `given` names, or the first of the `known` names, in whatever case; else a UserError."""
        found = self.column_or_none(key, given, known)
        if found is None:
            raise UserError(f"{self.path} has no column of {what}; it has {self._listed}: say which with {key}=")
        return found

    def column_or_none(self, key: str, given: str | None, known: tuple[str, ...]) -> str | None:
        if given is not None:
            name = composed(given)
            if name not in self.columns:
                raise UserError(f"{self.path} has no column {given} ({key}); it has {self._listed}")
            return name
        folded = {name.casefold(): name for name in reversed(self.columns)}
        return next((folded[name.casefold()] for name in known if name.casefold() in folded), None)

    @property
    def _listed(self) -> str:
        names = [name[:40] for name in self.columns if name]
        return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "no columns"


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def read_table(path: Path, key: str, bad: BadRows) -> Table:
    """The table of a file by its ending; `key` is the config's, for the sentence when there is no such file."""
    existing_file(path, key)
    ending = path.suffix.lower()
    if ending == ".jsonl":
        return _jsonl(path, bad)
    if ending == ".parquet":
        return _parquet(path)
    if ending == ".xlsx":
        return _with_header(path, _xlsx(path), bad)
    if ending in (".csv", ".tsv"):
        return _with_header(path, _csv(path, ending == ".tsv"), bad)
    hint = "save it as .xlsx" if ending == ".xls" else f"use {', '.join(ENDINGS)}"
    raise UserError(f"{path}: unknown ending {path.suffix!r} of {key}; {hint}")


def _with_header(path: Path, rows: Iterable[tuple[str, list[Any]]], bad: BadRows) -> Table:
    """Cells under the names of the first row that has any."""
    columns: list[str] = []
    records, places = [], []
    for where, cells in rows:
        while cells and (cells[-1] is None or cells[-1] == ""):
            cells.pop()
        if not any(str(cell).strip() for cell in cells if cell is not None):
            continue
        if not columns:
            columns = ["" if cell is None else composed(str(cell)) for cell in cells]
            twice = [name for name, n in Counter(filter(None, columns)).items() if n > 1]
            if twice:
                raise UserError(f"{path}, {where}: two columns are named {twice[0]}; rename one of them")
            continue
        place = Place(path, where)
        if len(cells) > len(columns):
            bad(place, f"{len(cells)} cells under a header of {len(columns)}; quote texts that hold the separator")
            continue
        cells = cells + [None] * (len(columns) - len(cells))
        records.append(dict(zip(columns, cells, strict=True)))
        places.append(place)
    if not columns:
        raise UserError(f"{path} is empty; it needs a first row with the names of the columns")
    return Table(path, columns, records, places)


def _csv(path: Path, tabs: bool) -> Iterator[tuple[str, list[Any]]]:
    """Each record with the line it starts at. TSV has no quotes; a CSV may be separated by `;` or tabs."""
    text = read_text(path)
    lines = io.StringIO(text, newline="")
    if tabs:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        separator = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(lines, delimiter=separator, strict=True)
    start = 1
    try:
        for cells in reader:
            yield f"line {start}", list(cells)
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: not a CSV record ({error}); is a closing quote missing?") from None


def _xlsx(path: Path) -> list[tuple[str, list[Any]]]:
    """The rows of the first sheet that hold anything, as the spreadsheet counts them; of a formula its last value."""
    from openpyxl import load_workbook

    rows, n_cells = [], 0
    try:
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > UNPACKED:
                raise ValueError(f"it unpacks to {unpacked:,} bytes; at most {UNPACKED:,} are read")
            sheet = load_workbook(file, read_only=True, data_only=True).worksheets[0]
            sheet.reset_dimensions()  # some programs write a wrong size, which would cut the sheet
            for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
                if number > LAST_ROW:  # rows that the file leaves out are made up to the one that it names
                    raise ValueError(f"a row beyond {LAST_ROW:,}")
                if any(cell is not None for cell in cells):
                    if (n_cells := n_cells + len(cells)) > CELLS:  # those that the file leaves out are made up too
                        raise ValueError(f"more than {CELLS:,} cells, as its columns go to the {len(cells):,}th")
                    rows.append((f"row {number}", list(cells)))
    except Exception as error:  # a damaged archive fails in many ways
        raise UserError(f"{path} is not an XLSX file ({in_one_line(error)[:200]}); save it again as .xlsx") from None
    return rows


def _jsonl(path: Path, bad: BadRows) -> Table:
    columns: dict[str, None] = {}
    records, places = [], []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = Place(path, f"line {number}")
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            bad(place, f"not JSON ({str(error)[:80]})")
            continue
        if not isinstance(record, dict):
            bad(place, "not a JSON object")
            continue
        record = {composed(name): value for name, value in record.items()}
        columns |= dict.fromkeys(record)
        records.append(record)
        places.append(place)
    return Table(path, list(columns), records, places)


def _parquet(path: Path) -> Table:
    file = open_parquet(path)
    try:
        table = file.read()
        records = table.rename_columns([composed(name) for name in table.column_names]).to_pylist()
    except (*BROKEN, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} is not a parquet file ({in_one_line(error)[:120]}); write it again") from None
    columns = [composed(name) for name in table.column_names]
    return Table(path, columns, records, [Place(path, f"row {n}") for n in range(1, len(records) + 1)])
