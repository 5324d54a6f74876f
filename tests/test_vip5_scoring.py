"""Scores of VIP5 against a forward pass for each candidate; beams, orders, missing pictures and candidates."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vip5 import built, make

from data.candidates import Prepared
from data.dataset import Catalog, Dataset, Ragged, Requests
from data.errors import UserError
from data.splits import Split
from rerankers.vip5.id_trie import IdTrie
from rerankers.vip5.prompts import to_batch
from rerankers.vip5.scoring import TEMPLATE_OF, by_length
from rerankers.vip5.settings import Tasks
from rerankers.vip5.vip5 import WORST, Vip5

RERANK = Tasks(rerank=1)
Build = Callable[..., Vip5]


@pytest.fixture
def build(demo: Dataset, split: Split, tmp_path: Path) -> Build:
    return lambda dataset=demo, **settings: built(tmp_path, dataset, split, **settings)


@pytest.fixture
def asked(candidates: Prepared) -> Requests:
    """Nine; one has no history, one a single candidate, one none."""
    requests = candidates.test.take(slice(0, 9))
    rows = [requests.histories.row(row) for row in range(9)]
    assert requests.candidates is not None
    listed = requests.candidates.copy()
    listed[1, 5:] = listed[2, 1:] = listed[3] = -1
    listed[4, ::2] = -1
    return replace(requests, histories=Ragged.from_rows([[], *rows[1:]]), candidates=listed)


def losses(reranker: Vip5, requests: Requests, row: int, items: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """[tokens] of one answer and its end, after a prompt of its own."""
    template = reranker.scored_by
    history = requests.histories.row(row)[-reranker.max_history :]
    slots = {"history": history, "candidates": items, "one": items, "item": items, "title": items}
    assert requests.names is not None
    prompt = reranker.prompts.render(template, slots, reranker.words_of(requests.names[row]))
    labels = torch.tensor([[*answer.tolist(), reranker.prompts.end]])
    with torch.no_grad():
        return reranker.network(**to_batch([prompt], 0), labels=labels)[0].numpy()


def naive(reranker: Vip5, requests: Requests) -> np.ndarray:
    """[R, N] each candidate in a forward pass of its own."""
    assert requests.candidates is not None
    out = np.full(requests.candidates.shape, WORST)
    for row, column in np.argwhere(requests.candidates >= 0):
        item = requests.candidates[row, column]
        listed = requests.candidates[row][requests.candidates[row] >= 0]
        out[row, column] = -losses(reranker, requests, row, listed, reranker.prompts.answers.row(item)).sum()
    return out


def test_some_numbers_begin_with_another_number(build: Build) -> None:
    answers = [tuple(row) for row in map(build().prompts.answers.row, range(60))]
    assert len(set(answers)) == 60 and {len(answer) for answer in answers} >= {1, 2, 3}
    assert sum(a != b and b[: len(a)] == a for a in answers for b in answers) > 10


@pytest.mark.parametrize("template", ["A-3", "A-4", "A-9"])
def test_likelihood_is_that_of_a_forward_pass_for_each(build: Build, asked: Requests, template: str) -> None:
    reranker = build(template=template)
    scores = reranker.score(asked)
    np.testing.assert_allclose(scores, naive(reranker, asked), atol=1e-4)
    assert np.ptp(scores[5]) > 1


@pytest.mark.parametrize("scorer", ["likelihood", "list"])
def test_candidates_in_several_parts(scorer: str, build: Build, asked: Requests, monkeypatch: Any) -> None:
    reranker = build(scorer=scorer, **({"tasks": RERANK} if scorer == "list" else {}))
    whole = reranker.score(asked)
    monkeypatch.setattr("rerankers.vip5.scoring.PACKED", 3)
    np.testing.assert_allclose(reranker.score(asked), whole, atol=1e-4)
    np.testing.assert_allclose(whole, naive(reranker, asked), atol=1e-4)
    if scorer == "likelihood":
        whole = reranker.score(replace(asked, candidates=None))
        listed = naive(reranker, asked)
        assert asked.candidates is not None
        own, there = np.take_along_axis(whole, asked.candidates, 1), asked.candidates >= 0
        np.testing.assert_allclose(own[there], listed[there], atol=1e-4)


def test_only_the_newest_of_a_history_is_read(build: Build, asked: Requests) -> None:
    reranker = build(max_history=3)
    newest = replace(asked, histories=Ragged.from_rows([row[-3:] for row in map(asked.histories.row, range(9))]))
    assert np.array_equal(reranker.score(asked), reranker.score(newest))
    older = replace(asked, histories=Ragged.from_rows([row[:-1] for row in map(asked.histories.row, range(9))]))
    assert (np.abs(reranker.score(asked) - reranker.score(older)).max(axis=1)[[1, 4, 5]] > 1e-3).all()
    text = reranker.inputs(asked)[5]
    numbers = [str(reranker.prompts.numbers[item]) for item in asked.histories.row(5)[-3:]]
    places = [text.index(f" {n} <extra_id_0>" if f" {n} <" in text else f" {n}<extra_id_0>") for n in numbers]
    assert places == sorted(places) and text.count("<extra_id_0>") == 3


def test_list_is_read_in_the_order_of_the_candidates(build: Build, asked: Requests) -> None:
    reranker = build(scorer="list", tasks=RERANK)
    assert reranker.order_sensitive and not build().order_sensitive
    backwards = replace(asked, candidates=asked.candidates[:, ::-1])  # type: ignore[index]
    scores, other = reranker.score(asked), reranker.score(backwards)[:, ::-1]
    assert np.abs(scores - other)[5].max() > 1e-3
    np.testing.assert_allclose(scores[2], other[2], atol=1e-5)  # one candidate has one order


def test_permutations_are_averaged(build: Build, asked: Requests) -> None:
    from rerankers.vip5.scoring import Scoring

    one, many = build(scorer="list", tasks=RERANK), build(scorer="list", tasks=RERANK, permutations=3)
    turns = [Scoring(one, asked, "list", one.scored_by, turn) for turn in range(3)]
    with torch.no_grad():
        singles = [turn.scores() for turn in turns]
    np.testing.assert_array_equal(singles[0][5], one.score(asked)[5])
    assert np.abs(singles[0] - singles[1])[5].max() > 1e-3 and np.abs(singles[1] - singles[2])[5].max() > 1e-3
    there = asked.candidates >= 0  # type: ignore[operator]
    np.testing.assert_allclose(many.score(asked)[there], np.mean(singles, axis=0)[there], atol=1e-5)
    orders = [[turn.columns[row].tolist() for turn in turns] for row in (5, 6)]
    assert len({tuple(order) for row in orders for order in row[1:]}) == 4, "each request has orders of its own"
    assert orders[0][0] == list(range(20)) and all(sorted(order) == orders[0][0] for order in orders[0])


@pytest.mark.parametrize("template", ["A-7", "A-8", "B-1", "B-3"])
def test_yes_no_is_how_much_more_likely_yes_is(template: str, build: Build, asked: Requests) -> None:
    reranker = build(scorer="yes_no", template=template)
    scores = reranker.score(asked)
    for row, column in ((0, 3), (1, 0), (4, 7), (8, 19)):
        item = asked.candidates[row, column : column + 1]  # type: ignore[index]
        words = [reranker.prompts.words(word) for word in ("yes", "no")]
        yes, no = (losses(reranker, asked, row, item, word)[0] for word in words)
        assert scores[row, column] == pytest.approx(no - yes, abs=1e-4)
    assert np.ptp(scores[5]) > 1e-3


def test_prompts_of_yes_no_are_not_all_held_at_once(build: Build, asked: Requests, monkeypatch: Any) -> None:
    reranker = build(scorer="yes_no")
    whole, held = reranker.score(asked), []
    monkeypatch.setattr("rerankers.vip5.scoring.RENDERED", 7)
    monkeypatch.setattr("rerankers.vip5.scoring.by_length", lambda n, size: held.append(len(n)) or by_length(n, size))
    np.testing.assert_allclose(reranker.score(asked), whole, atol=1e-4)
    assert max(held) == 7 and sum(held) == (asked.candidates >= 0).sum()  # type: ignore[operator]


def beams_by_hand(sums: dict[tuple[int, ...], float], end: int, n: int) -> dict[tuple[int, ...], float]:
    """The answers that `n` beams end with; `sums` of the log-probabilities of each beginning of an answer."""
    finished: dict[tuple[int, ...], float] = {}
    running: list[tuple[int, ...]] = [()]
    while running:
        grown = [p for p in sums if p[:-1] in running]
        grown.sort(key=lambda p: -sums[p])
        finished |= {p: sums[p] for p in grown[:n] if p[-1] == end}
        running = [p for p in grown if p[-1] != end][:n]
    return dict(sorted(finished.items(), key=lambda pair: -pair[1])[:n])


def test_enough_beams_give_the_likelihood_and_few_its_best(build: Build, asked: Requests) -> None:
    want = build().score(asked)
    np.testing.assert_allclose(build(scorer="beam", beams=20).score(asked), want, atol=1e-4)
    reranker = build(scorer="beam", beams=4)
    scores, end = reranker.score(asked), reranker.prompts.end
    for row in (0, 1, 2, 5):
        items = asked.candidates[row][asked.candidates[row] >= 0]  # type: ignore[index]
        answers = [reranker.prompts.answers.row(item) for item in items]
        sums: dict[tuple[int, ...], float] = {}
        for answer in answers:
            told = -losses(reranker, asked, row, items, answer).cumsum()
            whole = (*answer.tolist(), end)
            sums |= {whole[: n + 1]: value for n, value in enumerate(told.tolist())}
        reached = beams_by_hand(sums, end, 4)
        below = min(reached.values()) - 1  # where all that no beam ends with ties
        hand = np.array([reached.get((*answer.tolist(), end), below) for answer in answers])
        np.testing.assert_allclose(scores[row][scores[row] > WORST], hand, atol=1e-4)
        assert len(reached) == min(4, len(items))


@pytest.mark.parametrize("scorer", list(TEMPLATE_OF))
def test_missing_candidates_come_last_in_any_company(scorer: str, build: Build, asked: Requests) -> None:
    settings: dict[str, Any] = {"tasks": RERANK, "permutations": 2} if scorer == "list" else {}
    reranker = build(scorer=scorer, **settings)
    scores = reranker.score(asked)
    assert len(reranker.inputs(asked)) == len(reranker.facts(asked)["prompt_lengths"]) == 9
    there = asked.candidates >= 0  # type: ignore[operator]
    assert (scores[~there] == WORST).all() and (scores[there] > -1000).all()
    alone = np.concatenate([reranker.score(asked.take(slice(row, row + 1))) for row in range(9)])
    np.testing.assert_allclose(alone, scores, atol=1e-4)


def without_pictures(catalog: Catalog, rows: list[int]) -> Catalog:
    image = catalog.image.copy()
    image[rows] = None
    return replace(catalog, image=image)


def test_items_without_a_picture_are_scored(build: Build, demo: Dataset, asked: Requests, tmp_path: Path) -> None:
    bare = replace(demo, catalog=without_pictures(demo.catalog, list(range(0, 60, 2))))
    reranker = build(bare)
    requests = replace(asked, catalog=bare.catalog)
    scores = reranker.score(requests)
    np.testing.assert_allclose(scores, naive(reranker, requests), atol=1e-4)
    assert np.abs(scores - reranker.score(asked))[5].max() > 1e-3, "with all pictures again"
    (tmp_path / "model").mkdir()
    reranker.save(tmp_path / "model")
    for catalog in (bare.catalog, demo.catalog):  # the last has a picture of each item
        loaded = make(tmp_path)
        loaded.load(tmp_path / "model", replace(asked, catalog=catalog))
        np.testing.assert_array_equal(loaded.score(requests), scores)


def test_validation_loss_is_that_of_the_next_items(
    build: Build, demo: Dataset, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """reranker.validation=loss: larger is better, so it is the mean log-likelihood of validation's targets."""
    reranker = build(validation="loss")
    assert reranker.trainer.metric_for_best_model == "negative_loss"
    phase = split.validation
    targets = phase.relevant.values[:, None]
    requests = Requests(demo.catalog, phase.ids, phase.histories, names=demo.user_id[phase.ids], candidates=targets)
    value = reranker._validation_loss(demo, split)(reranker.score)["negative_loss"]
    assert value == pytest.approx(naive(reranker, requests).mean(), abs=1e-4) and value < -1
    monkeypatch.setattr("rerankers.vip5.vip5.VALIDATED", 7)
    few = [build(validation="loss", seed=seed) for seed in (0, 1)]
    asked: list[np.ndarray] = []
    monkeypatch.setattr("rerankers.vip5.vip5.loss", lambda _, some: asked.append(some.ids) or 0.0)
    for reranker in few:
        reranker._validation_loss(demo, split)(reranker.score)
    assert len(asked[0]) == 7 and asked[0].tolist() == asked[1].tolist() != phase.ids[:7].tolist()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"scorer": "greedy"}, "reranker.scorer=greedy is not allowed; choose likelihood or list or yes_no or beam"),
        ({"scorer": "list"}, "reranker.scorer=list asks the prompt D-1, and nothing like it is trained"),
        ({"scorer": "yes_no", "templates": ["A-1"]}, "reranker.templates one of that kind"),
        ({"tasks": Tasks(sequential=0)}, "give reranker.tasks.sequential some rows"),
        ({"tasks": Tasks(0, 0, 0, 0)}, "leave nothing to train on"),
        ({"tasks": Tasks(direct=-1)}, "reranker.tasks.direct=-1 is out of range"),
        ({"scorer": "yes_no", "template": "A-3"}, "reranker.template=A-3 has no answer for reranker.scorer=yes_no"),
        ({"scorer": "likelihood", "template": "B-5"}, "choose of A-1, A-2, A-3, A-4, A-5, A-6, A-9"),
        ({"template": "E-1"}, "reranker.template=E-1 does not exist; choose of A-1"),
        ({"templates": ["A-10"]}, "reranker.templates=A-10 does not exist"),
        ({"permutations": 2}, "reranker.permutations=2 averages orders of the candidates"),
        ({"permutations": 0}, "reranker.permutations=0 is out of range"),
        ({"beams": 1}, "reranker.beams=1 is out of range"),
        ({"validation": "ndcg"}, "reranker.validation=ndcg is not allowed; choose ranking or loss"),
        ({"checkpoint": "/nowhere.pth"}, "reranker.checkpoint=/nowhere.pth does not exist"),
        ({"id_scheme": "p5"}, "reranker.id_scheme=p5 is not allowed; choose random"),
    ],
)
def test_mistakes_are_one_sentence(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        make(tmp_path, **settings)
    assert says in str(raised.value) and "\n" not in str(raised.value)


def test_of_the_whole_catalogue_what_begins_alike_is_decoded_together(
    build: Build, asked: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rerankers.vip5.scoring.PACKED", 7)
    reranker, whole = build(), replace(asked, candidates=None).take(slice(0, 3))
    every = np.tile(np.arange(60, dtype=np.int32), (3, 1))
    packed, pack = [], IdTrie.pack
    monkeypatch.setattr(IdTrie, "pack", lambda trie, items: packed.append(pack(trie, items)) or packed[-1])
    np.testing.assert_allclose(reranker.score(whole), naive(reranker, replace(whole, candidates=every)), atol=1e-4)
    decoded = sum(len(own) for tree in packed for own in tree.nodes)
    trie, parts = reranker.trie, [every[0][start : start + 7] for start in range(0, 60, 7)]
    as_they_come = 3 * sum(len(np.unique(trie.paths[part])) for part in parts)
    assert decoded < 0.9 * as_they_come


def test_a_beam_search_of_the_whole_catalogue_makes_its_tree_once(
    build: Build, asked: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker, whole = build(scorer="beam", beams=60), replace(asked, candidates=None)
    made, children = [], IdTrie.children
    monkeypatch.setattr(IdTrie, "children", lambda trie, items: made.append(1) or children(trie, items))
    scores = reranker.score(whole)
    assert len(made) == 1
    np.testing.assert_allclose(scores, build().score(whole), atol=1e-4)
