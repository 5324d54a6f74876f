"""Checks of what a reranker says: spread, determinism, reload, position, and every metric against chance."""

from __future__ import annotations

import numpy as np

from experiments.data_checks import LARGE, SURE, against_uniform, place_name
from experiments.findings import FAIL, INFO, OK, WARN, Finding
from experiments.metrics import display
from experiments.significance import ALPHA
from experiments.summary import distinct, is_chance
from experiments.training_checks import Rate, ln

ALIKE = 1e-3  # standard deviation of a request's scores below which they are one score
UNIFORM = 0.97  # entropy of the predictions over that of a uniform one


def prediction_spread(std: float, entropy: float | None, n: float, expected: str, advice: str) -> Finding:
    """4: `std` of a request's scores, `entropy` of their softmax in nats (None: they are no logits), `n` candidates.
    `expected`: why little spread is no failure; scores on a small scale (a cosine) may rank well."""
    evidence = f"scores of a request have a standard deviation of {std:.3g}"
    share = 0.0
    if entropy is not None:
        share = entropy / np.log(n)
        evidence += f"; their softmax an entropy of {entropy:.2f}, {share:.1%} of the uniform {np.log(n):.2f}"
    if std > 0 and share < UNIFORM:
        return Finding("predictions", OK, evidence)
    evidence = f"{'nearly uniform' if std > 0 else 'all alike'}: {evidence}"
    if expected:
        return Finding("predictions", INFO, f"{evidence}; {expected}")
    return Finding("predictions", FAIL, evidence, advice)


def validation(
    metric: str, value: float, low: float, high: float, loss: tuple[float, float] | None, falls: bool, advice: str
) -> Finding:
    """1 and 2 on unseen requests: the primary metric against chance's interval; `loss`: cross-entropy over the
    candidates and ln of their number; `falls`: whether the training loss did, which makes chance a mismatch."""
    evidence = f"{display(metric)} {value:.3f}, chance {low:.3f} to {high:.3f}"
    if loss is not None:
        evidence += (
            f"; cross-entropy over the candidates where the target is listed {loss[0]:.2f}, {ln(loss[1])} at random"
        )
    if value > high:
        return Finding("validation", OK, evidence)
    if falls:
        advice = (
            "it learns, but not what it is asked: compare labels (shifted by one?), loss mask and prompt of training "
            "with those of scoring; else it learns by heart"
        )
    return Finding("validation", FAIL, f"no better than chance: {evidence}", advice)


def reload(difference: float, spread: float) -> Finding:
    """9: largest difference of a score after saving and loading; `spread`: standard deviation of the scores."""
    if difference <= 1e-4 * spread:
        same = "identical" if difference == 0 else f"equal but for rounding ({difference:.2g})"
        return Finding("reload", OK, f"the saved model, loaded again, gives {same} scores")
    evidence = (
        f"the saved model, loaded again, gives other scores (by up to {difference:.3g}, their spread is {spread:.3g})"
    )
    return Finding("reload", FAIL, evidence, "`save` leaves something out (adapter, head, item ids), or `load` does")


def determinism(difference: float, spread: float) -> Finding:
    """10: largest difference between two scorings of the same requests."""
    if difference <= 1e-4 * spread:
        same = "identical" if difference == 0 else f"equal but for rounding ({difference:.2g})"
        return Finding("determinism", OK, f"scoring twice gives {same} scores")
    evidence = f"scoring twice differs by up to {difference:.3g} (their spread is {spread:.3g})"
    return Finding("determinism", FAIL, evidence, "dropout is on: `score` must call model.eval(), and draw nothing")


def predicted_position(columns: np.ndarray, widths: np.ndarray, trained: bool) -> Finding:
    """13: columns [n] of the best candidate, in lists whose order is random."""
    p, ratio, _, share = against_uniform(columns, widths)
    counts = np.bincount(columns)
    top = ", ".join(f"{place_name(int(c))} {counts[c] / len(columns):.1%}" for c in np.argsort(-counts)[:5])
    evidence = f"predicted most often: {top} (expected {share / ratio:.1%} each, chi-square p {p:.2g})"
    if p >= SURE or ratio <= LARGE:
        return Finding("predicted position", OK, evidence)
    if not trained:
        advice = "it answers by position; reranker.calibration=content_free or reranker.permutations=5 may lessen that"
        return Finding("predicted position", INFO, evidence, advice)
    advice = "it answers by position: train on, reranker.permutations=5 or reranker.order=invariant"
    return Finding("predicted position", FAIL if share > 0.5 else WARN, evidence, advice)


def order_sensitivity(metric: str, values: np.ndarray, changed: float, noise: float, trained: bool) -> Finding:
    """13: the metric under each order [5], share of requests whose best item changes, and the standard deviation of an
    item's score over orders relative to that between items."""
    evidence = (
        f"{display(metric)} is {values.mean():.3f} +- {values.std():.3f} under {len(values)} candidate orders, "
        f"the best item changes in {changed:.0%} of the requests, an item's score varies by {noise:.2f} of the spread"
    )
    if changed <= 0.5:
        return Finding("order", OK, evidence)
    advice = "the order decides more than the items: reranker.permutations=5 averages it out, or train on"
    return Finding("order", WARN if trained else INFO, evidence, advice)


def collapse(std: float, pinned: tuple[float, float] | None, rate: Rate) -> Finding:
    """4 and 1 together: the model answers the same, whatever it reads. `pinned`: the loss and chance, in nats; None of
    a loss that has no chance."""
    evidence = f"the scores of a request are identical (standard deviation {std:.2g})"
    if pinned:
        evidence = f"the loss is pinned at {pinned[0]:.3f}, where {ln(pinned[1])} is chance, and {evidence}"
    others = "or another base model (reranker.model), or fewer or other negatives"
    return Finding("collapse", FAIL, evidence, f"{rate.advice(faster=False)}, {others}")


def against_rows(
    metrics: dict[str, float], names: list[str], primary: str, width: int | None, mild: bool
) -> list[Finding]:
    """11: the test metrics against chance and first stage, among `width` candidates or the whole catalogue. `mild`: of
    a baseline or a zero-shot model, of which luck is no failure of a training."""
    names, _ = distinct(metrics, names)
    how = "the whole catalogue" if width is None else f"{width:,} candidates"
    first = against_first_stage(metrics, names, primary, mild)
    return [against_chance(metrics, names, primary, how, mild), *([first] if first else [])]


def against_chance(metrics: dict[str, float], names: list[str], primary: str, candidates: str, mild: bool) -> Finding:
    """11: every test metric, `primary` decides. `mild`: of what cannot be expected to know more."""

    def interval(name: str) -> str:
        return f"({metrics[f'test/chance_low/{name}']:.3f} to {metrics[f'test/chance_high/{name}']:.3f})"

    def value(name: str) -> str:
        return f"{display(name)} = {metrics[f'test/{name}']:.3f}"

    own, expected, low = (metrics[f"test/{row}{primary}"] for row in ("", "chance/", "chance_low/"))
    if own < expected - 3 * (expected - low):  # items' scores are alike in all requests, so a little below is luck
        evidence = f"{value(primary)} is worse than what chance gives with {candidates} {interval(primary)}"
        return Finding("chance", FAIL, evidence, "are scores or labels inverted?")
    no_better = [n for n in names if is_chance(metrics, n) or metrics[f"test/{n}"] < metrics[f"test/chance_low/{n}"]]
    if not no_better:
        said = ", ".join(f"{value(name)} {interval(name)}" for name in names)
        return Finding("chance", OK, f"each metric is above chance's interval with {candidates}: {said}")
    ks = {name: int(name.rpartition("_")[2]) for name in no_better}
    first, *others = sorted(no_better, key=lambda name: (not is_chance(metrics, name), -ks[name]))
    evidence = (
        f"{value(first)} is {'what' if is_chance(metrics, first) else 'less than'} chance gives with {candidates}"
    )
    evidence += f" {interval(first)}"
    if others:
        evidence += ", no better are " + ", ".join(f"{value(name)} {interval(name)}" for name in others)
    if primary not in no_better:
        return Finding("chance", OK, f"{evidence}; {value(primary)} is above {interval(primary)}")
    if mild:
        return Finding("chance", INFO, evidence)
    return Finding(
        "chance", FAIL, evidence, "it ranks like luck: see the failed checks above, then train.py check=true"
    )


def against_first_stage(metrics: dict[str, float], names: list[str], primary: str, mild: bool) -> Finding | None:
    """11: None for the first stage itself, or where there is none."""
    if "test/vs_first_stage/difference" not in metrics:
        return None
    difference, low, high, p = (
        metrics[f"test/vs_first_stage/{name}"] for name in ("difference", "low", "high", "p_holm")
    )
    rows = ", ".join(
        f"{display(n)} {metrics[f'test/{n}']:.3f} [{metrics[f'test/low/{n}']:.3f}, {metrics[f'test/high/{n}']:.3f}] "
        f"against {metrics[f'test/first_stage/{n}']:.3f}"
        for n in names
    )
    size = f"{display(primary)} {difference:+.3f} [{low:+.3f}, {high:+.3f}], Holm p {p:.2g}"
    if p >= ALPHA:
        return Finding("first stage", INFO, f"cannot be told from the first stage: {size}; {rows}")
    if difference > 0:
        return Finding("first stage", OK, f"beats the first stage: {size}; {rows}")
    advice = "" if mild else "reranking costs and gives less: train longer, or keep the first stage's order"
    return Finding("first stage", INFO if mild else WARN, f"worse than the first stage: {size}; {rows}", advice)
