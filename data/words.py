"""What counts as a word: for the first stages that read text, and wherever two texts are compared by their words.

Text is NFC-normalised and lower-cased, and what is neither letter nor digit separates. So a word of Vietnamese is a
syllable; pairs of neighbouring syllables (`ngrams`) do what segmentation would, at no cost.
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Callable

from data.errors import UserError, one_of

WORD = re.compile(r"\w+")
SEGMENTERS = {"pyvi": ("pyvi.ViTokenizer", "tokenize"), "underthesea": ("underthesea", "word_tokenize")}


def words(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFC", text).lower())


def with_ngrams(tokens: list[str], n: int) -> list[str]:
    """The tokens, then their runs of 2 to n, each joined by a blank."""
    out = list(tokens)
    for length in range(2, n + 1):
        out += [" ".join(tokens[start : start + length]) for start in range(len(tokens) - length + 1)]
    return out


def check_segmentation(key: str, name: str) -> None:
    """Allowed, and its package is installed; both are optional."""
    one_of(key, name, ("none", *SEGMENTERS))
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(f"{key}={name} needs a package that is not installed; pip install {name}, or use {key}=none")


def segmenter(name: str) -> Callable[[str], str]:
    """Joins the syllables of each word by "_" (which the pattern of a word keeps); "none" leaves the text alone.

    Both read the case of letters, so they go first.
    """
    if name == "none":
        return lambda text: text
    module, function = SEGMENTERS[name]
    segment = getattr(importlib.import_module(module), function)
    joined = {"format": "text"} if name == "underthesea" else {}
    return lambda text: segment(unicodedata.normalize("NFC", text), **joined) if text.strip() else ""
