"""VIP5 small enough for tests: random T5s, and a tokenizer of few words with numbers of one to three pieces."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from data.dataset import Dataset
from data.splits import Split
from rerankers.base import TrainerConfig
from rerankers.vip5.backbone import Scratch
from rerankers.vip5.network import Vip5Network, add_adapters, freeze_backbone
from rerankers.vip5.prompts import Prompt, Prompts, begins_word
from rerankers.vip5.templates import TEMPLATES
from rerankers.vip5.vip5 import Vip5

SMALL = Scratch(d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=2)
WORDS = ["user_ item_ yes no , -> . 1 2 3 4 5 6 7 8 9 0 12"]  # 12 is one piece, 123 two, 34 two and 345 three
TEXTS = [template.text for template in TEMPLATES.values()]
TOKENIZER = SMALL.tokenizer(WORDS, TEXTS)
PICTURES = 6  # values of a picture's features


def tokenizer_of(shared: Path | None) -> Any:
    """The real one of T5, or the tests' own."""
    return (
        AutoTokenizer.from_pretrained(shared / "tokenizers" / "t5-tokenizer", trust_remote_code=False)
        if shared
        else TOKENIZER
    )


def features_of(n_items: int, missing: tuple[int, ...] = (), seed: int = 0) -> torch.Tensor:
    features = torch.randn(n_items, PICTURES, generator=torch.Generator().manual_seed(seed))
    features[list(missing)] = torch.nan
    return features


def network_of(
    seed: int = 0,
    n_items: int = 12,
    missing: tuple[int, ...] = (),
    visual_tokens: int = 2,
    reduction_factor: int = 0,  # of adapters; 0: there are none, and all is trained
    **settings: Any,
) -> Vip5Network:
    """In evaluation mode. Places matter in it: a trained T5's biases of places are as large."""
    torch.manual_seed(seed)
    t5 = SMALL.model(TOKENIZER)
    for stack in (t5.encoder, t5.decoder):
        torch.nn.init.normal_(stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight, std=3)
    if reduction_factor:
        add_adapters(t5, reduction_factor)
    features = features_of(n_items, missing, seed)
    placeholder = TOKENIZER.convert_tokens_to_ids("<extra_id_0>")
    network = Vip5Network(t5, placeholder, visual_tokens, features, words=64, **settings)
    if reduction_factor:
        freeze_backbone(network, layer_norms=True, whole_words=False, categories=False)
    return network.eval()


def disturb(network: Vip5Network, seed: int = 0) -> Vip5Network:
    """All that is trained is moved, adapters from the identity among it."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.3)
    return network


def some_prompts(network: Vip5Network, counts: list[int], seed: int = 0, n_items: int = 12) -> list[Prompt]:
    """Of random words, `counts[n]` of them items with their placeholders."""
    rng = np.random.default_rng(seed)
    visual = np.full(network.visual_tokens, network.placeholder)
    out = []
    for count in counts:
        words = [np.append(rng.integers(5, len(TOKENIZER) - 1, rng.integers(1, 4)), visual) for _ in range(count)]
        ids = np.concatenate([rng.integers(5, len(TOKENIZER) - 1, 3), *words, [TOKENIZER.eos_token_id]])
        numbers = np.append(np.cumsum(begins_word(TOKENIZER)[ids[:-1]]), 0)
        pictures = rng.integers(0, n_items, count if network.visual_tokens else 0)
        out.append(Prompt(ids.astype(np.int32), numbers.astype(np.int32), pictures.astype(np.int32)))
    return out


def prompts_of(tokenizer: Any, visual_tokens: int = 2, max_length: int = 512) -> Prompts:
    """Twelve items whose numbers share beginnings, each with a title."""
    numbers = np.array([1, 12, 123, 124, 2, 23, 234, 34, 345, 3456, 5, 251])
    titles = [f"Blue hat {n}" for n in range(len(numbers))]
    return Prompts(tokenizer, numbers, titles, visual_tokens, max_length)


def make(tmp_path: Path, **settings: Any) -> Vip5:
    """From nothing, with one visual token; nothing is trained yet."""
    trainer = TrainerConfig(num_train_epochs=1, per_device_eval_batch_size=4, metric_for_best_model="recall_at_10")
    places: dict[str, Any] = {"checkpoints": tmp_path / "checkpoints", "cache": tmp_path / "cache"}
    small: dict[str, Any] = {"init": "scratch", "scratch": SMALL, "visual_tokens": 1, "training_candidates": 10}
    return Vip5(name="vip5", **{"trainer": trainer, **places, **small, **settings})


def built(tmp_path: Path, dataset: Dataset, split: Split, **settings: Any) -> Vip5:
    """With weights that tell items apart, and half of the numbers of two to four tokens: 13 and 131 are `13` and
    `13 1`."""
    reranker = make(tmp_path, **settings)
    reranker.build(dataset, split)
    half = len(dataset.catalog) // 2
    for item, n in reranker.item_number.items():
        reranker.item_number[item] = n if n <= half else (n - half) * 100 + n
    reranker._read(dataset.catalog)
    disturb(reranker.network).eval()
    return reranker
