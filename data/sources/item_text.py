"""Texts of products as shops publish them, made plain: one line, no HTML, categories as one tuple of names."""

import html
import re
from collections.abc import Callable
from typing import Any

HIDDEN = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)", re.IGNORECASE | re.DOTALL)
TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)  # a letter must follow, so that "3 < 5" and "I <3 it" stay
HALVES = re.compile("[\ud800-\udfff]")


def clean(text: Any) -> str:
    """One line of plain text: HTML entities resolved, line breaks and tabs turned into blanks."""
    if text is None or isinstance(text, float):
        return ""
    parts = text if isinstance(text, list) else [text]
    return " ".join(whole(html.unescape(" ".join(str(part) for part in parts))).split())


def clean_markup(text: Any) -> str:
    """Like `clean`, but without HTML tags, scripts and styles; what is neither a text nor a list of texts is ""."""
    parts = text if isinstance(text, list) else [text]
    letters = html.unescape(" ".join(part for part in parts if isinstance(part, str)))
    if "<" in letters:
        letters = TAG.sub(" ", HIDDEN.sub(" ", letters))
    return " ".join(whole(letters).split())


def whole(text: str) -> str:
    """Two halves of a letter beyond U+FFFF, as Python 2 wrote them, become that letter; a half alone, U+FFFD."""
    if HALVES.search(text):
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def names_of(categories: Any, text: Callable[[Any], str] = clean) -> tuple[str, ...]:
    """[["Beauty", "Nails"], ["Beauty", "Gifts"]] -> ("Beauty", "Nails", "Gifts"); a single path is taken as it is."""
    if not categories:
        return ()
    paths = categories if isinstance(categories, list) else [categories]
    names = [text(name) for path in paths for name in (path if isinstance(path, list) else [path])]
    return tuple(dict.fromkeys(name for name in names if name))
