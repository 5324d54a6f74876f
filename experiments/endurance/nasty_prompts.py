"""Odd texts before every reranker that reads text: the structure of each prompt, then whole trainings on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from data.texts import item_texts
from experiments.endurance.nasty_texts import (
    TITLES,
    catalogue,
    files_of,
    letter_broken,
    pairs_broken,
    vip5_broken,
)  # fmt: skip
from experiments.endurance.outcome import Endurance, Outcome
from experiments.endurance.small import SMALL, run
from experiments.endurance.text_tokenizers import tokenizers_for

STEPS = [
    "tracking=none", "diagnose=off", "trainer.max_steps=3", "trainer.eval_strategy=no", "trainer.logging_steps=1",
    "trainer.per_device_train_batch_size=4", "candidates.size=20", "candidates/retriever=popularity",
]  # fmt: skip
LETTERS, PAIRS = ["reranker=qwen_letter", *SMALL["qwen_letter"]], ["reranker=viranker", *SMALL["viranker"]]
NO_PICTURES = "reranker.visual_tokens=0"
VIP5 = ["reranker=vip5", *(word for word in SMALL["vip5"] if "visual_tokens" not in word), NO_PICTURES]
TITLED = ["reranker.scorer=yes_no", "reranker.template=B-3"]  # a prompt with the candidate's title
QUERIES = ["protocol=query_folds", "protocol.folds=2", "protocol.fold=0"]
TRAININGS = {
    "qwen_letter": [*LETTERS, "dataset=sequences"],
    "qwen_letter, two orders": [*LETTERS, "dataset=sequences", "reranker.permutations=2"],
    "qwen_letter, order=invariant": [*LETTERS, "dataset=sequences", "reranker.order=invariant"],
    "viranker": [*PAIRS, "dataset=sequences"],
    "vip5, asked by title": [*VIP5, *TITLED, "dataset=sequences"],
    "vip5, explanations": [
        *VIP5,
        "dataset=amazon_reviews",
        "dataset.missing_titles=keep",
        "dataset.reviews=reviews.json",
        "dataset.metadata=meta.json",
    ],
    "qwen_letter, passages": [*LETTERS, *QUERIES, "dataset=passages"],
    "viranker, passages": [*PAIRS, *QUERIES, "dataset=passages"],
}


def cases(settings: Endurance) -> Iterator[Outcome]:
    yield from structures(settings.scratch / "titles")
    files_of(settings.scratch / "texts", TITLES)
    for number, (name, words) in enumerate(TRAININGS.items()):
        if name.partition(",")[0] in settings.rerankers:
            wrong = trained(settings.scratch / "texts", settings.scratch / f"root{number}", words)
            lost = "a training" if wrong else "nothing"
            yield Outcome("odd texts: a training and its scores", 1, int(not wrong), lost, failures=wrong)


def structures(folder: Path) -> Iterator[Outcome]:
    catalog = catalogue(folder, TITLES).catalog
    texts = item_texts(catalog)
    for kind in ("letter", "pairs", "vip5"):
        for name, tokenizer in tokenizers_for(kind, texts).items():
            if kind == "letter":
                found = {order: letter_broken(tokenizer, catalog, 512, order) for order in (False, True)}
                broken, tried = [*found[False], *found[True]], 2 * len(texts)
            elif kind == "pairs":
                broken, tried = pairs_broken(tokenizer, texts, 128), len(texts)
            else:
                broken, tried = vip5_broken(tokenizer, catalog, 512), len(texts)
            lost = "the structure of a prompt" if broken else "nothing"
            failures = [f"{kind}, tokenizer {name}: the text {text}" for text in broken]
            yield Outcome("odd texts: the structure of a prompt", tried, tried - len(broken), lost, failures=failures)


def trained(data: Path, root: Path, words: list[str]) -> list[str]:
    """What is wrong with a training on the texts; nothing: it ended, and every score is a number."""
    ended = run("train.py", *words, *STEPS, f"dataset.path={data}", f"paths.root={root}")
    if ended.returncode or "Traceback" in ended.stderr:
        return [f"{words[0]}: exit code {ended.returncode}: {ended.stderr[-300:]}"]
    (folder,) = (root / "runs").iterdir()
    scores = pd.read_parquet(folder / "predictions.parquet")["score"]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    right = len(scores) and np.isfinite(scores).all() and np.isfinite(list(metrics.values())).all()
    return [] if right else [f"{words[0]}: a score or metric that is not finite"]
