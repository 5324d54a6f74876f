"""BLEU and ROUGE of explanations against hand and against BLEU written out."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest

from rerankers.vip5.explanation_metrics import explanation_metrics

WRITTEN = ["the cat sat on the mat", "a soft and warm scarf , I love it"]
REFERENCES = ["the cat sat on the red mat", "a soft and warm scarf"]


def bleu_4(written: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> float:
    """Of the corpus, after Papineni et al. (ACL 2002); a row is a sequence of tokens."""
    log_precision = 0.0
    for n in range(1, 5):
        matched = possible = 0
        for row, reference in zip(written, references, strict=True):
            own, known = (
                Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1)) for text in (row, reference)
            )
            matched += (own & known).total()
            possible += own.total()
        log_precision += math.log(matched / possible) / 4
    length, wanted = (sum(map(len, rows)) for rows in (written, references))
    return 100 * math.exp(log_precision + min(0.0, 1 - wanted / length))


def test_identical_texts_have_everything() -> None:
    got = explanation_metrics(REFERENCES, REFERENCES)
    assert got == pytest.approx({"bleu_4": 100, "rouge_1": 100, "rouge_2": 100, "rouge_l": 100})


def test_bleu_by_hand_and_of_words() -> None:
    got = explanation_metrics(WRITTEN[:1], REFERENCES[:1])["bleu_4"]
    assert got == pytest.approx(100 * math.exp(1 - 7 / 6) * (6 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    words = [[text.split() for text in texts] for texts in (WRITTEN, REFERENCES)]
    assert explanation_metrics(WRITTEN, REFERENCES)["bleu_4"] == pytest.approx(bleu_4(*words))
    assert got == pytest.approx(67.32, abs=0.01) and bleu_4(WRITTEN[:1], REFERENCES[:1]) > 80, "characters give more"
    assert explanation_metrics(["soft, warm and cheap."], ["soft , warm and cheap ."])["bleu_4"] == pytest.approx(100)


def test_rouge_by_hand_is_the_mean_over_rows() -> None:
    turned = explanation_metrics(["on the mat the cat sat"], REFERENCES[:1])
    want = {
        "rouge_1": 1200 / 13,
        "rouge_2": 600 / 11,
        "rouge_l": 600 / 13,
    }  # F = 2 x common / (6 + 7), bigrams (5 + 6)
    assert {name: turned[name] for name in want} == pytest.approx(want)
    both = explanation_metrics(["on the mat the cat sat", "No idea"], [REFERENCES[0], "no!"])
    other = {"rouge_1": 200 / 3, "rouge_2": 0, "rouge_l": 200 / 3}
    assert {name: both[name] for name in want} == pytest.approx(
        {name: (want[name] + other[name]) / 2 for name in want}
    )


def test_nothing_in_common_and_nothing_written_is_nothing() -> None:
    for text in ("blue shoes run", ""):
        assert set(explanation_metrics([text], ["warm scarf"]).values()) == {0.0}
    with pytest.raises(ValueError):
        explanation_metrics(["a"], ["a", "b"])
