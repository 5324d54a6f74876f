"""Cross-encoders small enough for tests: random ones in the hub's layout, and a finished run."""

from pathlib import Path
from typing import Any

import torch
from conftest import only_run
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from experiments.launch import ROOT
from rerankers.word_tokenizer import word_tokenizer
from train import train

TEXTS = [
    "Câu lạc bộ Lập trình PTIT được thành lập năm 2011",
    "Slogan của câu lạc bộ: lập trình từ trái tim",
    "Thành viên được chọn qua ba vòng, rồi học thuật toán",
    "The club was founded in 2011; it teaches algorithms (and C++)",
    "Tiêu chí là gì?",
]
PASSAGES = [
    "dataset=demo_passages", "dataset.n_passages=60", "dataset.n_queries=80", "protocol=query_folds",
    "protocol.fold=0", "protocol.max_requests=12", "protocol.max_validation_requests=8", "candidates/retriever=bm25",
    "candidates.size=10", "trainer.max_steps=4", "trainer.eval_strategy=steps", "trainer.eval_steps=4", "diagnose=off",
]  # fmt: skip
SMALL = [
    "reranker.init=scratch", "reranker.scratch.hidden_size=16", "reranker.scratch.num_hidden_layers=1",
    "reranker.scratch.num_attention_heads=2", "reranker.scratch.intermediate_size=32", "reranker.max_length=64",
]  # fmt: skip


def random_cross_encoder(folder: Path, kind: str = "xlm-roberta", labels: int = 1, seed: int = 0) -> Path:
    """Wide random weights, so that texts get different scores."""
    torch.manual_seed(seed)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = word_tokenizer(TEXTS, 500, special, lower=True)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "initializer_range": 0.3, "max_position_embeddings": 66, "type_vocab_size": 2,
        "pad_token_id": 1, "num_labels": labels,
    }  # fmt: skip
    model: Any = (
        BertForSequenceClassification(BertConfig(**shape))
        if kind == "bert"
        else XLMRobertaForSequenceClassification(XLMRobertaConfig(**shape, bos_token_id=0, eos_token_id=2))
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def composed(root: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [f"paths.root={root}", "tracking=none", *PASSAGES, *overrides])


def finished_run(root: Path, *overrides: str) -> Path:
    """The folder of a run of `viranker` from nothing on a few of the demo's passages."""
    train(composed(root, "reranker=viranker", *SMALL, *overrides))
    return only_run(root)
