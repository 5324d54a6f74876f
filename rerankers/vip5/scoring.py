"""How a VIP5 scores a request's candidates.

likelihood  log-probability of each candidate's number and its end after a prompt with the history alone: the
            prompt is encoded once, all candidates are decoded in one pass
list        the same after a prompt that also lists the candidates with their pictures: order-sensitive
yes_no      logit of "yes" less that of "no" after a prompt that names one candidate: a prompt for each
beam        the papers' way: what a beam search over the candidates' numbers ends with; the others tie below
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutput

from data.dataset import Requests
from rerankers.presented import presented
from rerankers.training import device
from rerankers.vip5.prompts import Prompt, to_batch
from rerankers.vip5.templates import TEMPLATES, Template

if TYPE_CHECKING:
    from rerankers.vip5.vip5 import Vip5

PACKED = 128  # candidates decoded in one row
RENDERED = 4096  # prompts of yes_no held at a time
# what may follow each beginning of a candidate's answer, and the column of each answer
Tree = tuple[dict[tuple[int, ...], list[int]], dict[tuple[int, ...], int]]
IDLE = -1e8  # sums of beams that have no candidate left are below: transformers lets them begin at -1e9
TEMPLATE_OF = {"likelihood": "A-3", "list": "D-1", "yes_no": "A-7", "beam": "A-3"}


def fits(scorer: str, template: Template) -> bool:
    """Whether the scorer can read the answer to the template."""
    if scorer == "yes_no":
        return template.answer == "yes_no"
    return template.answer == "item" and (scorer == "list") == ("candidates" in template.slots)


@dataclass
class Scoring:
    """Of some requests by a model as it is now; `turn` counts the orders in which candidates are listed, 0 is the
    requests' own."""

    reranker: Vip5
    requests: Requests
    scorer: str
    template: Template
    turn: int = 0

    def scores(self) -> np.ndarray:
        """[R, N] float32, 0 where there is no candidate."""
        out = np.zeros((len(self.requests), self.requests.width), dtype=np.float32)
        if self.scorer == "yes_no":
            self._yes_no(out)
            return out
        prompts = self.prompts()
        for batch in by_length([len(p.ids) for p in prompts], self.reranker.trainer.per_device_eval_batch_size):
            encoded, mask = self._encode([prompts[row] for row in batch])
            (self._beam if self.scorer == "beam" else self._likelihood)(batch, encoded, mask, out)
        return out

    def prompts(self) -> list[Prompt]:
        """One a request; of yes_no with its first candidate, if it has one."""
        only = slice(0, 1) if self.scorer == "yes_no" else slice(None)
        return [self._prompt(row, columns[only]) for row, columns in enumerate(self.columns)]

    @cached_property
    def columns(self) -> list[np.ndarray]:
        """The columns of each request's candidates in the order in which they are listed."""
        return presented(self.requests, self.turn, self.reranker.seed)

    def _items(self, row: int, columns: np.ndarray) -> np.ndarray:
        """Catalogue rows."""
        return columns if self.requests.candidates is None else self.requests.candidates[row, columns]

    def _prompt(self, row: int, columns: np.ndarray) -> Prompt:
        asked = self._items(row, columns)
        history = self.requests.histories.row(row)[-self.reranker.max_history :]
        items = {"history": history, "candidates": asked, "one": asked, "item": asked, "title": asked}
        name = None if self.requests.names is None else self.requests.names[row]
        return self.reranker.prompts.render(self.template, items, self.reranker.words_of(name))

    def _encode(self, prompts: list[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder states [B, L, d] and their mask [B, L]."""
        batch = {name: t.to(device()) for name, t in to_batch(prompts, self.reranker.tokenizer.pad_token_id).items()}
        return self.reranker.network.encode(batch), batch["attention_mask"]

    def _likelihood(self, batch: list[int], encoded: torch.Tensor, mask: torch.Tensor, out: np.ndarray) -> None:
        network, trie = self.reranker.network, self.reranker.trie
        columns = [self.columns[row] for row in batch]
        # what begins alike goes into one pass: of a catalogue's numbers as T5 has them half as much is to be decoded
        columns = [own[np.argsort(trie.rank[self._items(row, own)])] for row, own in zip(batch, columns, strict=True)]
        for start in range(0, max(map(len, columns)), PACKED):
            parts = [own[start : start + PACKED] for own in columns]
            packed = trie.pack([self._items(row, part) for row, part in zip(batch, parts, strict=True)])
            states = network.decode(packed.tokens.to(device()), encoded, mask, packed.mask(network.t5.decoder))
            for row, part, found in zip(batch, parts, packed.likelihoods(states, network.t5.lm_head), strict=True):
                out[row, part] = found

    def _yes_no(self, out: np.ndarray) -> None:
        network = self.reranker.network
        asked = [(row, column) for row, own in enumerate(self.columns) for column in own]
        head = network.t5.lm_head.weight[torch.from_numpy(self.reranker.prompts.yes_no()).to(device())]  # [2, d]
        start = network.t5.config.decoder_start_token_id
        for first in range(0, len(asked), RENDERED):
            part = asked[first : first + RENDERED]
            prompts = [self._prompt(row, np.array([column])) for row, column in part]
            size = 4 * self.reranker.trainer.per_device_eval_batch_size
            for batch in by_length([len(p.ids) for p in prompts], size):
                encoded, mask = self._encode([prompts[q] for q in batch])
                states = network.decode(torch.full((len(batch), 1), start, device=device()), encoded, mask)[:, 0]
                yes, no = (states.float() @ head.float().T).unbind(dim=1)
                for q, value in zip(batch, (yes - no).cpu().numpy(), strict=True):
                    out[part[q]] = value

    def _tree(self, row: int) -> Tree:
        return self._tree_of_all if self.requests.candidates is None else self._tree_of(row)

    @cached_property
    def _tree_of_all(self) -> Tree:
        return self._tree_of(0)

    def _tree_of(self, row: int) -> Tree:
        trie, columns = self.reranker.trie, self.columns[row]
        items = self._items(row, columns)
        answers = (tuple(trie.answer(item)) for item in items)
        return trie.children(items), dict(zip(answers, columns.tolist(), strict=True))

    def _beam(self, batch: list[int], encoded: torch.Tensor, mask: torch.Tensor, out: np.ndarray) -> None:
        """Log-probabilities of what the beams end with; what they do not reach is 1 below the least of these."""
        trie, end = self.reranker.trie, self.reranker.prompts.end
        allowed, column_of = zip(*(self._tree(row) for row in batch), strict=True)
        n = max(2, min(self.reranker.beams, max(map(len, column_of))))  # a row with fewer candidates has idle beams
        t5: Any = self.reranker.network.t5
        found = t5.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
            attention_mask=mask,
            num_beams=n,
            num_return_sequences=n,
            max_new_tokens=trie.tokens.shape[1],
            length_penalty=0.0,  # sums, not means
            do_sample=False,
            prefix_allowed_tokens_fn=lambda b, ids: allowed[b].get(tuple(ids[1:].tolist()), [end]),
            return_dict_in_generate=True,
            output_scores=True,
        )
        written = found.sequences[:, 1:].view(len(batch), n, -1).cpu().numpy()
        values = found.sequences_scores.view(len(batch), n).float().cpu().numpy()
        for b, row in enumerate(batch):
            reached: dict[int, float] = {}
            for ids, value in zip(written[b], values[b].tolist(), strict=True):
                column = column_of[b].get(tuple(ids[: 1 + int((ids == end).argmax())].tolist()))
                if column is not None and value > IDLE:
                    reached[column] = value
            out[row, self.columns[row]] = min(reached.values(), default=0) - 1
            for column, value in reached.items():
                out[row, column] = value


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Batches of rows of like length."""
    order = np.argsort(lengths, kind="stable")
    if parts := math.ceil(len(order) / size):
        yield from (batch.tolist() for batch in np.array_split(order, parts))


def loss(reranker: Vip5, requests: Requests) -> float:
    """Mean negative log-likelihood of the one candidate that each request has, after a prompt with the history."""
    return -float(Scoring(reranker, requests, "likelihood", TEMPLATES["A-3"]).scores().mean())
