"""Explanations in a VIP5's own words, and how near they are to what reviewers wrote.

Held-out reviews are asked about with one prompt of training and the one that training never sees, as in the papers.
Beside them stands what knows neither user nor item: the most frequent training sentence, written for everybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutput

from data.progress import bar
from rerankers.vip5.explanation_metrics import explanation_metrics
from rerankers.vip5.explanations import Reviews
from rerankers.vip5.network import Vip5Network
from rerankers.vip5.prompts import Prompt, Prompts, to_batch
from rerankers.vip5.templates import TEMPLATES

ASKED = ("C-3", "C-12")  # seen and unseen
BASELINE = "most_frequent"
EXAMPLES = 5
HELD_OUT = "the interaction after each user's training part"  # a test review after protocol.refit_on_validation


@torch.inference_mode()
def write(
    network: Vip5Network, tokenizer: Any, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int
) -> list[str]:
    """The most likely token after the other, a text a prompt, in their order; long prompts go first."""
    network.eval()
    t5: Any = network.t5
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row].ids))
    written: dict[int, str] = {}
    for start in bar(range(0, len(order), batch_size), "writing explanations"):
        rows = order[start : start + batch_size]
        batch = to_batch([prompts[row] for row in rows], tokenizer.pad_token_id)
        batch = {name: tensor.to(t5.device) for name, tensor in batch.items()}
        tokens = t5.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=network.encode(batch)),
            attention_mask=batch["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
        )
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        written |= zip(rows, texts, strict=True)
    return [written[row] for row in range(len(prompts))]


def explained(
    network: Vip5Network,
    prompts: Prompts,
    held_out: Reviews,
    training: Reviews,
    words_of: Callable[[int], dict[str, str]],
    *,
    limit: int,
    max_new_tokens: int,
    batch_size: int,
) -> dict[str, Any]:
    """Of at most `limit` held-out reviews, the same of any model, by template and of the baseline: number, bleu_4,
    rouge_1, rouge_2, rouge_l; and `of`, which reviews these are.

    Templates that the reviews do not allow are left out; without a held-out review there is nothing.
    `words_of`: user row -> what prompts call the user.
    """
    rows = np.random.default_rng(0).permutation(len(held_out))[:limit]
    templates = [TEMPLATES[name] for name in ASKED if held_out.allows(TEMPLATES[name])]
    if not templates or not len(rows):
        return {}
    references = [str(sentence) for sentence in held_out.sentence[rows]]
    frequent = Counter(training.sentence.tolist()).most_common(1)[0][0]
    out: dict[str, Any] = {"of": HELD_OUT}
    out[BASELINE] = measured([frequent] * len(rows), references) | {"written": frequent}
    for template in templates:
        asked = []
        for row in rows.tolist():
            words, items, _ = held_out.question(row, template)
            asked.append(prompts.render(template, items, words | words_of(int(held_out.user[row]))))
        written = write(network, prompts.tokenizer, asked, max_new_tokens, batch_size)
        texts = [prompts.tokenizer.decode(prompt.ids, skip_special_tokens=True) for prompt in asked[:EXAMPLES]]
        examples = [
            {"prompt": text, "written": own, "reference": reference}
            for text, own, reference in zip(texts, written, references, strict=False)
        ]
        out[template.name] = measured(written, references) | {"examples": examples}
    return out


def measured(written: list[str], references: list[str]) -> dict[str, Any]:
    return {"number": len(written)} | explanation_metrics(written, references)
