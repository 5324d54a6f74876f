"""What ranked lists, arrays and pictures made elsewhere hold, read in the plainest way, for the fuzzer."""

from __future__ import annotations

import ast
import io
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.run_file import ONLY, RunFile
from experiments.endurance.naive_files import NUMBER, Unclear, cells_of, lines_of, text_of

USERS, ITEMS = {"request", "user_id", "user", "query_id", "qid"}, {"candidate", "item_id", "item", "docid", "doc_id"}
LISTS, SCORES = {"candidates", "item_ids", "items"}, {"score", "first_stage_scores", "scores"}
BLANKS = r"[ \t\n\r\x0b\x0c]+"
Ranked = dict[tuple[str, str], list[tuple[str, float]]]  # (phase, request) -> item and score, in the file's order


def same_lists(found: dict[str, RunFile], expected: Ranked) -> None:
    have: Ranked = {}
    for phase, run in found.items():
        for row, item, score in zip(run.row, run.item, run.scores, strict=True):
            have.setdefault((phase, run.requests[row]), []).append((run.items[item], float(score)))
    assert have.keys() == expected.keys(), "lists are missing or too many"
    for name, own in expected.items():
        assert have[name] == [(item, float(np.float32(score))) for item, score in own], f"the list of {name} is wrong"


def unscored(lists: dict[tuple[str, str], list[str]]) -> Ranked:
    return {name: [(item, -float(place)) for place, item in enumerate(own)] for name, own in lists.items()}


def paired(rows: list[tuple[str, str, str, float | None]]) -> Ranked:
    """Of rows of phase, user, item and score; a score is there for all or for none."""
    out: dict[tuple[str, str], list[Any]] = {}
    for phase, user, item, score in rows:
        out.setdefault((phase, user), []).append(item if score is None else (item, score))
    return unscored(out) if rows and rows[0][3] is None else out


def score_of(value: Any) -> float:
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    raise Unclear("a score that is no number as everybody writes them")


def of_parquet(path: Path) -> Ranked:
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        used = [next((name for name in names if name in kind), None) for kind in (USERS, ITEMS, LISTS, SCORES)]
        rank = "rank" if used[1] and not used[3] and "rank" in names else None
        wanted = [name for name in (*used, rank, "phase" if "phase" in names else None) if name]
        for name in wanted:
            kind = file.schema_arrow.field(name).type
            kind = kind.value_type if pa.types.is_list(kind) else kind
            if not (pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                raise Unclear(f"a column of type {kind}")
            if pa.types.is_floating(kind) and name not in (used[3], rank):
                raise Unclear("a number with a fraction as an id")
        rows = file.read(columns=wanted).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Unclear(str(error)) from None
    user, item, listed, score = used
    if not item:
        own = [
            (str(row.get("phase", ONLY)), str(row[user]), row[listed], row[score] if score else None) for row in rows
        ]
        pairs = [
            (phase, who, str(name), None if values is None else score_of(values[place]))
            for phase, who, items, values in own
            for place, name in enumerate(items)
        ]
        return paired(pairs)
    scored = score or rank
    numbers = [None if scored is None else score_of(row[scored]) * (1 if score else -1) for row in rows]
    return paired(
        [
            (str(row.get("phase", ONLY)), str(row[user]), str(row[item]), number)
            for row, number in zip(rows, numbers, strict=True)
        ]
    )


def of_csv(path: Path) -> Ranked:
    text = text_of(path).lstrip("\n")
    first = text.partition("\n")[0]
    header = [name.strip().lower() for name in cells_of(first, ",")[0]]
    if not ITEMS & set(header):
        return of_lines(text, header)
    rows = [row for row in cells_of(text, ",")[1:] if row]
    if any(len(row) != len(header) for row in rows):
        raise Unclear("rows of other lengths than the header")
    user, item, score = (
        next((n for n, name in enumerate(header) if name in kind), None) for kind in (USERS, ITEMS, SCORES)
    )
    phase = header.index("phase") if "phase" in header else None
    rank = header.index("rank") if "rank" in header and score is None else None
    assert user is not None and item is not None
    out: list[tuple[str, str, str, float | None]] = []
    for row in rows:
        number = score_of(row[score]) if score is not None else None if rank is None else -score_of(row[rank])
        out.append((ONLY if phase is None else row[phase], row[user], row[item], number))
    return paired(out)


def of_lines(text: str, header: list[str]) -> Ranked:
    """[phase,] user and items."""
    rows = [
        words
        for line in text.split("\n")
        if (words := [word for word in re.split(r'[ \t\r\x0b\x0c,"]+', line) if word])
    ]
    phased = "phase" in header
    if phased or USERS & set(header):
        rows = rows[1:]
    lists: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        name = (row[0], row[1]) if phased else (ONLY, row[0])
        assert name not in lists, "a second list of a user"
        lists[name] = row[1 + phased :]
    return unscored(lists)


def of_trec(path: Path) -> Ranked:
    rows = [words for line in lines_of(path.read_bytes()) if (words := line.encode().split())]
    assert all(len(row) == 6 for row in rows), "a line of other than six words"
    return paired([(ONLY, row[0].decode(), row[2].decode(), score_of(row[4].decode())) for row in rows])


# arrays


def array_of(content: bytes) -> np.ndarray:
    """A .npy by its header and the bytes behind it."""
    if content[:6] != b"\x93NUMPY" or content[6] not in (1, 2):
        raise Unclear("another version")
    start = 10 if content[6] == 1 else 12
    length = int.from_bytes(content[8:start], "little")
    try:
        header = ast.literal_eval(content[start : start + length].decode("latin-1").strip())
        kind, shape = np.dtype(header["descr"]), header["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError) as error:
        raise Unclear(str(error)) from None
    count = int(np.prod(shape, dtype=np.int64))
    flat = np.frombuffer(content[start + length :], kind, count)
    return flat.reshape(shape[::-1]).T if header["fortran_order"] else flat.reshape(shape)


def features_of(path: Path, items: list[str]) -> dict[str, list[float]]:
    """item -> its features as float32."""
    if path.is_dir():
        there = {item: path / f"{item}.npy" for item in items}
        rows = {item: array_of(file.read_bytes()) for item, file in there.items() if file.exists()}
        return {item: row.reshape(-1).astype(np.float32).tolist() for item, row in rows.items()}
    if path.suffix == ".npz":
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            if not {"item_id.npy", "features.npy"} <= set(archive.namelist()):
                raise Unclear("arrays under other names")
            ids, array = (array_of(archive.read(f"{name}.npy")) for name in ("item_id", "features"))
        names = [str(name) for name in ids]
    else:
        array = array_of(path.read_bytes())
        names = [name.strip() for name in lines_of(path.with_suffix(".items.txt").read_bytes()) if name.strip()]
    return dict(zip(names, array.astype(np.float32).tolist(), strict=True))


# pictures


def pixels_of(content: bytes) -> np.ndarray:
    """[H, W, 3] of a PNG of 8 bits a channel, with or without transparency, over white; others are unclear."""
    at, packed, size = 8, b"", (0, 0, 0)
    while at + 12 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        inside = content[at + 8 : at + 8 + length]
        if kind == b"IHDR" and at == 8 and inside[8] == 8 and inside[9] in (2, 6) and not any(inside[10:13]):
            size = int.from_bytes(inside[4:8], "big"), int.from_bytes(inside[:4], "big"), 3 if inside[9] == 2 else 4
        elif kind == b"IDAT":
            packed += inside
        elif kind != b"IEND":
            raise Unclear("a chunk of another kind")
        at += 12 + length
    height, width, depth = size
    unpacker = zlib.decompressobj()
    lines = unpacker.decompress(packed, height * (1 + width * depth))
    if not depth or len(lines) < height * (1 + width * depth):
        raise Unclear("no picture of this kind")
    before, rows = bytes(width * depth), []
    for start in range(0, len(lines), 1 + width * depth):
        before = unfiltered(lines[start], lines[start + 1 : start + 1 + width * depth], before, depth)
        rows.append(before)
    picture = np.frombuffer(b"".join(rows), np.uint8).reshape(height, width, depth).astype(float)
    if depth == 3:
        return picture
    share = picture[..., 3:] / 255
    return picture[..., :3] * share + 255 * (1 - share)


def unfiltered(kind: int, line: bytes, above: bytes, depth: int) -> bytes:
    """A line of a PNG, as its specification has it."""
    if kind > 4:
        raise Unclear("a filter of another kind")
    out = bytearray(len(line))
    for n, value in enumerate(line):
        left, up, corner = (out[n - depth], above[n], above[n - depth]) if n >= depth else (0, above[n], 0)
        guess = left + up - corner
        nearest = min((left, up, corner), key=lambda near: abs(guess - near))
        out[n] = (value + (0, left, up, (left + up) // 2, nearest)[kind]) & 255
    return bytes(out)
