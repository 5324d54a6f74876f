"""First stages that read words: the libraries' own numbers, Vietnamese words, what they refuse, and the real data."""

import importlib.util
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_passages import Hand, folded, generated, passages

from data import postings
from data.candidates import Candidates, Prepared, prepare
from data.dataset import Dataset, Ragged
from data.errors import UserError
from data.retrievers import EASE, Popularity, Retriever
from data.splits import Phase, Split
from data.text_retrievers import BM25, METHODS, TextRetriever, TfIdf
from data.words import with_ngrams, words
from experiments.config import configure
from experiments.launch import ROOT


def asked(queries: list[str]) -> Phase:
    nothing = Ragged.empty(len(queries))
    return Phase(np.arange(len(queries)), nothing, nothing, np.array(queries, dtype=object))


@pytest.fixture(params=[postings.CELLS, 0, 200], ids=["frequent terms dense", "all sparse", "five dense"])
def cells(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "CELLS", request.param)


@pytest.mark.parametrize("method", METHODS)
def test_bm25_scores_are_bm25s_own(method: str, cells: None) -> None:
    import bm25s

    dataset = generated()
    retriever = BM25(method=method, k1=1.2, b=0.6)
    retriever.fit(dataset.catalog, folded(dataset).train)
    queries = [*dataset.queries, "bà bà bé", "nothing known", ""]  # type: ignore[misc]
    got = retriever.score(asked(queries))
    library = bm25s.BM25(method=method, k1=1.2, b=0.6)
    library.index([retriever.tokens(text) for text in dataset.catalog.description], show_progress=False)
    for query, own in zip(queries, got, strict=True):
        tokens = [token for token in retriever.tokens(query) if token in library.vocab_dict]
        linked = np.array([bool(set(tokens) & set(retriever.tokens(t))) for t in dataset.catalog.description])
        if method != "robertson":  # which gives nothing for a word that half of the passages have
            assert np.array_equal(np.isfinite(own), linked)
        if tokens:
            wanted = library.get_scores(tokens)
            assert own[np.isfinite(own)] == pytest.approx(wanted[np.isfinite(own)], rel=1e-5)
    assert got.dtype == np.float32 and np.isneginf(got[-2:]).all()


@pytest.mark.parametrize("analyzer", ["word", "char_wb"])
def test_tfidf_scores_are_scikit_learns_cosine(analyzer: str, cells: None) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity

    dataset = generated()
    retriever = TfIdf(analyzer=analyzer)
    retriever.fit(dataset.catalog, folded(dataset).train)
    assert dataset.queries is not None
    got = retriever.score(asked(list(dataset.queries)))
    ngrams = (1, 2) if analyzer == "word" else (2, 4)
    library = TfidfVectorizer(analyzer=analyzer, ngram_range=ngrams, token_pattern=r"\w+")
    known = library.fit_transform([text.removesuffix(".") for text in dataset.catalog.description])
    wanted = cosine_similarity(library.transform(dataset.queries), known)
    assert np.where(np.isneginf(got), 0, got) == pytest.approx(wanted, abs=1e-6)
    assert np.array_equal(np.isneginf(got), wanted == 0)


def test_words_are_nfc_lower_case_and_without_punctuation() -> None:
    text = 'Câu lạc bộ "Lập Trình" PTIT, từ 9/10!'
    wanted = ["câu", "lạc", "bộ", "lập", "trình", "ptit", "từ", "9", "10"]
    assert words(text) == words(unicodedata.normalize("NFD", text)) == wanted
    assert with_ngrams(["a", "b", "c"], 1) == ["a", "b", "c"]
    assert with_ngrams(["a", "b", "c"], 3) == ["a", "b", "c", "a b", "b c", "a b c"]
    dataset = passages(["Lập trình C++", "trình lập lập"], ["LẬP TRÌNH"], [[0]])
    syllables, pairs = BM25(ngrams=1), BM25(ngrams=2)
    for retriever in (syllables, pairs):
        retriever.fit(dataset.catalog, asked(["x"]))
    query = asked([unicodedata.normalize("NFD", "LẬP TRÌNH")])
    gain = pairs.score(query) - syllables.score(query)
    assert gain[0, 0] > gain[0, 1] + 0.1, "the order of syllables is read through pairs"


def test_segmentation_is_optional_and_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="choose none or pyvi or underthesea"):
        BM25(word_segmentation="spacy")
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(
            UserError, match=r"word_segmentation=underthesea needs a package .* pip install underthesea"
        ):
            TfIdf(word_segmentation="underthesea")
    pytest.importorskip("pyvi")
    dataset = passages(["Câu lạc bộ tuyển thành viên.", "lạc trong câu đố"], ["câu lạc bộ"], [[0]])
    retriever = BM25(word_segmentation="pyvi")
    retriever.fit(dataset.catalog, asked(["x"]))
    assert "câu_lạc_bộ" in retriever.tokens("Câu lạc bộ tuyển thành viên.")
    assert np.isfinite(retriever.score(asked(["Câu lạc bộ ở đâu"]))[0]).tolist() == [True, False]


@pytest.mark.parametrize("retriever", [BM25(max_history=2), TfIdf(max_history=2)], ids=lambda r: r.option)
def test_a_history_is_read_as_a_query_newest_first(demo: Dataset, split: Split, retriever: TextRetriever) -> None:
    retriever.fit(demo.catalog, split.train)
    titles = ["; ".join(demo.catalog.title[row[::-1]]) for row in split.test.histories.last(2)]
    assert np.array_equal(retriever.score(split.test), retriever.score(asked(titles)))
    with pytest.raises(UserError, match="none of the 60 items has any"):
        nothing = np.full(60, "", dtype=object)
        type(retriever)().fit(replace(demo.catalog, title=nothing, description=nothing), split.train)


def test_each_yaml_is_a_retriever_of_that_name_and_those_of_users_refuse_queries(
    config: Callable[..., Any], tmp_path: Path
) -> None:
    dataset = generated()
    split = folded(dataset)
    names = sorted(path.stem for path in (ROOT / "conf/candidates/retriever").glob("*.yaml"))
    ranked = []
    for name in names:
        retriever = configure(config(f"candidates/retriever={name}")).candidates.retriever
        assert isinstance(retriever, Retriever) and retriever.option == name
        settings = Candidates(size=20, retriever=retriever)
        if retriever.ranks_queries:
            got = prepare(dataset, split, settings, tmp_path, name)
            assert got.test.queries is not None and (got.test.candidates >= 0).any()  # type: ignore[operator]
            ranked.append(name)
            continue
        says = f"candidates.retriever={name} needs interactions, .* use candidates/retriever=bm25 or tfidf"
        with pytest.raises(UserError, match=says):
            prepare(dataset, split, settings, tmp_path, name)
        with pytest.raises(UserError, match=says):
            replace(split, retriever=retriever).negatives(dataset.catalog, 0.5)
    assert ranked == ["bm25", "popularity", "tfidf"]
    prior = Popularity()
    prior.fit(dataset.catalog, split.train)
    counts = np.bincount(split.train.histories.values, minlength=40)
    assert np.array_equal(prior.score(split.test)[3], counts), "the prior of the labels"


def test_candidates_depend_on_the_words_where_they_are_read(config: Callable[..., Any]) -> None:
    dataset = generated()
    other = replace(dataset, catalog=replace(dataset.catalog, description=dataset.catalog.description[::-1].copy()))
    for name, depends in (("bm25", True), ("tfidf", True), ("popularity", False)):
        experiment = configure(config(f"candidates/retriever={name}"))
        experiment.source = Hand(dataset)  # type: ignore[assignment]
        same = experiment.candidates_identity(dataset) == experiment.candidates_identity(other)
        assert same != depends
    long, short = BM25(ngrams=2), EASE()
    assert long.reads_text and not short.reads_text


def real(shared_data: Path) -> tuple[Dataset, Phase]:
    folder = shared_data / "proptit"
    texts, asked_ = pd.read_csv(folder / "CLB_PROPTIT.csv"), pd.read_excel(folder / "train_data_proptit.xlsx")
    row = {int(number): at for at, number in enumerate(texts["STT"])}
    relevant = [[row[int(n)] for n in str(cell).split(",")] for cell in asked_["Ground truth document"]]
    dataset = passages(list(texts["Văn bản"]), list(asked_["Query"]), relevant)
    nothing = Ragged.empty(len(relevant))
    return dataset, Phase(np.arange(len(relevant)), nothing, dataset.sequences, dataset.queries)


@pytest.mark.parametrize(
    ("retriever", "recall", "mrr"),
    [(BM25(), 0.40, 0.38), (BM25(ngrams=1), 0.37, 0.35), (TfIdf(), 0.38, 0.35)],
    ids=["bm25 with bigrams", "bm25", "tfidf"],
)
def test_on_the_real_passages(shared_data: Path, retriever: TextRetriever, recall: float, mrr: float) -> None:
    dataset, phase = real(shared_data)
    retriever.fit(dataset.catalog, phase)
    best = np.argsort(-retriever.score(phase), axis=1, kind="stable")[:, :5]
    found = [np.isin(items, phase.relevant.row(query)) for query, items in enumerate(best)]
    shares = [hits.sum() / n for hits, n in zip(found, phase.relevant.lengths, strict=True)]
    ranks = [1 / (1 + hits.argmax()) if hits.any() else 0 for hits in found]
    assert (len(dataset.catalog), len(found)) == (99, 100)
    assert np.mean(shares) >= recall and np.mean(ranks) >= mrr


@pytest.mark.parametrize("mode", ["retrieved", "full"])
def test_a_query_that_shares_no_word_has_missed_everything(mode: str, tmp_path: Path) -> None:
    """Its list is empty, in the file too; also when all of a phase are."""
    texts, queries = [f"word{row} again" for row in range(8)], [f"word{row}" for row in range(7)] + ["zzz"]
    dataset = passages(texts, queries, [[row] for row in range(8)])
    phases = {"train": [0, 1, 2], "validation": [3, 4], "test": [5, 6, 7]}

    def prepared(test: list[int], name: str) -> Prepared:
        parts = [phase_of(dataset, rows) for rows in (phases["train"], phases["validation"], test)]
        split = Split(parts[0], parts[0], parts[1], parts[2])
        return prepare(
            dataset, split, Candidates(mode=mode, size=4, retriever=BM25()), tmp_path, name, filter_seen=False
        )

    some = prepared(phases["test"], "some").test
    assert some.first_stage_items is not None
    assert (some.first_stage_items >= 0).sum(axis=1).tolist()[2] == 0 < (some.first_stage_items[0] >= 0).sum()
    nothing = prepared([7], "nothing").test
    assert len(nothing) == 1 and nothing.first_stage_items is not None and (nothing.first_stage_items < 0).all()


def phase_of(dataset: Dataset, rows: list[int]) -> Phase:
    assert dataset.queries is not None
    own = np.array(rows)
    return Phase(own, Ragged.empty(len(own)), dataset.sequences.take(own), dataset.queries[own])
