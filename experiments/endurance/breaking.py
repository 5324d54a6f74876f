"""Ways to break a file: bytes, chunks, lines, fields and encodings, each drawn from a seeded generator."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable
from random import Random

Files = dict[str, bytes]  # name (may hold folders) -> content

PNG = b"\x89PNG\r\n\x1a\n"
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\t|,;:\s{}\[\]"]+')
TEXTS = [
    "", " ", "nan", "NaN", "inf", "-inf", "Infinity", "-1", "0", "-0", "1e400", "1e-400", "0x10", "1_000", "9" * 400,
    "9" * 5000, "1.5", "-9223372036854775809", "9223372036854775807", "18446744073709551616", "2147483648",
    "32503680000", "1893456000000", "٣", "½", "\u0000", "\x1b[31m", "\r", "\u2028", "\x85", "\ufeff", "\u202eabc",
    "e\u0301" * 40, "👩‍👩‍👧", "<|im_end|>", "A. the answer", "__proto__", "__class__", "../../evil", "/etc/passwd",
    '"', '""', "'", "\\", "#", "%s%n", "{}", "null", "None", "true", "=1+1", "\ud800", "title " * 20_000,
]  # fmt: skip
VALUES = [
    b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"[]", b"{}", b"[[1]]", b"[null]", b'["a", 3]', b"1e999",
    b'{"$ref": "#"}', b'"\\ud800"', b'"\\u0000"', b"[" * 5000, b'{"a":' * 5000, b"1" + b"0" * 5000, b"(1)",
    b"__import__",
]  # fmt: skip


def broken(rng: Random, files: Files) -> Files:
    """One to three faults in one of the files; what is packed is broken inside as often as outside."""
    name = rng.choice(sorted(files))
    content = inside(rng, name, files[name]) if rng.random() < 0.5 else harmed(rng, files[name])
    return files | {name: content}


def inside(rng: Random, name: str, content: bytes) -> bytes:
    """Broken before it is packed, so that the archive's own checksums are right."""
    if name.endswith(".gz"):
        return gzip.compress(harmed(rng, gzip.decompress(content)), 1, mtime=0)
    if name.endswith((".npz", ".zip", ".xlsx")):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        member = rng.choice(sorted(members))
        return packed(members | {member: harmed(rng, members[member])})
    if name.endswith(".parquet"):  # the pages, not the footer that describes them
        footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        return content[:4] + rng.choice(IN_PLACE)(rng, content[4:footer]) + content[footer:]
    if content.startswith(PNG):
        return png_with_checksums(rng.choice(IN_PLACE)(rng, content))
    return harmed(rng, content)


def png_with_checksums(content: bytes) -> bytes:
    """Chunks as their lengths have them, each with the checksum that is right for what it holds now."""
    out, at = PNG, len(PNG)
    while at + 12 <= len(content):
        stop = at + 8 + int.from_bytes(content[at : at + 4], "big")
        out += content[at:stop] + zlib.crc32(content[at + 4 : stop]).to_bytes(4, "big")
        at = stop + 4
    return out


def packed(members: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def harmed(rng: Random, content: bytes) -> bytes:
    faults = FAULTS if rng.random() < 0.5 or is_text(content) else IN_PLACE
    for _ in range(rng.randint(1, 3)):
        content = rng.choice(faults)(rng, content)
    return content


def is_text(content: bytes) -> bool:
    """A byte too many hides the rest of a binary file from its reader, so that these are mostly broken in place."""
    return b"\0" not in content


def flip(rng: Random, content: bytes) -> bytes:
    out = bytearray(content)
    for _ in range(rng.randint(1, 8) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def overwrite(rng: Random, content: bytes) -> bytes:
    out = bytearray(content)
    for _ in range(rng.randint(1, 8) if out else 0):
        out[rng.randrange(len(out))] = rng.choice(
            (0, 1, 9, 10, 13, 32, 34, 39, 44, 92, 127, 128, 255, rng.randrange(256))
        )
    return bytes(out)


def chunk(rng: Random, content: bytes) -> slice:
    start = rng.randint(0, len(content))
    return slice(start, min(len(content), start + rng.choice((1, 2, 4, 8, 16, 64))))


def delete(rng: Random, content: bytes) -> bytes:
    at = chunk(rng, content)
    return content[: at.start] + content[at.stop :]


def repeat(rng: Random, content: bytes) -> bytes:
    at = chunk(rng, content)
    return content[: at.stop] + content[at] * rng.choice((1, 2, 50)) + content[at.stop :]


def swap(rng: Random, content: bytes) -> bytes:
    first, second = sorted((chunk(rng, content), chunk(rng, content)), key=lambda part: part.start)
    middle = content[first.stop : second.start]
    return content[: first.start] + content[second] + middle + content[first] + content[second.stop :]


def insert(rng: Random, content: bytes) -> bytes:
    at = rng.randint(0, len(content))
    new = rng.choice((rng.randbytes(rng.randint(1, 12)), b"\0", b"\0" * 64, b"\xff\xfe"))
    return content[:at] + new + content[at:]


def truncate(rng: Random, content: bytes) -> bytes:
    return content[: rng.randint(0, len(content))]


def emptied(rng: Random, content: bytes) -> bytes:
    return rng.choice((b"", b"", b"\n", b" \n \n", b"\xef\xbb\xbf", b"\0"))


def separators(rng: Random, content: bytes) -> bytes:
    mark = rng.choice((b"\t", b"|", b",", b";", b" ", b'"', b"'", b"\n", b"\r", b"\n\n", b":", b"{", b"]"))
    if rng.random() < 0.2:
        return content.replace(mark, rng.choice((b",", b"\t", b" ", b"", mark * 2)))
    at = rng.randint(0, len(content))
    return content[:at] + mark * rng.choice((1, 1, 2, 30)) + content[at:]


def encoded(rng: Random, content: bytes) -> bytes:
    text = content.decode("utf-8", "surrogateescape")
    name = rng.choice(("latin-1", "utf-16", "utf-16-le", "utf-8-sig", "utf-8", "cp1252", "utf-32", "utf-7"))
    return text.encode(name, "surrogatepass" if name == "utf-8" else "replace")


def line_ends(rng: Random, content: bytes) -> bytes:
    end = rng.choice((b"\r\n", b"\r", b"\n\r", b"\x0b", b"\xe2\x80\xa8"))
    return content.replace(b"\r\n", b"\n").replace(b"\n", end)


def lines(rng: Random, content: bytes) -> bytes:
    rows = content.splitlines(keepends=True)
    if not rows:
        return content
    at, kind = rng.randrange(len(rows)), rng.randrange(3)
    if kind == 0:
        rows.insert(rng.randrange(len(rows) + 1), rows[at])
    elif kind == 1:
        del rows[at]
    else:
        rng.shuffle(rows)
    return b"".join(rows)


def field(rng: Random, content: bytes) -> bytes:
    """A field of a table or a value of a JSON object becomes one of the values that have hurt somebody before."""
    found = list(TOKEN.finditer(content))
    for match in sorted(rng.sample(found, min(len(found), rng.choice((1, 1, 2)))), key=lambda m: -m.start()):
        text = rng.choice(TEXTS)
        plain = text.encode("utf-8", "surrogatepass")
        value = rng.choice((plain, json.dumps(text).encode(), rng.choice(VALUES)))
        content = content[: match.start()] + value + content[match.end() :]
    return content


IN_PLACE: list[Callable[[Random, bytes], bytes]] = [flip, overwrite]
FAULTS: list[Callable[[Random, bytes], bytes]] = [
    flip, flip, overwrite, delete, repeat, swap, insert, truncate, emptied, separators, encoded, line_ends, lines,
    field, field, field, field,
]  # fmt: skip
