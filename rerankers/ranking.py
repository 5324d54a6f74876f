"""Ranking texts for an application: one query or many, against passages that are plain texts.

from rerankers import load_reranker
r = load_reranker("proptit-viranker-0123456789")
scores, ranked = r.rank(query, passages)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from scipy.special import expit, softmax

from data.dataset import Catalog, Ragged, Requests
from data.errors import UserError
from data.sources.passages import cleaned
from rerankers.base import Reranker


@dataclass(frozen=True, eq=False)
class Ranking:
    """Best first. `scores, ranked = ranking` unpacks the two that belong together."""

    scores: np.ndarray  # [N] float32
    passages: list[str]  # [N] as they were given
    order: np.ndarray  # [N] int64, their positions in the given list

    def __iter__(self) -> Iterator[Any]:
        return iter((self.scores, self.passages))

    def __len__(self) -> int:
        return len(self.order)


class TextRanker:
    """A reranker of texts that was loaded. Threads may share one: their calls take turns, for one call uses all cores
    or the whole GPU by itself. Processes need one each. Memory does not grow with the number of calls."""

    def __init__(self, reranker: Reranker, source: str) -> None:
        self.reranker, self.source = reranker, source
        self._turn = threading.Lock()

    @overload
    def rank(
        self, query: str, passages: Sequence[str], top_k: int | None = None, normalize: bool = False
    ) -> Ranking: ...

    @overload
    def rank(
        self,
        query: list[str] | tuple[str, ...],
        passages: Sequence[str] | Sequence[Sequence[str]],
        top_k: int | None = None,
        normalize: bool = False,
    ) -> list[Ranking]: ...

    def rank(self, query: Any, passages: Any, top_k: int | None = None, normalize: bool = False) -> Any:
        """Of one query a Ranking; of a list of queries, with a list of passages each or one list for all, a list.

        Scores are the model's logits. `normalize`: in [0, 1], of a cross-encoder the sigmoid of each, of a letter
        reranker a softmax over the passages, all of them, also with `top_k`. Equal scores keep the given order. Texts
        are read in composed form (NFC) without blanks at their ends; an empty one is a UserError.

        A letter reranker reads the passages together, in the given order, at most 52 of them.
        """
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise UserError(f"top_k={top_k!r} is not allowed; give a positive whole number, or None for all")
        if isinstance(query, str):
            return self._rank([query], [listed(passages, "passages")], top_k, normalize)[0]
        queries = listed(query, "query")
        lists = listed(passages, "passages")
        if any(isinstance(entry, str) for entry in lists) or not lists:
            lists = [lists] * len(queries)
        if len(lists) != len(queries):
            raise UserError(
                f"there are {len(queries)} queries and {len(lists)} lists of passages; give a list for each query, or "
                "one list of texts for all"
            )
        each = [listed(entry, f"passages[{place}]") for place, entry in enumerate(lists)]
        return self._rank(queries, each, top_k, normalize)

    def _rank(self, queries: list[Any], lists: list[list[Any]], top_k: int | None, normalize: bool) -> list[Ranking]:
        many = len(queries) > 1
        asked = [text_of(text, f"query {place}" if many else "the query") for place, text in enumerate(queries)]
        known: dict[str, int] = {}  # text -> row
        rows: dict[int, np.ndarray] = {}  # of a list, which may be that of all queries
        for place, own in enumerate(lists):
            if id(own) not in rows:
                of = f" of query {place}" if many else ""
                texts = [text_of(text, f"passage {number}{of}") for number, text in enumerate(own)]
                rows[id(own)] = np.array([known.setdefault(text, len(known)) for text in texts], dtype=np.int32)
        candidates = [rows[id(own)] for own in lists]
        if not known:
            return [Ranking(np.zeros(0, np.float32), [], np.zeros(0, np.int64)) for _ in queries]
        width = max(map(len, candidates))
        padded = np.stack([np.pad(row, (0, width - len(row)), constant_values=-1) for row in candidates])
        ids, histories = np.arange(len(queries)), Ragged.empty(len(queries))
        texts_of = np.array(asked, dtype=object)
        requests = Requests(catalog_of(list(known)), ids, histories, queries=texts_of, candidates=padded)
        with self._turn:
            scores = self.reranker.score(requests)
        return [
            ranking(scores[row, : len(own)], own, top_k, normalize, self.reranker.pointwise)
            for row, own in enumerate(lists)
        ]


def ranking(scores: np.ndarray, passages: list[str], top_k: int | None, normalize: bool, pointwise: bool) -> Ranking:
    if not np.isfinite(scores).all():
        raise UserError("the model gives scores that are not numbers; its weights are broken, load another one")
    order = np.argsort(-scores, kind="stable")[:top_k]
    if normalize and len(scores):
        scores = (expit(scores) if pointwise else softmax(scores)).astype(np.float32)
    return Ranking(scores[order], [passages[place] for place in order], order)


def listed(values: Any, what: str) -> list[Any]:
    """A list of what is in order: no single text, no set."""
    if isinstance(values, list):
        return values
    if values is None or isinstance(values, str | bytes | dict | set | frozenset) or not hasattr(values, "__iter__"):
        raise UserError(f"{what} is a {type(values).__name__}; give a list of texts")
    return list(values)


def text_of(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{what} is {repr(value)[:40]}, not a text; leave it out or give a text")
    if not (text := cleaned(value)):
        raise UserError(f"{what} is empty; leave it out or give a text")
    return text


def catalog_of(texts: list[str]) -> Catalog:
    """Items that are nothing but a text."""
    none = np.full(len(texts), "", dtype=object)
    categories, pictures = np.empty(len(texts), dtype=object), np.full(len(texts), None, dtype=object)
    categories[:] = [()] * len(texts)
    ids = np.array([str(row) for row in range(len(texts))], dtype=object)
    return Catalog(ids, none, np.array(texts, dtype=object), categories, pictures, none, none)
