"""A passages dataset small enough to work by hand: each query shares words with what is relevant to it."""

from pathlib import Path

import numpy as np

from data.dataset import Catalog, Dataset, Interactions, Provenance
from data.query_splits import QueryFolds
from data.splits import Split


def passages(texts: list[str], queries: list[str], relevant: list[list[int]], name: str = "tiny") -> Dataset:
    """Dataset of `texts` and `queries`; `relevant` are rows of texts, one list a query."""
    none = np.full(len(texts), "", dtype=object)
    ids = np.array([f"p{row}" for row in range(len(texts))], dtype=object)
    pictures, categories = np.full(len(texts), None, dtype=object), np.empty(len(texts), dtype=object)
    categories[:] = [()] * len(texts)
    catalog = Catalog(ids, none, np.array(texts, dtype=object), categories, pictures, none, none)
    user = np.repeat(np.arange(len(queries)), [len(row) for row in relevant]).astype(np.int32)
    item = np.array([passage for row in relevant for passage in row], dtype=np.int32)
    events = Interactions(user, item, np.zeros(len(user), dtype=np.int64), np.full(len(user), np.nan, np.float32))
    return Dataset(
        name=name,
        kind="passages",
        catalog=catalog,
        user_id=np.array([f"q{row}" for row in range(len(queries))], dtype=object),
        interactions=events,
        provenance=Provenance("made by hand", "MIT", {}, synthetic=True),
        queries=np.array(queries, dtype=object),
    )


def generated(n_queries: int = 60, n_passages: int = 40, seed: int = 0) -> Dataset:
    """Passages of 12 words, queries of 4 words of theirs and one of another; one or two relevant passages a query."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array([f"{a}{b}" for a in "bdghklmn" for b in ("à", "é", "ô", "ươ", "i", "anh", "ông")])
    words = [rng.choice(vocabulary, 12, replace=False) for _ in range(n_passages)]
    relevant = [rng.choice(n_passages, rng.integers(1, 3), replace=False).tolist() for _ in range(n_queries)]
    queries = [
        " ".join([*rng.choice(words[row[0]], 4, replace=False), rng.choice(words[row[-1]]), f"q{number}"])
        for number, row in enumerate(relevant)
    ]
    return passages([" ".join(row) + "." for row in words], queries, relevant)


def folded(dataset: Dataset, fold: int = 0) -> Split:
    return QueryFolds(folds=4, fold=fold).split(dataset)


class Hand:
    """A source that has its dataset already, for `Experiment.source`."""

    def __init__(self, dataset: Dataset) -> None:
        self.name, self.dataset = dataset.name, dataset

    def load(self, folder: Path) -> Dataset:
        return self.dataset
