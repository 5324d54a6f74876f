"""The answers of a catalogue as a tree of their tokens, so that what candidates share is decoded once.

A node is the decoder's input after so many tokens of an answer; the root is the start. An answer's likelihood is read
along its path: each token at its parent, the end at its last node. Packed side by side with a mask by which a node
sees its ancestors alone, the nodes give what decoding each answer by itself does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from data.dataset import Ragged


@dataclass(frozen=True)
class IdTrie:
    """`paths` [I, D + 1] node after each token, the root first, -1 after the last; `tokens` [I, D + 1] int64 the
    answer and its end, -1 after it; `token` [nodes] the node's own token, the root's is the decoder's start."""

    paths: np.ndarray
    tokens: np.ndarray
    token: np.ndarray

    @staticmethod
    def of(answers: Ragged, start: int, end: int) -> IdTrie:
        depth = int(answers.lengths.max())
        tokens = np.full((len(answers), depth + 1), -1, dtype=np.int64)
        row, place = (
            answers.row_of_value,
            np.arange(len(answers.values)) - np.repeat(answers.offsets[:-1], answers.lengths),
        )
        tokens[row, place] = answers.values
        paths = np.full((len(answers), depth + 1), -1, dtype=np.int64)
        paths[:, 0] = 0
        own = [start]
        for d in range(depth):
            there = np.flatnonzero(tokens[:, d] >= 0)
            step, node = np.unique(np.stack([paths[there, d], tokens[there, d]], axis=1), axis=0, return_inverse=True)
            paths[there, d + 1] = node + len(own)
            own += step[:, 1].tolist()
        tokens[np.arange(len(answers)), answers.lengths] = end
        return IdTrie(paths, tokens, np.array(own))

    @cached_property
    def depth(self) -> np.ndarray:
        """[nodes] tokens before it; the root has 0."""
        out = np.zeros(len(self.token), dtype=np.int64)
        for d in range(self.paths.shape[1]):
            out[self.paths[self.paths[:, d] >= 0, d]] = d
        return out

    @cached_property
    def ancestors(self) -> np.ndarray:
        """[nodes, D + 1] the path to each node, itself included, -1 after it."""
        out = np.full((len(self.token), self.paths.shape[1]), -1, dtype=np.int64)
        for d in range(self.paths.shape[1]):
            rows = self.paths[self.paths[:, d] >= 0]
            out[rows[:, d], : d + 1] = rows[:, : d + 1]
        return out

    @cached_property
    def rank(self) -> np.ndarray:
        """[I] place of each answer among all, sorted by their tokens: neighbours begin alike."""
        out = np.empty(len(self.tokens), dtype=np.int64)
        out[np.lexsort(self.tokens.T[::-1])] = np.arange(len(out))
        return out

    def answer(self, item: int) -> list[int]:
        """Its tokens, the end included."""
        return self.tokens[item][self.tokens[item] >= 0].tolist()

    def children(self, items: np.ndarray) -> dict[tuple[int, ...], list[int]]:
        """Prefix of an answer -> tokens that go on to one of these items, the end included."""
        out: dict[tuple[int, ...], set[int]] = {}
        for item in items:
            ended = self.answer(item)
            for length, token in enumerate(ended):
                out.setdefault(tuple(ended[:length]), set()).add(token)
        return {prefix: sorted(tokens) for prefix, tokens in out.items()}

    def pack(self, items: list[np.ndarray]) -> Packed:
        """One row for each list of catalogue rows."""
        nodes = [np.unique(self.paths[rows][self.paths[rows] >= 0]) for rows in items]
        width = max(map(len, nodes))
        padded = np.zeros((len(nodes), width), dtype=np.int64)  # padding is one more root
        sees = np.zeros((len(nodes), width, width), dtype=bool)
        sees[:, :, 0] = True
        for b, own in enumerate(nodes):
            padded[b, : len(own)] = own
            chain = self.ancestors[own]
            row, place = np.nonzero(chain >= 0)
            sees[b, row, np.searchsorted(own, chain[row, place])] = True
        return Packed(
            self, items, nodes, torch.from_numpy(self.token[padded]), torch.from_numpy(sees), self.depth[padded]
        )


@dataclass(frozen=True)
class Packed:
    trie: IdTrie
    items: list[np.ndarray]
    nodes: list[np.ndarray]  # sorted; the root is the first
    tokens: torch.Tensor  # [B, P] of the decoder
    sees: torch.Tensor  # [B, P, P] bool, which nodes are ancestors
    depth: np.ndarray  # [B, P]

    def mask(self, decoder: nn.Module) -> torch.Tensor:
        """[B, H, P, P] float, to be added to the attention's logits. T5 adds a bias of the distance between places;
        that is replaced by the bias of the distance along the path, so that packing changes nothing."""
        attention = decoder.block[0].layer[0].SelfAttention  # type: ignore[index, union-attr]
        width, device = self.tokens.shape[1], attention.relative_attention_bias.weight.device
        depth = torch.from_numpy(self.depth).to(device)
        by_place = attention.compute_bias(width, width, device=device)  # [1, H, P, P]
        longest = self.trie.paths.shape[1]
        by_depth = attention.compute_bias(longest, longest, device=device)[0]  # [H, D, D]
        along = by_depth[:, depth[:, :, None], depth[:, None, :]].transpose(0, 1)  # [B, H, P, P]
        return (along - by_place).masked_fill(~self.sees.to(device)[:, None], torch.finfo(along.dtype).min)

    def likelihoods(self, states: torch.Tensor, lm_head: nn.Module) -> list[np.ndarray]:
        """Log-probability of each row's answers, from the states [B, P, d] of the nodes."""
        out = []
        for b, (rows, own) in enumerate(zip(self.items, self.nodes, strict=True)):
            logits = lm_head(states[b, : len(own)]).float()  # [nodes, V]
            paths, tokens = self.trie.paths[rows], self.trie.tokens[rows]
            at = torch.from_numpy(np.searchsorted(own, np.maximum(paths, 0))).to(logits.device)
            asked = torch.from_numpy(np.maximum(tokens, 0)).to(logits.device)
            of_token = logits[at, asked] - logits.logsumexp(dim=-1)[at]
            there = torch.from_numpy(tokens >= 0).to(logits.device)
            out.append(torch.where(there, of_token, 0).sum(dim=1).cpu().numpy())
        return out
