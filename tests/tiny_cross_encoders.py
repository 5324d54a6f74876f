"""A cross-encoder of a few Vietnamese texts as a folder of the hub's layout, and a finished run of one."""

from pathlib import Path
from typing import Any

from conftest import only_run
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from tiny_pairs import folder_of

from experiments.launch import ROOT
from rerankers.cross_encoder.network import SPECIAL
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


def random_cross_encoder(folder: Path, family: str = "xlmr", **settings: Any) -> Path:
    """It knows the words of TEXTS."""
    return folder_of(family, word_tokenizer(TEXTS, 500, SPECIAL, lower=True), folder, **settings)


def composed(root: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [f"paths.root={root}", "tracking=none", *PASSAGES, *overrides])


def finished_run(root: Path, *overrides: str) -> Path:
    """The folder of a run of `viranker` from nothing on a few of the demo's passages."""
    train(composed(root, "reranker=viranker", *SMALL, *overrides))
    return only_run(root)
