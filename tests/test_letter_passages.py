"""The letter reranker ranks passages: its rows, what it reads, a whole run and its diagnosis, what inspect shows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import only_run
from tiny_letters import make, overfitted
from tiny_passages import folded, generated, passages

from data.candidates import Candidates, Prepared, prepare
from data.dataset import Dataset
from data.errors import UserError
from data.splits import Split
from data.text_retrievers import BM25
from experiments import preflight, stages
from experiments.config import configure
from experiments.evidence import score, take
from experiments.findings import read_diagnosis
from experiments.inspect import described, named, show_request
from rerankers.baselines import Popularity
from rerankers.letter.asking import Asking
from train import train

RUN = [
    "dataset=demo_passages", "protocol=query_folds", "protocol.fold=0", "protocol.max_requests=40",
    "protocol.max_validation_requests=40", "candidates/retriever=bm25", "candidates.size=10", "reranker=qwen_letter",
    "reranker.init=scratch", "reranker.scratch.hidden_size=16", "reranker.scratch.num_hidden_layers=2",
    "trainer.max_steps=12", "trainer.eval_strategy=steps", "trainer.eval_steps=12", "trainer.logging_steps=2",
]  # fmt: skip
Data = tuple[Dataset, Split, Prepared]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    dataset = generated()
    split = replace(folded(dataset), retriever=BM25())
    return (
        dataset,
        split,
        prepare(dataset, split, Candidates(size=10, retriever=BM25()), tmp_path_factory.mktemp("c"), "x"),
    )


def test_a_row_is_a_query_and_one_passage_that_is_relevant_to_it(data: Data, tmp_path: Path) -> None:
    dataset, split, _ = data
    reranker = make(None, tmp_path, rows_per_user=3)
    reranker.build(dataset, split)
    rows, known = reranker.rows, split.train.histories
    assert len(rows) == 3 * len(known.values) > 3 * len(split.train)
    everything = list(range(len(rows)))
    drawn = rows.draw(everything)
    assert drawn.queries is not None and split.train.queries is not None
    answers = drawn.candidates[np.arange(len(rows)), drawn.target]
    assert np.array_equal(answers, np.tile(known.values, 3)), "each relevant passage is asked for as often"
    assert np.array_equal(drawn.queries, np.tile(split.train.queries[known.row_of_value], 3))
    for row, listed in enumerate(drawn.candidates.tolist()):
        others = set(listed) - {int(answers[row])}
        assert len(others) == 9 and not others & set(known.row(rows.users[row % len(rows.users)]).tolist())
    assert not drawn.copied.any() and not len(drawn.histories.values)
    back = rows.draw(everything[::-1])
    assert np.array_equal(back.candidates[::-1], drawn.candidates) and (back.queries[::-1] == drawn.queries).all()  # type: ignore[index]
    counts = np.bincount(drawn.target, minlength=10)
    assert ((counts - len(rows) / 10) ** 2 / (len(rows) / 10)).sum() < 28, "no place is the target's (chi-square, 9)"
    rows.epoch = 1
    assert (rows.draw(everything).candidates != drawn.candidates).mean() > 0.7
    none = replace(
        split, train=replace(split.train, histories=known.part(np.arange(len(known)), known.lengths, known.lengths))
    )
    with pytest.raises(UserError, match="no training query has a passage"):
        reranker.build(dataset, none)


def test_hard_negatives_are_the_mined_ones(data: Data, tmp_path: Path) -> None:
    dataset, split, _ = data
    hard = split.negatives(dataset.catalog, 1.0)
    assert hard.mined is not None
    reranker = make(None, tmp_path, negatives="first_stage", training_candidates=5)
    reranker.build(dataset, split)
    drawn = reranker.rows.draw(list(range(len(reranker.rows))))
    for row, listed in enumerate(drawn.candidates):
        pool = hard.mined[reranker.rows.users[row]]
        found = np.isin(np.delete(listed, drawn.target[row]), pool[pool >= 0])
        assert found.sum() == min(4, (pool >= 0).sum())


@pytest.mark.parametrize(
    "settings", [{}, {"loss": "vocabulary"}, {"order": "invariant"}, {"calibration": "content_free"}]
)
def test_it_trains_scores_and_loads(settings: dict[str, Any], data: Data, tmp_path: Path) -> None:
    dataset, split, prepared = data
    reranker = make(None, tmp_path, negatives="mixed", **settings)
    logged: list[dict[str, float]] = []
    reranker.fit(dataset, split, None, lambda values, step: logged.append(values))
    assert any("train_letter_loss" in values for values in logged) and reranker.weight_change > 0
    scores = reranker.score(prepared.test)
    assert scores.shape == (len(prepared.test), 10) and scores.dtype == np.float32 and np.isfinite(scores).all()
    reranker.save(tmp_path / "model")
    again = make(None, tmp_path, negatives="mixed", **settings)
    again.load(tmp_path / "model", prepared.test)
    assert np.array_equal(again.score(prepared.test), scores)
    facts = reranker.facts(prepared.test)
    assert np.array_equal(facts["trained_prompt"], facts["scored_prompt"]) and len(facts["trained_prompt"]) == 8
    assert int(facts["training_rows"][0]) == len(split.train.histories.values)


def test_the_prompt_is_a_query_and_passages_whose_words_are_known(data: Data, tmp_path: Path) -> None:
    dataset, split, prepared = data
    reranker = make(None, tmp_path, max_item_length=6)
    reranker.build(dataset, split)
    shown = reranker.inputs(prepared.test)
    assert prepared.test.queries is not None and prepared.test.candidates is not None
    for text, query, listed in zip(shown, prepared.test.queries, prepared.test.candidates, strict=True):
        known = query.rpartition(" ")[0]  # the last word, its number, is in no passage and no training query
        assert f"Query : {known} <|unknown|>" in text and "history" not in text and "answers the query" in text
        first = dataset.catalog.description[listed[0]].split()
        assert f"A . {' '.join(first[:6])} \n" in text
        assert first[6] not in text.partition(" A . ")[2].partition(" B . ")[0], "cut at max_item_length"
    trained = reranker.rows.prompts(reranker.rows.draw([0, 1]))
    assert all("Query : " in reranker.tokenizer.decode(prompt.ids) and prompt.shortened for prompt in trained)
    assert split.train.queries is not None
    own = {word for query in split.train.queries for word in query.split()}
    assert own <= set(reranker.tokenizer.get_vocab()), "the words of the training queries"
    assert not {query.split()[-1] for query in prepared.test.queries} & set(reranker.tokenizer.get_vocab())


def test_a_content_free_query_is_asked_as_a_query(data: Data, tmp_path: Path) -> None:
    dataset, split, _ = data
    reranker = make(None, tmp_path, calibration="content_free")
    reranker.build(dataset, split)
    asking = Asking(reranker)
    seen: list[str] = []
    render = reranker.prompts.render
    reranker.prompts.render = lambda *words: (seen.append(words[2]), render(*words))[1]  # type: ignore[method-assign]
    with torch.inference_mode():
        assert not np.array_equal(asking.bias(5, True), asking.bias(5, False)) and seen == ["N/A", None]


def test_it_overfits_a_few_queries(data: Data, tmp_path: Path) -> None:
    dataset, split, _ = data
    curve = overfitted(dataset, split, 6, tmp_path, epochs=100, training_candidates=4)
    assert curve[0] > 0.8 and curve[-1] < 0.3


def test_a_whole_run_is_diagnosed_and_shown(
    config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config(*RUN, small=False)
    train(cfg)
    folder = only_run(tmp_path)
    found = {finding.check: finding for finding in read_diagnosis(folder)}
    for check in ("prompt", "labels", "trained position", "target position", "reload", "determinism"):
        assert found[check].verdict == "ok", found[check]
    assert "training rows" in found["samples"].evidence and "loss level" in found
    experiment = configure(cfg)
    data = stages.open_data(experiment, stages.load(experiment))
    experiment.reranker.load(folder / "model", data.test.requests)
    scored = score(experiment.reranker, take(data.test, np.arange(3)), keep=True)
    capsys.readouterr()
    show_request(experiment.reranker, scored, 0)
    shown = capsys.readouterr().out
    assert data.test.requests.queries is not None
    assert f"Query : {data.test.requests.queries[0].split()[0]}" in shown
    catalog, truth = data.dataset.catalog, data.test.relevance.items.row(0)[0]
    assert described(scored, 0, 5).startswith(f"query {data.test.requests.names[0]}: ")  # type: ignore[index]
    show_request(Popularity(name="popularity"), scored, 0)
    assert f"Query: {data.test.requests.queries[0]}\n" in capsys.readouterr().out
    assert f"Truth: {catalog.description[truth][:80]}... [{catalog.id[truth]}]" in shown


def test_the_preflight_learns_a_batch_of_queries(
    config: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "SECONDS", 1)
    experiment = configure(config(*RUN, small=False))
    data = stages.open_data(experiment, stages.load(experiment))
    monkeypatch.setattr(preflight, "raise_failed", lambda *words: None)
    preflight.preflight(experiment, data)
    shown = capsys.readouterr().out
    assert "Query : " in shown and "the loss of one batch went from" in shown


def test_a_passage_is_named_by_its_first_words() -> None:
    long = "từ " * 40
    catalog = passages(["một\nhai  ba", long, ""], ["?"], [[0]]).catalog
    assert named(catalog, 0) == "một hai ba [p0]" and named(catalog, 2) == "p2"
    assert named(catalog, 1) == f"{long[:80]}... [p1]"
