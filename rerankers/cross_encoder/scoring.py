"""Scores of requests and of pairs: float32 logits, in batches of like length under a budget of tokens."""

from __future__ import annotations

import gc
import logging
import re
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data.dataset import Requests
from data.errors import UserError
from data.progress import bar
from data.texts import item_texts
from rerankers.cross_encoder.network import PairEncoder, scoring_in
from rerankers.cross_encoder.pairs import Pair
from rerankers.pretrained import quiet
from rerankers.training import device

if TYPE_CHECKING:
    from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BUDGET = {"cpu": 4096, "cuda": 65_536}  # tokens of a batch
PAIRS = 2**16  # of requests, put together at a time
CHUNK = 2**14  # pairs whose tokens are put together
WORST = float(np.finfo(np.float32).min)  # score of padding
REFUSED = ("DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def score_requests(reranker: CrossEncoderReranker, requests: Requests) -> np.ndarray:
    """[R, N] float32 logits."""
    texts = item_texts(requests.catalog, reranker.item_text)
    scores = np.full((len(requests), requests.width), WORST, dtype=np.float32)
    step = max(1, PAIRS // max(1, requests.width))
    for start in bar(range(0, len(requests), step), "asking the model"):
        part = requests.take(slice(start, start + step))
        items = reranker.items(part)  # [R, N]
        row, column = np.nonzero(items >= 0)
        reranker.network.pairs.keep([texts[item] for item in np.unique(items[row, column])])
        queries = reranker.queries(part)
        pairs = [(queries[r], texts[items[r, c]]) for r, c in zip(row, column, strict=True)]
        scores[start + row, column] = reranker.score_pairs(pairs)
    return scores


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
    alone), and where the tokenizer does not know a sign (with transformers 5 it reads its own decoded tokens). Names
    of special tokens are blanks in the texts that it is given, for it would read the tokens."""

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
            self.flag: Any = FlagReranker(
                folder, use_fp16=False, trust_remote_code=False, devices=[place], max_length=longest
            )
        self.flag.model = network[0].model  # one set of weights, also when it is trained on
        self.special = re.compile("|".join(map(re.escape, network.tokenizer.all_special_tokens)))

    def score(self, pairs: Sequence[Pair], batch_size: int) -> np.ndarray:
        if not pairs:
            return np.zeros(0, dtype=np.float32)
        texts = [[self.special.sub(" ", text) for text in pair] for pair in pairs]
        scores = self.flag.compute_score(texts, batch_size=batch_size)
        return np.asarray(scores, dtype=np.float32).reshape(-1)
