"""The verbalizer: which token of the model's vocabulary stands for which candidate (LlamaRec, arXiv 2311.02089).

A label's token is what the tokenizer adds when the label follows the prompt, not what it makes of the label alone:
these differ for some tokenizers, and scores would then be read from tokens that were never trained.
"""

from __future__ import annotations

import string
from typing import Any

import numpy as np

from data.errors import UserError

LETTERS = string.ascii_uppercase + string.ascii_lowercase  # 52


def letter_range(n: int) -> str:
    """How n labels are named in the prompt: A, A-T, A-Z, "A-Z, a", "A-Z, a-x"."""
    first, rest = min(n, 26), n - 26
    upper = "A" if first == 1 else f"A-{LETTERS[first - 1]}"
    return upper if rest <= 0 else f"{upper}, a" if rest == 1 else f"{upper}, a-{LETTERS[n - 1]}"


def letters(n: int) -> list[str]:
    if n > len(LETTERS):
        raise UserError(
            f"{n} candidates need {n} labels, and there are {len(LETTERS)} letters (A-Z, a-z); give at most "
            f"{len(LETTERS)} (candidates.size={len(LETTERS)}), or use reranker.order=invariant, which needs no letters"
        )
    return list(LETTERS[:n])


def label_ids(tokenizer: Any, prompt: str, labels: list[str]) -> np.ndarray:
    """Token ids [n] of the labels as answers to `prompt`: single and distinct, or a UserError that names the letters.

    Tried in this order, each for all labels at once: the label right after the prompt, after a blank, by itself.
    """
    before = tokenizer(prompt, add_special_tokens=False).input_ids

    def added(text: str) -> list[int]:
        after = tokenizer(prompt + text, add_special_tokens=False).input_ids
        return after[len(before) :] if after[: len(before)] == before else []

    ways = (
        added,
        lambda label: added(f" {label}"),
        lambda label: tokenizer.encode(label, add_special_tokens=False),
    )
    failures = []
    for way in ways:
        found = {label: way(label) for label in labels}
        several = [label for label, ids in found.items() if len(ids) != 1 or ids[0] == tokenizer.unk_token_id]
        tokens = [ids[0] for label, ids in found.items() if label not in several]
        same = [label for label, ids in found.items() if label not in several and tokens.count(ids[0]) > 1]
        if not several and not same:
            return np.array(tokens)
        failures.append(several + same)
    fewest = min(failures, key=len)
    raise UserError(
        f"the tokenizer has no single, distinct token for the labels {' '.join(fewest)} "
        f"({len(labels) - len(fewest)} of {len(labels)} found); use fewer candidates (candidates.size), another "
        "reranker.model or reranker.order=invariant"
    )
