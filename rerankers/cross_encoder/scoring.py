"""Scores of (query, text) pairs: float32 logits, in batches of like length under a budget of tokens."""

from __future__ import annotations

import gc
import logging
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from data.errors import UserError
from data.progress import bar
from rerankers.cross_encoder.network import PairEncoder, scoring_in
from rerankers.cross_encoder.pairs import Pair
from rerankers.pretrained import quiet
from rerankers.training import device

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BUDGET = {"cpu": 4096, "cuda": 65_536}  # tokens of a batch
CHUNK = 2**14  # pairs whose tokens are put together
REFUSED = ("DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


@torch.inference_mode()
def score_pairs(network: PairEncoder, pairs: Sequence[Pair], dtype: str, budget: int | None) -> np.ndarray:
    """[P] float32. Out of memory halves the budget of what is left, down to single pairs."""
    out = np.empty(len(pairs), dtype=np.float32)
    tokens = budget or BUDGET[device().type]
    with scoring_in(network, DTYPES[dtype]):
        for start in bar(range(0, len(pairs), CHUNK), "reading pairs"):
            parts = network.pairs.of(pairs[start : start + CHUNK])
            left = np.arange(len(parts))
            while len(left):
                todo = [left[batch] for batch in network.pairs.batches([parts[p] for p in left], tokens)]
                left = left[:0]
                for number, rows in enumerate(bar(todo, "scoring pairs")):
                    logits = _logits(network, [parts[row] for row in rows])
                    if logits is None:
                        half = (len(rows) + 1) // 2
                        log.warning("out of memory with %d pairs at once: going on with %d", len(rows), half)
                        tokens, left = half * network.pairs.length(parts[rows[0]]), np.concatenate(todo[number:])
                        break
                    out[start + rows] = logits
    return out


def _logits(network: PairEncoder, parts: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray | None:
    """[P], or None without the memory for them."""
    try:
        features = {name: x.to(device()) for name, x in network.pairs.batch(parts).items()}
        return type(network).forward(network, features)["scores"].view(-1).float().cpu().numpy()  # not autocast
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        if len(parts) == 1:
            raise UserError(
                f"out of memory with a single pair of {network.pairs.length(parts[0])} tokens; give a smaller "
                "reranker.max_length, reranker.dtype=bfloat16, or a smaller reranker.model"
            ) from None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def out_of_memory(error: BaseException) -> bool:
    """Of a GPU, or of a CPU in torch's own words."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in REFUSED)


def free_memory() -> None:
    """Also what refers to itself, as a Trainer does."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class FlagScorer:
    """FlagEmbedding's FlagReranker around the same weights. Its scores differ from ours where a pair is shortened (it
    cuts the query at three quarters of `max_length`, then the text alone), where a text is empty (it reads the query
    alone), and where the tokenizer does not know a sign (with transformers 5 it reads its own decoded tokens)."""

    def __init__(self, network: PairEncoder) -> None:
        try:
            from FlagEmbedding import FlagReranker
        except ImportError as error:
            raise UserError(
                f"reranker.backend=flag needs FlagEmbedding ({error}): pip install FlagEmbedding"
            ) from None
        with tempfile.TemporaryDirectory() as folder, quiet():
            network.save_pretrained(folder, create_model_card=False)
            place, longest = str(device()), network.pairs.max_length
            self.flag: Any = FlagReranker(folder, use_fp16=False, devices=[place], max_length=longest)
        self.flag.model = network[0].model  # one set of weights, also when it is trained on

    def score(self, pairs: Sequence[Pair], batch_size: int) -> np.ndarray:
        if not pairs:
            return np.zeros(0, dtype=np.float32)
        scores = self.flag.compute_score([list(pair) for pair in pairs], batch_size=batch_size)
        return np.asarray(scores, dtype=np.float32).reshape(-1)
