"""VIP5's score of a request, the log-likelihood of 100 candidates' numbers, in three ways that give the same.

t5-small's shape with random weights, adapters, and two visual tokens an item; a prompt names 10 of 12,101 items. Each
way takes one request at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.benchmark_targets import Row
from experiments.launch import ROOT

ITEMS, CANDIDATES, HISTORY = 12_101, 100, 10
VOCABULARY, FEATURES = 32_100, 512


def vip5_rows(cfg: DictConfig) -> list[Row]:
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    from rerankers.training import device
    from rerankers.vip5.id_trie import IdTrie
    from rerankers.vip5.prompts import Prompts, to_batch
    from rerankers.vip5.templates import TEMPLATES

    rng = np.random.default_rng(cfg.seed)
    tokenizer = some_tokenizer()
    prompts = Prompts(tokenizer, 1 + rng.permutation(ITEMS), [""] * ITEMS, visual_tokens=2, max_length=1024)
    network = t5_small(prompts.placeholder, cfg.seed).to(device())
    trie = IdTrie.of(prompts.answers, network.t5.config.decoder_start_token_id, prompts.end)
    drawn = [rng.choice(ITEMS, HISTORY + CANDIDATES, replace=False) for _ in range(cfg.requests)]
    asked = []
    for rows in drawn:
        made = prompts.render(TEMPLATES["A-3"], {"history": rows[:HISTORY]}, {"user": "user_251"})
        answers = [torch.tensor(trie.answer(item)) for item in rows[HISTORY:]]
        labels = pad_sequence(answers, batch_first=True, padding_value=-100).to(device())
        batch = {name: tensor.to(device()) for name, tensor in to_batch([made], tokenizer.pad_token_id).items()}
        asked.append((batch, rows[HISTORY:], labels))

    def packed(batch: Any, items: np.ndarray, labels: Any) -> np.ndarray:
        tree = trie.pack([items])
        encoded = network.encode(batch)
        mask = tree.mask(network.t5.decoder)
        states = network.decode(tree.tokens.to(device()), encoded, batch["attention_mask"], mask)
        return tree.likelihoods(states, network.t5.lm_head)[0]

    def anew(batch: Any, items: np.ndarray, labels: Any) -> np.ndarray:
        copies = {name: tensor.repeat(CANDIDATES, *[1] * (tensor.dim() - 1)) for name, tensor in batch.items()}
        return -network(**copies, labels=labels).sum(dim=1).cpu().numpy()

    def expanded(batch: Any, items: np.ndarray, labels: Any) -> np.ndarray:
        encoded = network.encode(batch).expand(CANDIDATES, -1, -1)
        mask = batch["attention_mask"].expand(CANDIDATES, -1)
        states = network.decode(network.t5._shift_right(labels), encoded, mask)
        there = labels != -100
        losses = cross_entropy(network.t5.lm_head(states[there]), labels[there], reduction="none")
        return -torch.zeros(labels.shape, device=device()).masked_scatter(there, losses).sum(dim=1).cpu().numpy()

    ways = {
        "prompt encoded for each candidate": anew,
        "encoded once, repeated for each": expanded,
        "encoded once, packed (ours)": packed,
    }
    base = next(iter(ways))
    scores: dict[str, np.ndarray] = {}

    def row(what: str, way: Callable[..., np.ndarray]) -> Row:
        @torch.inference_mode()
        def run() -> int:
            scores[what] = np.stack([way(*request) for request in asked])
            return len(asked)

        return Row(what, run, "requests", None if what == base else base)

    def difference() -> str:
        apart = max(float(np.abs(one - other).max()) for one, other in combinations(scores.values(), 2))
        length = np.mean([int(batch["attention_mask"].sum()) for batch, _, _ in asked])
        sizes = (
            f"{CANDIDATES} candidates, a prompt of {length:.0f} tokens, {trie.tokens.shape[1]} at most in an answer"
        )
        return f"largest difference between the scores of two ways: {apart:.1e}; {sizes}"

    out = [row(what, way) for what, way in ways.items()]
    out[0].note = difference
    return out


def some_tokenizer() -> Any:
    """T5's own where the shared data has it, else one that splits numbers above 999."""
    from transformers import AutoTokenizer

    from rerankers.vip5.backbone import Scratch

    shared = (
        Path(os.environ.get("RERANK_SHARED_DATA", ROOT / ".." / "shared" / "data")) / "tokenizers" / "t5-tokenizer"
    )
    if shared.is_dir():
        return AutoTokenizer.from_pretrained(shared, trust_remote_code=False)
    words = "After the items what will take next ? user_ , ->".split()
    return Scratch(vocab_size=VOCABULARY).tokenizer([*words, *map(str, range(1000))], [])


def t5_small(placeholder: int, seed: int) -> Any:
    """All items have a picture."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from rerankers.vip5.network import Vip5Network, add_adapters

    torch.manual_seed(seed)
    settings: dict[str, Any] = {"vocab_size": VOCABULARY, "decoder_start_token_id": 0}
    t5 = T5ForConditionalGeneration(T5Config(**settings))  # the other sizes are t5-small's
    add_adapters(t5, reduction_factor=8)
    return Vip5Network(t5, placeholder, visual_tokens=2, features=torch.randn(ITEMS, FEATURES)).eval()
