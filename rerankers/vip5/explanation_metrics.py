"""How near generated explanations are to the reviewers' own sentences, in percent, the papers' unit.

BLEU-4 is of the corpus and of words (sacrebleu, nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp); ROUGE-1, -2 and -L are
F-measures of lower-case words without punctuation, the mean over rows (rouge-score, no stemmer; its words are of a-z
and 0-9 alone, so ROUGE is for English). VIP5's released code hands raw strings to a BLEU that wants lists of words, so
it counts n-grams of characters, which gives more: 8.25 in its notebook where the paper says 3.93 (Toys, C-12). How the
paper's own were counted is not known; compare BLEU only between runs of this function.
"""

from __future__ import annotations

import logging


def explanation_metrics(written: list[str], references: list[str]) -> dict[str, float]:
    """bleu_4, rouge_1, rouge_2 and rouge_l of one text and one reference a row; at least one row."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import corpus_bleu

    logging.getLogger("absl").setLevel(logging.WARNING)  # rouge-score tells at each use which tokenizer it takes
    kinds = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    scorer = RougeScorer(list(kinds.values()))
    rows = [scorer.score(reference, text) for reference, text in zip(references, written, strict=True)]
    rouge = {name: 100 * sum(row[kind].fmeasure for row in rows) / len(rows) for name, kind in kinds.items()}
    return {"bleu_4": corpus_bleu(written, [references]).score} | rouge
