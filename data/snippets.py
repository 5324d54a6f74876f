"""Pseudo-queries: sentences, and runs of words of sentences, cut from the passages that they then ask for.

A few labels teach a cross-encoder little; the passages' own words are free. What is too like a query that is held out
for validation or test is thrown away, since its passage may be that query's answer.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from data.dataset import Catalog
from data.errors import in_range
from data.progress import bar
from data.texts import item_texts
from data.words import words

SENTENCES = re.compile(r"[.?!;:…]+(?=\s|$)|[\r\n]+")  # "3.5" and "9:30" are not cut
LIKE = 0.6  # Jaccard of the sets of words above which a snippet is too like a query
WHOLE = 0.5  # how often a sentence that fits is taken whole
TRIES = 4  # draws for each snippet wanted: some come twice
ROWS = 2048  # snippets compared with the held-out queries at a time
log = logging.getLogger(__name__)


def snippets(
    catalog: Catalog, held_out_queries: Sequence[str], per_passage: int, seed: int, min_words: int, max_words: int
) -> tuple[np.ndarray, np.ndarray]:
    """Texts [S] str and the rows [S] int32 of the items they are cut from; at most `per_passage` of each item, all
    different, of `min_words` to `max_words` words. Drawn by (seed, row of the item)."""
    in_range("per_passage", per_passage, 1)
    in_range("min_words", min_words, 1)
    in_range("max_words", max_words, min_words)
    texts, rows = [], []
    for row, text in enumerate(bar(item_texts(catalog), "cutting snippets")):
        rng = np.random.default_rng([seed, row])
        for snippet in cut(text, per_passage, min_words, max_words, rng):
            texts.append(snippet)
            rows.append(row)
    kept = ~too_like(texts, held_out_queries)
    log.info(
        "snippets: %s of %s items; %s left out that are too like a held-out query",
        f"{kept.sum():,}", f"{len(set(rows)):,}", f"{(~kept).sum():,}",
    )  # fmt: skip
    return np.array(texts, dtype=object)[kept], np.array(rows, dtype=np.int32)[kept]


def sentences(text: str) -> list[list[str]]:
    """The words of each sentence as they are written, signs within it included."""
    parts = SENTENCES.split(unicodedata.normalize("NFC", text))
    return [split for part in parts if (split := part.split())]


def cut(text: str, n: int, min_words: int, max_words: int, rng: np.random.Generator) -> list[str]:
    """At most n different snippets; a sentence is drawn as often as it has words, one that is too short never."""
    usable = [sentence for sentence in sentences(text) if len(sentence) >= min_words]
    if not usable:
        return []
    lengths = np.array([len(sentence) for sentence in usable])
    found: dict[str, None] = {}
    for index in rng.choice(len(usable), TRIES * n, p=lengths / lengths.sum()):
        sentence, most = usable[index], min(max_words, int(lengths[index]))
        whole = lengths[index] <= max_words and rng.random() < WHOLE
        length = most if whole else int(rng.integers(min_words, most + 1))
        start = int(rng.integers(0, lengths[index] - length + 1))
        found[" ".join(sentence[start : start + length])] = None
        if len(found) == n:
            break
    return list(found)


def too_like(texts: Sequence[str], queries: Sequence[str]) -> np.ndarray:
    """[S] bool: the words of a text stand in a query, or a query's in the text, one after the other; or the Jaccard
    similarity of their sets of words is above `LIKE`."""
    from sklearn.feature_extraction.text import CountVectorizer

    out = np.zeros(len(texts), dtype=bool)
    known = sorted({word for query in queries for word in words(query)})
    if not known or not len(texts):
        return out
    reader = CountVectorizer(analyzer=words, vocabulary=known, binary=True, dtype=np.float32)
    asked = reader.transform(queries)
    n_asked = np.diff(asked.indptr)
    in_order = [f" {' '.join(words(query))} " for query in queries]
    for start in bar(range(0, len(texts), ROWS), "comparing snippets with held-out queries"):
        part = texts[start : start + ROWS]
        n_words = np.array([len(set(words(text))) for text in part])
        shared = (reader.transform(part) @ asked.T).tocoo()
        total = n_words[shared.row] + n_asked[shared.col] - shared.data
        out[start + shared.row[shared.data > LIKE * total]] = True
        inside = shared.data >= np.minimum(n_words[shared.row], n_asked[shared.col])
        for row, column in zip(shared.row[inside], shared.col[inside], strict=True):
            own = f" {' '.join(words(part[row]))} "
            out[start + row] |= own in in_order[column] or in_order[column] in own
    return out
