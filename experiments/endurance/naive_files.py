"""Files read in the plainest way, for the fuzzer: what a reader of the product says is compared with it.

Nothing here is the product's own code. What it cannot tell of a broken file it says with `Unclear`: then only the form
of what was read is checked, and the file is not counted as compared.
"""

from __future__ import annotations

import ast
import html
import io
import json
import re
import unicodedata
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", re.ASCII)
MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
BOM = b"\xef\xbb\xbf"


class Unclear(Exception):
    """What is right cannot be told without the reader's own rules."""


def lines_of(content: bytes, encoding: str = "utf-8") -> list[str]:
    """As any system ends them, without byte-order marks."""
    with io.TextIOWrapper(io.BytesIO(content.removeprefix(BOM)), encoding, newline=None) as text:
        return text.read().lstrip("\ufeff").split("\n")


def text_of(path: Path) -> str:
    return "\n".join(lines_of(path.read_bytes()))


def filled(lines: list[str]) -> list[str]:
    return [line for line in lines if line.strip()]


def number_of(text: str) -> float | None:
    """Finite and within 64 bits; not 1_000, nan or the digits of other scripts."""
    value = float(text) if NUMBER.fullmatch(text) else None
    return value if value is not None and abs(value) < 2**63 else None


def whole_of(text: str) -> int | None:
    """12, and 12.0 and 1.2e1 too."""
    if not NUMBER.fullmatch(text) or not (value := float(text)).is_integer():
        return None
    exact = int(text) if text.strip().lstrip("+-").isdecimal() else int(value)
    return exact if abs(exact) < 2**63 else None


def cells_of(text: str, mark: str) -> list[list[str]]:
    """CSV by a regular expression; an empty line is a row without cells."""
    quoted, free, end = r'"((?:[^"]|"")*)"', rf"([^{mark}\n]*)", rf"({re.escape(mark)}|\n|\Z)"
    rows: list[list[str]] = [[]]
    for found in re.finditer(f"(?:{quoted}|{free}){end}", text):
        if found[1] is None and found[2].startswith('"'):
            raise Unclear("a quotation mark that no cell ends with")
        if found[1] is not None or found[2] or rows[-1] or found[3] == mark:
            rows[-1].append(found[2] if found[1] is None else found[1].replace('""', '"'))
        if found[3] == "\n":
            rows.append([])
        elif not found[3]:
            break
    return rows


def json_of(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def literal_of(line: bytes) -> dict[str, Any] | None:
    """A line of Amazon's files: JSON, or a dict as Python writes it."""
    for read in (json.loads, ast.literal_eval):
        with suppress(Exception):  # whatever the line leads it to
            record = read(line.removeprefix(BOM).decode().strip())
            return record if isinstance(record, dict) and b"\0" not in line else None
    return None


def mended(text: str) -> str:
    """Halves of letters beyond U+FFFF joined where both are there."""
    if text.isascii() or not re.search("[\ud800-\udfff]", text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def plain(text: str) -> str:
    return unicodedata.normalize("NFC", mended(text)).strip()


def one_line(value: Any) -> str:
    """A text of a JSON file on one line; a list joined."""
    if value is None or isinstance(value, float):
        return ""
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"\s+", " ", mended(html.unescape(text))).strip()


def without_markup(value: Any) -> str:
    """Of texts that hold none; what a tag is the product's tests say, by examples."""
    texts = value if isinstance(value, list) else [value]
    text = html.unescape(" ".join(each for each in texts if isinstance(each, str)))
    return re.sub(r"\s+", " ", mended(re.sub(r"<(br|b|/b)\b[^<>]*>", " ", known_markup(text)))).strip()


def known_markup(text: str) -> str:
    if "<" in re.sub(r"</?b>|<br ?/?>", "", text):
        raise Unclear("markup that is not known here")
    return text


def distinct(values: Any, text: Any = one_line) -> tuple[str, ...]:
    """A list, or a list of lists, of names: each once."""
    flat: list[Any] = []
    for value in values if isinstance(values, list) else [values]:
        flat += value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(filter(None, map(text, flat)))) if values else ()


# XLSX


def sheet_of(path: Path) -> list[list[Any]]:
    """The cells of the first sheet, as its XML has them: texts that stand in their cells, and numbers."""
    try:
        with zipfile.ZipFile(path) as archive:
            sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError, ValueError, OSError, RuntimeError) as error:
        raise Unclear(str(error)) from None
    rows: list[list[Any]] = []
    for row in sheet.iter(f"{MAIN}row"):
        if row.get("r") != str(len(rows) + 1):
            raise Unclear("a row out of its place")
        rows.append([])
        for number, cell in enumerate(row):
            if cell.tag != f"{MAIN}c" or cell.get("r") != f"{chr(65 + number)}{len(rows)}" or "s" in cell.attrib:
                raise Unclear("a cell out of its place, or in a style")
            rows[-1].append(value_of(cell))
    return rows


def value_of(cell: ElementTree.Element) -> Any:
    kind, inside = cell.get("t", "n"), [part.tag.removeprefix(MAIN) for part in cell.iter()][1:]
    values = [part.text for part in cell.iter() if part.tag in (f"{MAIN}t", f"{MAIN}v")]  # not what is beside them
    text = "".join(filter(None, values))
    if not inside and not text.strip():
        return None
    if kind == "inlineStr" and inside == ["is", "t"]:
        return text
    if kind == "n" and inside == ["v"] and NUMBER.fullmatch(text):
        return float(text) if set(text) & set(".eE") else int(text)
    raise Unclear("a cell of another kind")
