"""Asking a trained or zero-shot model: prompts in batches of like length, logits back in the requests' columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax

from data.dataset import Requests
from rerankers.letter.labels import LETTERS
from rerankers.letter.prompt import NOTHING, Prompt
from rerankers.letter.rows import to_batch
from rerankers.letter.trainer import candidate_logits
from rerankers.presented import presented
from rerankers.training import device

if TYPE_CHECKING:
    from rerankers.letter.letter import LetterReranker

BLOCKS = 64  # candidates of one invariant prompt; more are asked in several
CELLS = 2**26  # of the attention mask of a batch of invariant prompts


class Asking:
    """Of a model as it is now: what is kept here (the labels' biases) does not outlive one scoring."""

    def __init__(self, reranker: LetterReranker) -> None:
        self.reranker = reranker
        self.biases: dict[tuple[int, bool], np.ndarray] = {}

    def prompts(self, requests: Requests) -> list[Prompt]:
        """One a request, with its candidates as presented."""
        return [
            self.prompt(requests, row, order) for row, order in enumerate(presented(requests, 0, self.reranker.seed))
        ]

    def prompt(self, requests: Requests, row: int, columns: np.ndarray) -> Prompt:
        history = requests.histories.row(row)[-self.reranker.max_history :]
        items = columns if requests.candidates is None else requests.candidates[row, columns]
        query = None if requests.queries is None else requests.queries[row]
        return self.reranker.prompts.render(history, items, query)

    def scores(self, requests: Requests, turn: int) -> np.ndarray:
        """[R, N] float32 in the requests' own columns: logits, log-probabilities where permutations are averaged."""
        size = BLOCKS if self.reranker.invariant else len(LETTERS)
        questions = [
            (row, order[start : start + size])
            for row, order in enumerate(presented(requests, turn, self.reranker.seed))
            for start in range(0, len(order), size)
        ]
        prompts = [self.prompt(requests, row, asked) for row, asked in questions]
        out = np.zeros((len(requests), requests.width), dtype=np.float32)
        by_length = sorted(range(len(prompts)), key=lambda q: (len(prompts[q].ids), len(questions[q][1])))
        for batch in self.batches(by_length, prompts):
            logits = self.logits([prompts[q] for q in batch], max(len(questions[q][1]) for q in batch))
            for q, own in zip(batch, logits, strict=True):
                row, asked = questions[q]
                values = own[: len(asked)]
                if self.reranker.calibration == "content_free":
                    values = log_softmax(values) - self.bias(len(asked), requests.queries is not None)
                out[row, asked] = log_softmax(values) if self.reranker.permutations > 1 else values
        return out

    def batches(self, by_length: list[int], prompts: list[Prompt]) -> Iterator[list[int]]:
        """Batches of prompts of like length; invariant ones, whose mask grows with the square, in smaller ones."""
        start = 0
        while start < len(by_length):
            size = self.reranker.trainer.per_device_eval_batch_size
            if self.reranker.invariant:
                longest = len(prompts[by_length[min(start + size, len(by_length)) - 1]].ids)
                size = max(1, min(size, CELLS // longest**2))
            yield by_length[start : start + size]
            start += size

    def logits(self, prompts: list[Prompt], n: int) -> np.ndarray:
        """[B, n] float32; columns beyond a prompt's own candidates mean nothing."""
        invariant = self.reranker.invariant
        batch = {name: tensor.to(device()) for name, tensor in to_batch(prompts, invariant).items()}
        logits = self.reranker.network(**batch, tokens=self.reranker.answer_tokens(n))
        return candidate_logits(logits, invariant).cpu().numpy()

    def bias(self, n: int, of_query: bool) -> np.ndarray:
        """Log-probabilities of the labels after a prompt of which every item, or query, is "N/A" (CapCal, arXiv
        2604.10150)."""
        if (n, of_query) not in self.biases:
            nothing = np.array([self.reranker.prompts.nothing])
            history, query = (nothing[:0], NOTHING) if of_query else (nothing, None)
            empty = self.reranker.prompts.render(history, nothing.repeat(n), query)
            self.biases[n, of_query] = log_softmax(self.logits([empty], n)[0])
        return self.biases[n, of_query]
