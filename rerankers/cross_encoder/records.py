"""What is told of a cross-encoder: the pairs it reads, facts for the diagnosis, and all settings of its training."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from data.dataset import Requests
from data.texts import item_texts
from rerankers.cross_encoder.pairs import Pair
from rerankers.cross_encoder.trainer import half_precision
from rerankers.training import device, training_facts

if TYPE_CHECKING:
    from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker


def pairs_of(reranker: CrossEncoderReranker, requests: Requests) -> list[list[Pair]]:
    """Of each request."""
    texts, items = item_texts(requests.catalog, reranker.item_text), reranker.items(requests)
    queries = reranker.queries(requests)
    return [[(query, texts[item]) for item in row[row >= 0]] for query, row in zip(queries, items, strict=True)]


def inputs(reranker: CrossEncoderReranker, requests: Requests) -> list[str]:
    """The pairs of a request as the model has them, a line each; empty without a candidate."""
    pairs, decode = reranker.network.pairs, reranker.network.tokenizer.decode
    out = []
    for own in pairs_of(reranker, requests):
        lines = [pairs.batch([parts])["input_ids"][0] for parts in pairs.of(own)]
        out.append("\n".join(decode(ids) for ids in lines))
    return out


def lengths(reranker: CrossEncoderReranker, requests: Requests) -> dict[str, np.ndarray]:
    """Tokens of each request's longest pair, that of its longest text, and whether that is shortened."""
    pairs, items = reranker.network.pairs, reranker.items(requests)
    texts, listed = item_texts(requests.catalog, reranker.item_text), np.unique(items[items >= 0])
    size = np.zeros(len(texts) + 1, dtype=np.int64)  # the last is of padding
    size[listed] = pairs.sizes([texts[item] for item in listed])
    longest = items[np.arange(len(items)), size[items].argmax(axis=1)]
    own = [(query, texts[item]) for query, item in zip(reranker.queries(requests), longest, strict=True) if item >= 0]
    out = np.zeros((2, len(items)), dtype=np.int64)
    if own:
        out[:, longest >= 0] = [pairs.length(parts) for parts in pairs.of(own)], pairs.shortened(own)
    return {"prompt_lengths": out[0], "shortened": out[1].astype(bool)}


def facts(reranker: CrossEncoderReranker, requests: Requests) -> dict[str, np.ndarray]:
    dev = {}
    if hasattr(reranker, "dev_metrics") and reranker.loss == "bce":  # other losses leave logits without a zero
        dev = {"dev_metrics": np.array(list(reranker.dev_metrics.values()))}
    return training_facts(reranker, reranker.network) | dev | lengths(reranker, requests)


def reports(reranker: CrossEncoderReranker) -> dict[str, dict[str, Any]]:
    """training_info.json and dev_metrics.json of the run folder."""
    if not hasattr(reranker, "used"):
        return {}
    dev = {"dev_metrics.json": reranker.dev_metrics} if hasattr(reranker, "dev_metrics") else {}
    return {"training_info.json": training_info(reranker), **dev}


def training_info(reranker: CrossEncoderReranker) -> dict[str, Any]:
    """Of a trained one; where the batch did not fit, the one that did stands beside it."""
    settings = {k: v for k, v in asdict(reranker).items() if k not in ("trainer", "checkpoints", "cache")}
    used, rows = reranker.used, reranker.rows
    batch, steps = used.per_device_train_batch_size, used.gradient_accumulation_steps
    return {
        "reranker": settings,
        "trainer": asdict(reranker.trainer),
        "batch_that_fitted": {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps},
        "effective_batch_size": batch * steps,
        "mixed_precision": half_precision(reranker) or "none",
        "positive_weight": reranker.positive_weight,
        "training_groups": len(rows.owner),
        "training_rows": len(rows),
        "texts_a_group": rows.size,
        "device": str(device()),
        "model_revision": getattr(reranker.network.config, "_commit_hash", None),  # of the hub
    }
