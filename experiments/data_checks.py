"""Checks before training: samples and prompts, labels, where the truth stands. Each is evidence -> Finding."""

from __future__ import annotations

import numpy as np
from scipy import stats

from experiments.findings import FAIL, INFO, OK, WARN, Finding
from rerankers.letter.labels import LETTERS

SURE, LARGE = 1e-4, 1.5  # p of a chi-square test and share against the expected one: both, so that neither cries wolf
FEW_ROWS = 100


def place_name(column: int, letters: bool = True) -> str:
    return LETTERS[column] if letters and column < len(LETTERS) else f"place {column + 1}"


def against_uniform(columns: np.ndarray, widths: np.ndarray) -> tuple[float, float, int, float]:
    """Columns [n] of lists of `widths` [n] candidates against "any place is as likely": p of the chi-square test, how
    many times its expected share the most overrepresented column has, that column, and its share."""
    if not len(columns):
        return 1.0, 1.0, 0, 0.0
    counts = np.bincount(columns, minlength=int(widths.max()))
    ending_here = np.bincount(widths, weights=1 / widths, minlength=len(counts) + 1)[1:]
    expected = np.cumsum(ending_here[::-1])[::-1]  # [N] a list of width w expects 1 / w in each of its columns
    statistic = float(((counts - expected) ** 2 / expected).sum())
    most = int(counts.argmax())
    p = float(stats.chi2.sf(statistic, len(counts) - 1)) if len(counts) > 1 else 1.0
    return p, float(counts[most] / expected[most]), most, float(counts[most] / len(columns))


def trainable(parameters: np.ndarray, training: bool = True) -> Finding:
    """8: something must be able to learn, where there is a training."""
    able, total = (int(n) for n in parameters)
    evidence = f"{able:,} of {total:,} parameters are trained"
    if able or not training:
        return Finding("parameters", OK if able else INFO, evidence)
    return Finding("parameters", FAIL, evidence, "nothing can learn: attach the adapter, or unfreeze the model")


def labels_found(label_ids: np.ndarray, n_candidates: int) -> Finding:
    """3: every candidate's label is one token of the vocabulary, and no two are the same."""
    found = len(set(label_ids[label_ids >= 0].tolist()))
    evidence = f"{found} of {n_candidates} labels have a token of their own"
    if found >= n_candidates:
        return Finding("labels", OK, evidence)
    advice = "scores of the others are noise: choose a smaller candidates.size, or labels that the tokenizer has"
    return Finding("labels", FAIL, evidence, advice)


def target_listed(shares: dict[str, float], mode: str) -> Finding:
    """5: phase -> share of its requests whose list holds a relevant item. A first stage may miss, but not always."""
    evidence = ", ".join(f"{share:.1%} of the {phase} lists" for phase, share in shares.items()) + " hold the target"
    if min(shares.values()) == 0:
        return Finding("target listed", FAIL, evidence, "nothing can be ranked right: the lists are of other data")
    if min(shares.values()) == 1:
        return Finding("target listed", OK, evidence)
    if mode == "sampled":
        advice = "sampled lists must hold it: delete the candidate file in paths.cache and draw it again"
        return Finding("target listed", FAIL, evidence, advice)
    raised = "; a larger candidates.size raises this ceiling" if mode == "retrieved" else ""
    return Finding("target listed", INFO, f"{evidence}, the others count 0{raised}")


def target_position(columns: np.ndarray, widths: np.ndarray, ordered: bool, letters: bool, check: str) -> Finding:
    """5 and 6: where the target stands among the candidates; `ordered`: they are shown in first-stage order."""
    p, ratio, most, share = against_uniform(columns, widths)
    evidence = (
        f"the target of {len(columns):,} lists stands most often at {place_name(most, letters)}, in {share:.1%}, "
        f"{ratio:.1f} times what a shuffled order gives (chi-square p {p:.2g})"
    )
    if p >= SURE or ratio <= LARGE:
        return Finding(check, OK, evidence)
    if ordered:
        advice = "first-stage order tells the answer; candidates.presentation=shuffled for a number that counts"
        return Finding(check, WARN, evidence, advice)
    return Finding(check, FAIL, evidence, "order leak: the place tells the answer; shuffle the candidates")


def samples(n_rows: int, history_lengths: np.ndarray, n_queries: int | None = None) -> Finding:
    """7: how much there is to learn from; `n_queries` trained on, None for recommendation."""
    lengths, whose = history_lengths, "user" if n_queries is None else "query"
    evidence = f"{n_rows:,} training rows" if n_rows else "no training rows counted"
    if n_queries is not None:
        evidence += f" of {n_queries:,} queries"
    elif lengths.any():
        low, middle, high = np.percentile(lengths, [0, 50, 100])
        evidence += f"; histories of {middle:.0f} items ({low:.0f} to {high:.0f})"
        if (empty := float((lengths == 0).mean())) > 0:
            evidence += f", {empty:.1%} empty"
            if empty > 0.5:
                return Finding("samples", WARN, evidence, "most requests have no history; check the dataset's users")
    if 0 < n_rows < FEW_ROWS:
        advice = f"too few to learn from; take more data or more rows of each {whose}"
        return Finding("samples", WARN, evidence, advice)
    return Finding("samples", OK, evidence)


def prompt_lengths(lengths: np.ndarray, shortened: np.ndarray, passages: bool = False) -> Finding:
    """7: what is cut from a prompt cannot be learned from."""
    middle, high = np.percentile(lengths, [50, 100])
    evidence = f"prompts of {middle:.0f} tokens (at most {high:.0f}), {shortened.mean():.1%} shortened"
    if shortened.mean() <= 0.1:
        return Finding("prompt length", OK, evidence)
    advice = "raise reranker.max_length, or reranker.max_item_length where there is one and items are cut"
    if passages:
        advice = "raise reranker.max_length, and reranker.max_item_length where there is one: passages are cut"
    return Finding("prompt length", WARN, evidence, advice)


def candidate_diversity(candidates: np.ndarray, n_items: int, passages: bool = False) -> Finding:
    """7: lists [R, N] that are all the same, or repeat an item, are no lists of candidates."""
    ordered = np.sort(candidates, axis=1)
    repeats = float(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1).mean())
    different, used = len(np.unique(ordered, axis=0)), len(np.unique(ordered[ordered >= 0]))
    what, who, advice = "items", "request", "is the first stage personal?"
    if passages:
        what, who, advice = "passages", "query", "does the first stage read the query?"
    evidence = f"{used:,} of {n_items:,} {what} in {different:,} different lists of {len(candidates):,}"
    if repeats:
        evidence += f"; {repeats:.1%} list an item twice"
        return Finding("candidates", FAIL, evidence, "an item may stand in a list once: mend the candidate file")
    if different == 1 < len(candidates) and used < n_items:
        return Finding("candidates", WARN, evidence, f"every {who} ranks the same {what}: {advice}")
    return Finding("candidates", OK, evidence)


def same_prompt(trained: np.ndarray, scored: np.ndarray) -> Finding:
    """14: hashes [K] of the same rows' prompts, as trained and as scored."""
    same = int((trained == scored).sum())
    evidence = f"{same} of {len(trained)} training prompts are read alike when they are scored"
    if same == len(trained):
        return Finding("prompt", OK, evidence)
    advice = "the model is asked what it was not taught: build both prompts by one function (template, end, padding)"
    return Finding("prompt", FAIL, evidence, advice)
