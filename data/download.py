"""Downloads: resumable, atomic, by several commands at once; what was fetched is checked by its sha256."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock

from data.errors import UserError
from data.files import file_sha256, write_atomically

Progress = Callable[[Iterable[bytes], int], Iterable[bytes]]


def download(url: str, path: Path, progress: Progress) -> Path:
    """Fetches `url` to `path` unless it is there: resumable, atomic, its sha256 checked.

    A url that ends in `#sha256=<hash>` says which. Else the first download records it in `<path>.sha256`; a later file
    with another is a UserError, as is one that changed on the server between two parts of it. `progress` wraps the
    iterator over chunks and gets the total number of bytes.
    """
    url, _, pinned = url.partition("#sha256=")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # two commands on one folder take turns
            if not path.exists():
                _fetch(url, path, pinned.lower(), progress)
    wanted = _wanted(path, pinned.lower())
    if wanted and file_sha256(path) != wanted:
        raise UserError(f"{path} has changed since it was downloaded; delete it to fetch it again")
    return path


def _wanted(path: Path, pinned: str) -> str | None:
    """The sha256 that the file must have, if any is known."""
    recorded = path.with_name(path.name + ".sha256")
    return pinned or (recorded.read_text().strip() if recorded.exists() else None)


def _fetch(url: str, path: Path, pinned: str, progress: Progress) -> None:
    recorded, wanted = path.with_name(path.name + ".sha256"), _wanted(path, pinned)
    partial = path.with_name(path.name + ".partial")
    version = path.with_name(path.name + ".partial.version")  # what the server says of the file that is fetched
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            if answer.status != 206:  # the server sends the whole file
                have = 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else 0  # 0: the server does not say
            says = f"{answer.headers.get('ETag')} {answer.headers.get('Last-Modified')}"
            if have and version.exists():
                n_bytes, _, said = version.read_text().partition(" ")
                if said != says or (total and int(n_bytes) not in (0, total)):
                    raise _changed(url, partial)
            version.write_text(f"{total} {says}")
            with partial.open("ab" if have else "wb") as file:
                for chunk in progress(iter(lambda: answer.read(1 << 16), b""), total):
                    file.write(chunk)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing lies behind the partial file's end
            raise UserError(f"{url} answered {error.code}; download it by hand to {path}") from None
        length = error.headers.get("Content-Range", "").removeprefix("bytes */")
        if length.isdecimal() and int(length) != have:
            raise _changed(url, partial) from None
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


def _changed(url: str, partial: Path) -> UserError:
    """Nothing of the partial file is of use."""
    partial.unlink()
    return UserError(f"{url} has changed since its download began; run again to fetch it anew")
