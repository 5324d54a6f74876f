"""More training queries from the passages themselves: spans of their own sentences."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from data.dataset import Catalog, Ragged
from data.errors import UserError, in_range
from data.splits import Phase, Split


@dataclass
class Augment:
    """Pseudo-queries cut from the texts' own sentences; see `data.snippets`."""

    snippets: int = 0  # a text; each is a training query whose one relevant text is where it was cut from
    min_words: int = 4
    max_words: int = 12

    def __post_init__(self) -> None:
        in_range("reranker.augment.snippets", self.snippets, 0, 1000)
        in_range("reranker.augment.min_words", self.min_words, 1, 1000)
        in_range("reranker.augment.max_words", self.max_words, self.min_words, 1000)


def with_snippets(split: Split, catalog: Catalog, augment: Augment, seed: int) -> Split:
    """The split with pseudo-queries in its training part; what is too like a validation or test query is left out."""
    if not augment.snippets:
        return split
    if split.validation.queries is None or split.test.queries is None:
        raise UserError(
            f"reranker.augment.snippets={augment.snippets} cuts queries from passages, and the dataset has users; "
            "leave it out"
        )
    held_out = [*map(str, split.validation.queries), *map(str, split.test.queries)]
    from data.snippets import snippets

    texts, items = snippets(catalog, held_out, augment.snippets, seed, augment.min_words, augment.max_words)

    def extended(phase: Phase) -> Phase:
        known = [*(phase.histories.row(r) for r in range(len(phase))), *items[:, None]]
        ids = np.append(phase.ids, -1 - np.arange(len(texts)))  # of no query
        assert phase.queries is not None
        queries = np.append(phase.queries, np.array(texts, dtype=object))
        return Phase(ids, Ragged.from_rows(known), Ragged.empty(len(ids)), queries)

    train, both = extended(split.train), extended(split.train_and_validation)
    return replace(split, train=train, train_and_validation=both)
