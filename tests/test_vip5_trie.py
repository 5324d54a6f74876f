"""A packed tree of answers scores as decoding each answer by itself does."""

import numpy as np
import pytest
import torch
from tiny_vip5 import network_of, some_prompts

from data.dataset import Ragged
from rerankers.vip5.id_trie import IdTrie
from rerankers.vip5.network import Vip5Network
from rerankers.vip5.prompts import to_batch

START, END = 0, 1
ANSWERS = [
    [12],
    [12, 8],
    [12, 8, 9],
    [12, 9],
    [8],
    [8, 8],
    [8, 8, 8],
    [9, 12, 8],
    [9, 12, 7],
    [10],
    [7, 7],
    [7, 8, 12],
]


def some_answers(rng: np.random.Generator, n: int) -> list[list[int]]:
    """Distinct, of 1 to 3 of four tokens: prefixes of one another are many."""
    drawn = {tuple(rng.integers(7, 11, rng.integers(1, 4)).tolist()) for _ in range(20 * n)}
    return [list(answer) for answer in sorted(drawn)][:n]


@torch.no_grad()
def packed(network: Vip5Network, trie: IdTrie, batch: dict[str, torch.Tensor], items: list[np.ndarray]) -> list:
    tree = trie.pack(items)
    encoded = network.encode(batch)
    states = network.decode(tree.tokens, encoded, batch["attention_mask"], tree.mask(network.t5.decoder))
    return tree.likelihoods(states, network.t5.lm_head)


@torch.no_grad()
def one_by_one(network: Vip5Network, answers: list[list[int]], batch: dict[str, torch.Tensor], row: int) -> np.ndarray:
    """Of one prompt, its padding left out: each answer in a decoder of its own."""
    length = int(batch["attention_mask"][row].sum())
    before = int((batch["input_ids"][:row] == network.placeholder).sum()) // network.visual_tokens
    own = int((batch["input_ids"][row] == network.placeholder).sum()) // network.visual_tokens
    prompt = {name: batch[name][row : row + 1, :length] for name in ("input_ids", "whole_words", "attention_mask")}
    prompt["pictures"] = batch["pictures"][before : before + own]
    return np.array([-network(**prompt, labels=torch.tensor([[*answer, END]])).sum().item() for answer in answers])


@pytest.mark.parametrize("seed", range(12))
def test_packed_scores_are_those_of_each_answer_by_itself(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers = ANSWERS if seed == 0 else some_answers(rng, int(rng.integers(2, 30)))
    network = network_of(seed, reduction_factor=4 * (seed % 2))
    counts = rng.integers(0, 6, 4).tolist()
    batch = to_batch(some_prompts(network, counts, seed), padding=0)
    sizes = [len(answers), 1, *rng.integers(1, len(answers) + 1, 2)]
    items = [rng.permutation(len(answers))[:size] for size in sizes]
    got = packed(network, IdTrie.of(Ragged.from_rows(answers), START, END), batch, items)
    for row, own in enumerate(items):
        want = one_by_one(network, [answers[item] for item in own], batch, row)
        np.testing.assert_allclose(got[row], want, rtol=0, atol=1e-5)


def test_an_answer_named_twice_scores_the_same_in_any_company() -> None:
    network = network_of()
    batch = to_batch(some_prompts(network, [3, 3]), padding=0)
    trie = IdTrie.of(Ragged.from_rows(ANSWERS), START, END)
    first, second = packed(network, trie, batch, [np.array([2, 5, 2]), np.arange(12)])
    assert first[0] == first[2]
    alone = packed(network, trie, to_batch(some_prompts(network, [3, 3])[:1], padding=0), [np.array([2])])
    assert first[0] == pytest.approx(alone[0][0], abs=1e-5)
    again = packed(network, trie, batch, [np.arange(12), np.arange(12)[::-1]])
    np.testing.assert_allclose(again[1][::-1], second, atol=1e-5)


def test_nodes_are_prefixes_and_shared_ones_stand_once() -> None:
    trie = IdTrie.of(Ragged.from_rows(ANSWERS), START, END)
    prefixes = {tuple(answer[:n]) for answer in ANSWERS for n in range(len(answer) + 1)}
    assert len(trie.token) == len(prefixes)
    for answer, path in zip(ANSWERS, trie.paths, strict=True):
        nodes = path[path >= 0]
        assert trie.token[nodes].tolist() == [START, *answer]
        assert trie.depth[nodes].tolist() == list(range(len(answer) + 1))
        assert trie.ancestors[nodes[-1], : len(nodes)].tolist() == nodes.tolist()
    tree = trie.pack([np.array([0, 1, 3]), np.array([9])])
    assert [len(nodes) for nodes in tree.nodes] == [4, 2] and tree.tokens.shape == (2, 4)
    assert tree.sees[0].sum(dim=1).tolist() == [1, 2, 3, 3], "a node sees its ancestors and itself"


@pytest.mark.parametrize("seed", range(5))
def test_children_allow_the_answers_and_no_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers = some_answers(rng, 30)
    trie = IdTrie.of(Ragged.from_rows(answers), START, END)
    items = rng.permutation(len(answers))[: rng.integers(1, len(answers) + 1)]
    children = trie.children(items)
    walks: list[tuple[int, ...]] = [()]
    ended = set()
    while walks:
        prefix = walks.pop()
        for token in children[prefix]:
            if token == END:
                ended.add(prefix)
            else:
                walks.append((*prefix, token))
    assert ended == {tuple(answers[item]) for item in items}
