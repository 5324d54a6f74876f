"""A full disk in one sentence, whichever library met it: Python, pyarrow, safetensors, tokenizers, torch, SQLite."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
SAID = re.compile(r"No space left on device|\(os error 28\)|database or disk is full|Disk quota exceeded")
WITHOUT_REASON = "inline_container.cc"  # torch.save: a write failed, and it does not say why
LITTLE = 1 << 20  # bytes: so few are left when it did for want of space


def no_space(error: BaseException, places: list[Path] | None = None) -> str | None:
    """The sentence if `error`, or what it was raised for, is a full disk. `places`: where the command writes; where
    the error names no file, the one with the least space is told."""
    for cause in causes(error):
        plain = (isinstance(cause, OSError) and cause.errno in FULL) or SAID.search(str(cause))
        if not plain and WITHOUT_REASON not in str(cause):
            continue
        here = [existing(place) for place in (*(places or [Path()]), Path(tempfile.gettempdir()))]
        fullest = min(here, key=lambda place: shutil.disk_usage(place).free)
        if plain or shutil.disk_usage(fullest).free < LITTLE:
            where = getattr(cause, "filename", None) or fullest
            return f"no space left on {where}: free some and repeat the command; it continues"
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def existing(place: Path) -> Path:
    """The folder itself, or the nearest above it that is there; of a path that cannot be one, where we are."""
    try:
        place = place.expanduser().resolve()
        return next(folder for folder in (place, *place.parents) if folder.exists())
    except (OSError, RuntimeError, ValueError):
        return Path.cwd()
