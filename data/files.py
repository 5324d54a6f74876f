"""Reading and writing files: hashes, JSON, YAML, text as words or records, write-then-rename."""

from __future__ import annotations

import codecs
import csv
import functools
import hashlib
import io
import json
import os
import platform
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import psutil
import yaml

from data.errors import UserError, in_one_line

csv.field_size_limit(1 << 30)  # by default a text of more than 131,072 characters is an error
HOST = re.sub(r"[^\w-]", "-", platform.node())  # in the names of partial files: process ids are a machine's own
# PyYAML's own, for `!!int ''`, `!!bool 2`, `!!timestamp x`, 2001-99-99, bytes that are no text, a thousand brackets
UNREADABLE = (ValueError, LookupError, AttributeError, RecursionError)
SafeYaml = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser of `yaml.safe_load`, where there is one
LONG = 16_384  # characters; libyaml recurses in C, and 30,000 brackets kill the process


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
    with written_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write. Readers see the old one or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path.parent)
    partial = path.with_name(f"{path.name}.{HOST}-{os.getpid()}-{threading.get_native_id()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@functools.cache
def _clear(folder: Path) -> None:
    """Of what processes of this machine were writing when they were killed. Once in a process, as it reads the
    folder's names."""
    ours = re.compile(rf".*\.{re.escape(HOST)}-(\d+)-\d+\.partial")
    for path in folder.iterdir():
        if (found := ours.fullmatch(path.name)) and not psutil.pid_exists(int(found[1])):
            path.unlink(missing_ok=True)


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
        text = path.read_text(encoding="utf-8")
        kind = SafeYaml if len(text) < LONG else yaml.SafeLoader
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=kind)):
            raise yaml.YAMLError("it has an alias (*), of which a few lines make endless values")
        loader = kind(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, *UNREADABLE) as error:
        raise UserError(f"{path} cannot be read: {in_one_line(error)}") from None


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
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path}, line 1: a text in UTF-16; save the file as {encoding}")
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
