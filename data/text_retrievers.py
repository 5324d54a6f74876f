"""First stages that read words: BM25 (bm25s) and TF-IDF (scikit-learn).

Both are fit on the catalogue's texts alone. The query of a recommendation request is its history, newest item first.
All requests are scored in one product of sparse matrices, see `data.postings`.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from data.dataset import Catalog
from data.errors import UserError, in_range, one_of
from data.postings import Postings
from data.progress import bar
from data.retrievers import Retriever
from data.splits import Phase
from data.texts import item_texts, request_texts
from data.words import check_segmentation, segmenter, with_ngrams, words

METHODS = ("lucene", "robertson", "atire", "bm25l", "bm25+")  # bm25s' own names


@dataclass
class TextRetriever(Retriever):
    max_history: int = 10  # newest items of a user's history that are read
    ngrams: int = 2
    word_segmentation: str = "none"

    reads_text: ClassVar[bool] = True
    ranks_queries: ClassVar[bool] = True

    def __post_init__(self) -> None:
        in_range("candidates.retriever.max_history", self.max_history, 1)
        in_range("candidates.retriever.ngrams", self.ngrams, 1, 5)
        check_segmentation("candidates.retriever.word_segmentation", self.word_segmentation)

    def fit(self, catalog: Catalog, training: Phase) -> None:
        texts = item_texts(catalog)
        self.catalog, self.segment = catalog, segmenter(self.word_segmentation)
        if not any(words(text) for text in texts):
            raise UserError(
                f"candidates.retriever={self.option} reads words, and none of the {len(texts):,} items has any; use "
                "candidates/retriever=popularity"
            )
        self.postings = Postings(self.index(texts))

    def score(self, phase: Phase) -> np.ndarray:
        """[R, I] float32; -inf where no word links them."""
        texts = request_texts(self.catalog, phase.histories, phase.queries, self.max_history)
        counts = self.count(texts)
        scores = self.postings.product(counts)
        linked = scores != 0
        scores += self.offset(counts)[:, None]
        scores[~linked] = -np.inf
        return scores

    def tokens(self, text: str) -> list[str]:
        """Words and their n-grams."""
        return with_ngrams(words(self.segment(text)), self.ngrams)

    def index(self, texts: list[str]) -> sp.csr_matrix:
        """Weights [V, I] float32 of the terms in the items."""
        raise NotImplementedError

    def count(self, texts: list[str]) -> sp.csr_matrix:
        """Weights [R, V] of the terms in the requests' texts."""
        raise NotImplementedError

    def offset(self, counts: sp.csr_matrix) -> np.ndarray:
        """[R] what every item gets of a request, whatever words it has."""
        return np.zeros(counts.shape[0], dtype=np.float32)


@dataclass
class BM25(TextRetriever):
    """Okapi BM25 in bm25s' variants (arXiv 2407.03618). A word that stands twice in a query counts twice."""

    option: ClassVar[str] = "bm25"

    method: str = "lucene"
    k1: float = 1.5
    b: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("candidates.retriever.method", self.method, METHODS)
        in_range("candidates.retriever.k1", self.k1, 0)
        in_range("candidates.retriever.b", self.b, 0, 1)

    def index(self, texts: list[str]) -> sp.csr_matrix:
        import bm25s
        from sklearn.feature_extraction.text import CountVectorizer

        vocabulary: dict[str, int] = {}
        rows = [
            [vocabulary.setdefault(token, len(vocabulary)) for token in self.tokens(text)]
            for text in bar(texts, "reading the items' words")
        ]
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        index = bm25s.BM25(method=self.method, k1=self.k1, b=self.b, csc_backend="scipy")
        many = sys.stderr.isatty() and len(rows) > 10_000
        index.index((rows, vocabulary), create_empty_token=False, show_progress=many)
        self.everywhere = index.nonoccurrence_array  # [V] of bm25l and bm25+: what an item without the term gets
        self.vectorizer = CountVectorizer(analyzer=self.tokens, vocabulary=vocabulary, dtype=np.float32)
        scores = index.scores
        shape = (len(texts), len(vocabulary))
        return sp.csc_matrix((scores["data"], scores["indices"], scores["indptr"]), shape=shape).T.tocsr()

    def count(self, texts: list[str]) -> sp.csr_matrix:
        return self.vectorizer.transform(texts)

    def offset(self, counts: sp.csr_matrix) -> np.ndarray:
        return super().offset(counts) if self.everywhere is None else counts @ self.everywhere


@dataclass
class TfIdf(TextRetriever):
    """Cosine of TF-IDF vectors, with scikit-learn's smooth idf."""

    option: ClassVar[str] = "tfidf"

    analyzer: str = "word"  # or char_wb: characters within words
    characters: int = 4  # of analyzer=char_wb: its longest n-gram; the shortest has 2

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("candidates.retriever.analyzer", self.analyzer, ("word", "char_wb"))
        in_range("candidates.retriever.characters", self.characters, 2, 10)

    def index(self, texts: list[str]) -> sp.csr_matrix:
        from sklearn.feature_extraction.text import TfidfVectorizer

        reading: dict[str, Any] = {"analyzer": self.tokens}
        if self.analyzer == "char_wb":
            reading = {
                "analyzer": "char_wb",
                "ngram_range": (2, self.characters),
                "preprocessor": lambda text: " ".join(words(self.segment(text))),
            }
        self.vectorizer = TfidfVectorizer(**reading, dtype=np.float32)
        return self.vectorizer.fit_transform(bar(texts, "reading the items' words")).T.tocsr()

    def count(self, texts: list[str]) -> sp.csr_matrix:
        return self.vectorizer.transform(texts)
