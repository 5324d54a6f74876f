"""Reading and writing files: hashes, bad rows by line number, write-then-rename, resumable downloads."""

from __future__ import annotations

import codecs
import csv
import functools
import hashlib
import http.client
import io
import itertools
import json
import os
import platform
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import yaml
from filelock import FileLock

from data.errors import UserError
from data.progress import bar

csv.field_size_limit(1 << 30)  # by default a text of more than 131,072 characters is an error
PART = 2**24  # letters parsed together
HOST = re.sub(r"[^\w-]", "-", platform.node())  # in the names of partial files: process ids are a machine's own
SAFE_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser of `yaml.safe_load`, where there is one
READABLE = {"int64": "a whole number", "float64": "a finite number", "str": "a text that is not empty"}


def existing_file(path: Path, key: str) -> Path:
    if not path.is_file():
        raise UserError(f"{key}={path} {'is a folder' if path.exists() else 'does not exist'}; give an existing file")
    return path


def existing_folder(path: Path, key: str) -> Path:
    if not path.is_dir():
        raise UserError(f"{key}={path} {'is a file' if path.exists() else 'does not exist'}; give an existing folder")
    return path


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_sha256_once(path: Path) -> str:
    """As long as the file's size and time stay the same it is read once in this process: weights are large."""
    at = path.stat()
    return _sha256_of(path.resolve(), at.st_ino, at.st_size, at.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256_of(path: Path, *version: int) -> str:
    return file_sha256(path)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Readers see the old file or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left, pid in partials(path):
        if not psutil.pid_exists(pid):
            left.unlink(missing_ok=True)
    partial = path.with_name(f"{path.name}.{HOST}-{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partials(path: Path) -> list[tuple[Path, int]]:
    """What processes of this machine are writing to `path`, or were when they were killed, and their ids."""
    ours = re.compile(rf"{re.escape(path.name)}\.{re.escape(HOST)}-(\d+)\.partial")
    beside = path.parent.iterdir()
    return [(other, int(found[1])) for other in beside if (found := ours.fullmatch(other.name))]


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """A .npz; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); it was whole when it was written") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; it was one when it was written")
    return content


def read_yaml(path: Path) -> Any:
    """Plain values alone, a UserError for anything else: 1 ms for a run's config where OmegaConf takes 20."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=SAFE_YAML)
    except yaml.YAMLError as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomically(path, buffer.getvalue())


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text without byte-order mark, its lines ending in \\n whatever system wrote them (\\r\\n, \\r).

    An undecodable byte or a NUL is a UserError with its line.
    """
    with path.open("rb") as file:
        content = file.read(1 << 20)  # is not text in most cases of gigabytes that are none
        content += b"" if b"\0" in content else file.read()
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: a NUL byte; is this a text file?")
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not {encoding} text; save the file as {encoding}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def words_by_line(path: Path, gaps: bytes = b" \t\n\r\x0b\x0c") -> tuple[np.ndarray, np.ndarray]:
    """Every word of a text and the line it stands in, from 0, without a loop over lines; `gaps` separate words."""
    text = read_text(path).encode()
    letters = np.frombuffer(text, dtype=np.uint8)
    is_gap = np.zeros(256, dtype=bool)
    is_gap[list(gaps)] = True
    gap = is_gap[letters]
    start = np.flatnonzero(~gap & np.concatenate([[True], gap[:-1]])[: len(gap)])
    line = np.searchsorted(np.flatnonzero(letters == ord("\n")), start)
    words = text.translate(bytes.maketrans(gaps, b" " * len(gaps))).split()
    code, distinct = pd.factorize(np.array(words, dtype=object))
    return np.array([word.decode() for word in distinct], dtype=object)[code], line


def read_rows(
    path: Path,
    sep: str,
    columns: dict[str, str],
    on_bad_row: str,
    notes: list[str],
    encoding: str = "utf-8",
) -> pd.DataFrame:
    """A headerless table whose first fields are `columns`, one row a line: name -> int64 | float64 | str | any.

    Clean lines are parsed in C, part by part. In a part that is not clean every line is looked at, so that a bad row
    (too few fields, a wrong type, not finite) is named by its line number, or counted and left out with
    `on_bad_row="skip"`. `str` must not be empty, `any` may. Further fields are ignored; empty lines are no rows.
    """
    text = read_text(path, encoding)
    tables, skipped, line = [], 0, 1
    for start, stop in bar(_parts(text), f"reading {path.name}"):
        part = text[start:stop]
        table = _parsed(part, sep, columns)
        if table is None:
            table, bad = _line_by_line(path, part, line, sep, columns, on_bad_row)
            skipped += bad
        tables.append(table)
        line += part.count("\n")
    if skipped:
        notes.append(f"{skipped:,} bad rows of {path.name} were left out")
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def _parts(text: str) -> list[tuple[int, int]]:
    """Start and stop of whole lines of about `PART` letters; of an empty text one empty part."""
    cuts = [0]
    while cuts[-1] < len(text):
        cuts.append(text.find("\n", cuts[-1] + PART) + 1 or len(text))
    return list(itertools.pairwise(cuts)) or [(0, 0)]


def _parsed(text: str, sep: str, columns: dict[str, str]) -> pd.DataFrame | None:
    """None if a row is bad."""
    names = list(columns)
    try:
        with np.errstate(invalid="ignore"):  # pandas casts an infinite value before it refuses it
            table = pd.read_csv(
                io.StringIO(text),
                sep=sep,
                header=None,
                usecols=range(len(names)),
                dtype={i: "str" if kind == "any" else kind for i, kind in enumerate(columns.values())},
                quoting=csv.QUOTE_NONE,
                keep_default_na=False,
                na_values=[""],
                engine="c",
            )
    except (ValueError, OverflowError):
        return None
    table.columns = pd.Index(names)
    free = [name for name, kind in columns.items() if kind == "any"]
    table[free] = table[free].fillna("")
    numbers = table.select_dtypes("number").to_numpy(np.float64)
    return None if table.isna().any().any() or (np.abs(numbers) >= 2**63).any() else table


def _line_by_line(
    path: Path, text: str, first: int, sep: str, columns: dict[str, str], on_bad_row: str
) -> tuple[pd.DataFrame, int]:
    """The good rows of lines that begin with number `first`, and how many were bad."""
    parse: dict[str, Callable[[str], Any]] = {"int64": whole_number, "float64": decimal_number, "str": str, "any": str}
    rows: list[list[Any]] = []
    skipped = 0
    for number, line in enumerate(text.split("\n"), start=first):
        if not line.strip():
            continue
        fields = line.split(sep)
        problem = None
        row: list[Any] = []
        if len(fields) < len(columns):
            problem = f"{len(fields)} fields where {len(columns)} are needed ({', '.join(columns)})"
        else:
            for (name, kind), value in zip(columns.items(), fields, strict=False):
                try:
                    row.append(parse[kind](value))
                    bad = value == "" if kind == "str" else kind != "any" and not abs(row[-1]) < 2**63
                except (ValueError, OverflowError):
                    bad = True
                if bad:
                    problem = f"{name} is {value[:40]!r}, not {READABLE[kind]}"
                    break
        if problem is None:
            rows.append(row)
        elif on_bad_row == "skip":
            skipped += 1
        else:
            raise UserError(
                f"{path}, line {number}: {problem}; mend it or pass dataset.on_bad_row=skip to leave such rows out"
            )
    table = pd.DataFrame(rows, columns=pd.Index(list(columns)))
    return table.astype({name: kind for name, kind in columns.items() if kind not in ("str", "any")}), skipped


def decimal_number(text: str) -> float:
    """As pandas reads it: Python takes 1_000 and the digits of every script too."""
    if "_" in text or not text.isascii():
        raise ValueError
    return float(text)


def whole_number(text: str) -> int:
    """1e5 and 1.0 are whole, as in pandas."""
    value = decimal_number(text)
    return int(value) if value.is_integer() and not text.strip().lstrip("+-").isdecimal() else int(text)


def read_records(path: Path) -> list[dict[str, Any]]:
    """JSONL (one object a line) or CSV with a header, by the file's ending."""
    if path.suffix == ".jsonl":
        records = []
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: not JSON ({error})") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}, line {number}: not a JSON object")
            records.append(record)
        return records
    if path.suffix == ".csv":
        try:
            return list(csv.DictReader(io.StringIO(read_text(path)), strict=True))
        except csv.Error as error:
            raise UserError(f"{path}: not a CSV file ({error})") from None
    raise UserError(f"{path}: unknown ending {path.suffix!r}; use .jsonl or .csv")


def download(url: str, path: Path, progress: Callable[[Iterable[bytes], int], Iterable[bytes]]) -> Path:
    """Fetches `url` to `path` unless it is there: resumable, atomic, its sha256 checked.

    A url that ends in `#sha256=<hash>` says which. Else the first download records it in `<path>.sha256`; a later file
    with another is a UserError, as is one that changed on the server between two parts of it. `progress` wraps the
    iterator over chunks and gets the total number of bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):  # two commands on one folder take turns
        return _download(url, path, progress)


def _download(url: str, path: Path, progress: Callable[[Iterable[bytes], int], Iterable[bytes]]) -> Path:
    url, _, pinned = url.partition("#sha256=")
    recorded = path.with_name(path.name + ".sha256")
    wanted = pinned.lower() or (recorded.read_text().strip() if recorded.exists() else None)
    if not path.exists():
        partial = path.with_name(path.name + ".partial")
        version = path.with_name(path.name + ".partial.version")  # what the server says of the file that is fetched
        have = partial.stat().st_size if partial.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                if answer.status != 206:  # the server sends the whole file
                    have = 0
                total = have + int(answer.headers.get("Content-Length", 0))
                says = f"{total} {answer.headers.get('ETag')} {answer.headers.get('Last-Modified')}"
                if have and version.exists() and version.read_text() != says:
                    partial.unlink()
                    raise UserError(f"{url} has changed since its download began; run again to fetch it anew")
                version.write_text(says)
                with partial.open("ab" if have else "wb") as file:
                    for chunk in progress(iter(lambda: answer.read(1 << 16), b""), total):
                        file.write(chunk)
        except urllib.error.HTTPError as error:
            if error.code != 416:  # 416: the partial file is already whole
                raise UserError(f"{url} answered {error.code}; download it by hand to {path}") from None
            total = have
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise UserError(
                f"{url} could not be fetched ({error}); run the command again to continue, or give dataset.path="
            ) from None
        if total and partial.stat().st_size != total:
            raise UserError(f"{url} broke off at {partial.stat().st_size:,} of {total:,} bytes; run again to continue")
        found = file_sha256(partial)
        version.unlink(missing_ok=True)  # absent where the whole file lay there already
        if wanted and found != wanted:
            partial.unlink()
            which = "what #sha256= asks for" if pinned else f"what was first downloaded ({recorded})"
            how = "mend the hash, or do not use this file" if pinned else "delete that file to accept it"
            raise UserError(f"{url} differs from {which}: its sha256 is {found}; {how}")
        write_atomically(recorded, found + "\n")
        partial.replace(path)
    elif wanted and file_sha256(path) != wanted:
        raise UserError(f"{path} has changed since it was downloaded; delete it to fetch it again")
    return path
