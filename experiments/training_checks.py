"""Checks of training itself: loss against chance, shape of the curve, weights, gradients, train against validation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from experiments.findings import FAIL, INFO, OK, WARN, Finding
from experiments.metrics import display
from experiments.significance import Comparison

BANDS = {1.0: (2.5, 3.5), 4.0: (1.5, 2.5)}  # epoch -> the loss over 50 candidates that is usual then
TUNED_RATES = (5e-5, 1e-4, 2e-4, 5e-4)  # of adapters
WHOLE_RATES = (1e-5, 2e-5, 5e-5, 1e-4)  # of pretrained weights that are all trained
SCRATCH_RATES = (5e-4, 1e-3, 2e-3, 5e-3)  # of small models trained whole
DEV_ACCURACY, DEV_MARGIN = 0.80, 0.40  # what a cross-encoder's development pairs should reach
SMALL = 5_000_000  # parameters of a model that is trained whole, and from scratch
STILL = 1e-5  # relative movement of weights that is none


@dataclass(frozen=True)
class Curve:
    """One logged value over training; NaN where it was not finite."""

    name: str
    epoch: np.ndarray  # [n]
    value: np.ndarray  # [n] float64

    @property
    def ends(self) -> tuple[float, float, float]:
        """Mean of the first and the last tenth, and the standard error of their difference (from the median of
        successive differences, which knows no trend, nor the steep fall of a loss that began above chance)."""
        value, k = self.value, max(1, len(self.value) // 10)
        noise = 1.4826 * float(np.median(np.abs(np.diff(value)))) / math.sqrt(2) if len(value) > 3 else 0.0
        return float(value[:k].mean()), float(value[-k:].mean()), noise * math.sqrt(2 / k)

    @property
    def swing(self) -> float:
        """How much the means of the last twentieths differ from one to the next, as a standard deviation."""
        size = max(1, len(self.value) // 20)
        late = self.value[len(self.value) % size :].reshape(-1, size).mean(axis=1)[-10:]
        return float(np.sqrt((np.diff(late) ** 2).mean() / 2)) if len(late) > 3 else 0.0

    def at(self, epoch: float) -> float:
        """Mean of the twentieth of the curve that ends at `epoch`."""
        last = int(np.searchsorted(self.epoch, epoch + 1e-6)) or 1
        return float(self.value[max(0, last - max(1, len(self.value) // 20)) : last].mean())


@dataclass(frozen=True)
class Rate:
    """The learning rate used, and which ones are worth a try instead."""

    used: float
    small: bool  # a small model, trained whole
    whole: bool = False  # a large one, trained whole

    @staticmethod
    def of(used: float, trainable: int, total: int) -> Rate:
        whole = bool(trainable == total)
        return Rate(used, whole and total < SMALL, whole and total >= SMALL)

    def advice(self, faster: bool) -> str:
        usual = SCRATCH_RATES if self.small else WHOLE_RATES if self.whole else TUNED_RATES
        if self.used > 2 * usual[-1]:  # whatever it looks like
            faster = False
        if faster and self.used > usual[-1] / 1.5:
            return "look for what the learning rate cannot mend: more rows or epochs, fewer candidates, another model"
        if faster:
            tries = [rate for rate in usual if rate > self.used * 1.5]
            tries = tries[1:] if not self.small and self.used < usual[0] / 10 else tries  # 5e-5 is slow
        else:
            tries = [rate for rate in reversed(usual) if rate < self.used / 1.5] or [self.used / 10]
            tries = tries[-2:] if self.used > 10 * usual[-1] and self.small else tries
        now = f" (now {_plain(self.used)})"
        return "try " + ", then ".join(f"trainer.learning_rate={_plain(rate)}" for rate in tries[:2]) + now


def _plain(rate: float) -> str:
    return f"{rate:.0e}".replace("e-0", "e-")


def ln(chance: float) -> str:
    n = math.exp(chance)
    return f"ln {round(n):,} = {chance:.2f}" if abs(n - round(n)) < 1e-6 * n else f"{chance:.2f}"


def at_chance(loss: float, chance: float, error: float = 0.0) -> bool:
    return loss >= chance - max(0.01 * chance, 2 * error)


def loss_level(curve: Curve, chance: float, n_candidates: int | None, rate: Rate) -> Finding:
    """1: the loss of a model that knows nothing is `chance`. `n_candidates`: of a loss over a request's candidates,
    for which the usual bands are known; scaled by ln N where N is not 50."""
    if not np.isfinite(curve.value).all():
        return Finding("loss level", FAIL, f"{curve.name} is not a number", rate.advice(faster=False))
    if len(curve.value) < 2:
        return Finding("loss level", INFO, f"{curve.name} has one value, {curve.value[0]:.2f}; {ln(chance)} is chance")
    _, last, error = curve.ends
    scale = math.log(n_candidates) / math.log(50) if n_candidates else 0.0
    said = [f"{curve.value[0]:.2f} at the start"]
    for epoch, (low, high) in BANDS.items():
        if epoch <= curve.epoch[-1] + 1e-6:
            band = f" (usual for {n_candidates} candidates: {low * scale:.1f}-{high * scale:.1f})" if scale else ""
            said.append(f"{curve.at(epoch):.2f} after {epoch:.0f} epoch{'s' if epoch > 1 else ''}{band}")
    said.append(f"{last:.2f} at the end, after {curve.epoch[-1]:.3g}")
    random = f", {3.9 * scale:.1f} at random" if scale and n_candidates == 50 else ""
    evidence = f"{curve.name} {', '.join(said)}; a model that knows nothing has {ln(chance)}{random}"
    if not at_chance(last, chance, error):
        return Finding("loss level", OK, evidence)
    return Finding("loss level", FAIL, f"learned nothing: {evidence}", rate.advice(faster=last < 1.5 * chance))


def pinned(curve: Curve, chance: float) -> tuple[float, float] | None:
    """The loss at the end and `chance`, where the one has stayed at the other; above it, it has diverged."""
    if len(curve.value) < 2 or not np.isfinite(curve.value).all():
        return None
    _, last, error = curve.ends
    return (last, chance) if at_chance(last, chance, error) and last < 1.1 * chance else None


def dev_pairs(measured: np.ndarray, rate: Rate) -> Finding:
    """Does it tell relevant texts from others? Of development pairs with scores in [0, 1]: accuracy, mean score of
    the relevant and of the others, margin between them."""
    accuracy, positive, negative, margin = map(float, measured)
    evidence = (
        f"accuracy {accuracy:.3f} (target > {DEV_ACCURACY:.2f}), mean score {positive:.3f} of relevant texts and "
        f"{negative:.3f} of others, margin {margin:.3f} (target > {DEV_MARGIN:.2f})"
    )
    if accuracy > DEV_ACCURACY and margin > DEV_MARGIN:
        return Finding("dev pairs", OK, evidence)
    advice = f"more trainer.num_train_epochs or training pairs, a pretrained model, or {rate.advice(faster=True)}"
    if accuracy > DEV_ACCURACY:
        advice = f"the order is right but the scores are close, which a threshold would feel: {advice}"
    return Finding("dev pairs", WARN, evidence, advice)


def loss_curve(curve: Curve, chance: float | None, rate: Rate) -> Finding:
    """2: does it fall, is it flat, does it swing, diverge, or is it no number at all?"""

    def finding(verdict: str, evidence: str, advice: str = "") -> Finding:
        return Finding("loss curve", verdict, f"{curve.name} {evidence}", advice)

    bad = ~np.isfinite(curve.value)
    if bad.all() or bad[0]:
        advice = f"no label reaches the loss (mask, all -100)? else {rate.advice(faster=False)}, or bf16 for fp16"
        return finding(FAIL, "is NaN or infinite from the first logged value", advice)
    if bad.any():
        where = f"became NaN or infinite in epoch {curve.epoch[bad.argmax()]:.3g}"
        return finding(FAIL, where, f"{rate.advice(faster=False)}, with trainer.warmup_steps=0.05")
    if (np.abs(curve.value) < 1e-6).all():
        return finding(FAIL, "is 0 throughout", "nothing is asked: the loss mask hides every label")
    if len(curve.value) < 2:
        return finding(INFO, f"has one value, {curve.value[0]:.2f}", "trainer.logging_steps=1 shows more")
    (first, last, error), swing = curve.ends, curve.swing
    said = f"{first:.2f} in the first tenth, {last:.2f} in the last (standard error {error:.2g})"
    known = f"; {ln(chance)} is chance" if chance is not None else ""
    falls = first - last > max(3 * error, 0.01 * abs(first))
    above = 5 if falls else 1.5  # times chance: over a vocabulary a loss may begin there, and be on its way down
    if last > first + max(3 * error, 0.1 * abs(first)) or (chance is not None and last > above * chance):
        return finding(FAIL, f"diverges: {said}{known}", rate.advice(faster=False))
    if swing > max(0.3 * (first - last), 0.1 * abs(last)):
        return finding(WARN, f"oscillates: {said}, swings of {swing:.2f} at the end", rate.advice(faster=False))
    if not falls:
        flat = f"is flat at {last:.2f}: {said}{known}"
        if chance is not None and not at_chance(last, chance, error):
            return finding(WARN, flat, f"{rate.advice(faster=True)}, or trained enough already")
        return finding(FAIL, flat, rate.advice(faster=True))
    return finding(OK, f"falls: {said}")


def training_length(epochs: float, steps: int) -> Finding:
    evidence = f"{epochs:.3g} epochs, {steps:,} steps"
    if epochs >= 0.99:
        return Finding("training length", OK, evidence)
    advice = "a try, not a result: not every row was seen once; raise trainer.max_steps or trainer.num_train_epochs"
    return Finding("training length", WARN, f"barely trained: {evidence}", advice)


def weights_moved(change: float, rate: Rate) -> Finding:
    """8: by training, relative to the weights' size."""
    evidence = f"the trained weights moved by {change:.2g} of their size"
    if not math.isfinite(change):
        return Finding("weights", FAIL, evidence, rate.advice(faster=False))
    if change >= STILL:
        return Finding("weights", OK, evidence)
    advice = rate.advice(faster=True)
    return Finding("weights", FAIL, f"{evidence}: they did not learn", advice)


def gradients(norms: np.ndarray, clip: float, rate: Rate) -> Finding:
    """8: logged gradient norms [n], before clipping."""
    finite = norms[np.isfinite(norms)]
    if len(finite) < 0.9 * len(norms):
        evidence = f"{len(norms) - len(finite)} of {len(norms)} gradient norms are NaN or infinite"
        return Finding("gradients", FAIL, evidence, rate.advice(faster=False))
    norms, skipped = finite, len(norms) - len(finite)
    middle, most = float(np.median(norms)), float(norms.max())
    evidence = f"norm {middle:.2g} (median), at most {most:.2g}"
    if clip > 0:
        evidence += f"; clipped at {clip:g} in {(norms > clip).mean():.0%} of the logged steps"
    if skipped:
        evidence += f"; infinite in {skipped}, steps that fp16 skips while it finds its scale"
    if middle < 1e-8:
        advice = "no gradient reaches the weights: check the loss mask, requires_grad and gradient checkpointing"
        return Finding("gradients", FAIL, evidence, advice)
    if middle > 1000:
        return Finding("gradients", WARN, evidence, f"gradients explode: {rate.advice(faster=False)}")
    return Finding("gradients", OK, evidence)


def generalisation(metric: str, train: float, validation: float, difference: Comparison) -> Finding:
    """12: the same users' last training item and their validation item, each among the same sampled negatives."""
    size = f"{difference.difference:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    evidence = (
        f"{display(metric)} {train:.3f} for the last item trained on, {validation:.3f} for the validation item, among "
        f"the same negatives (difference {size})"
    )
    if difference.low > 0 and train > 2 * validation:
        advice = "it learns by heart: fewer epochs (trainer.early_stopping_patience=3), more dropout or weight decay"
        return Finding("generalisation", WARN, evidence, advice)
    return Finding("generalisation", OK, evidence)
