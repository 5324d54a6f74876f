"""What reviews give to explain: a sentence, the feature word that it is about, the rating, the headline.

Few datasets name features, so a sentence's feature is the rarest of its words among the most frequent content words of
all training reviews; a review without such a sentence explains nothing and is left out.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from data.dataset import Dataset, Ragged
from rerankers.vip5.templates import Template

FEATURES = 500  # words
SHORTEST, LONGEST = 3, 40  # words of a sentence


@dataclass(frozen=True)
class Reviews:
    user: np.ndarray  # [n] user rows
    user_number: np.ndarray  # [n]
    item: np.ndarray  # [n] catalogue rows
    rating: np.ndarray  # [n] float32
    sentence: np.ndarray  # [n] str
    feature: np.ndarray  # [n] str
    headline: np.ndarray | None = None  # [n] str

    def __len__(self) -> int:
        return len(self.user)

    @property
    def rated(self) -> bool:
        return len(self) > 0 and bool(np.isfinite(self.rating).all())

    def question(
        self, row: int, template: Template, rng: np.random.Generator | None = None, jitter: float = 0.0
    ) -> tuple[dict[str, str], dict[str, np.ndarray], str]:
        """Words and items of the template's slots, and the answer."""
        rating, item = float(self.rating[row]), self.item[row : row + 1]
        words = {"rating": f"{rating:.0f}", "feature": str(self.feature[row])}
        if self.headline is not None:
            words["headline"] = str(self.headline[row])
        answer = str(self.sentence[row])
        if template.answer == "rating_explanation":
            near = rating + (rng.normal(0, jitter) if rng is not None else 0.0)
            answer = f"{np.clip(near, 1, 5):.1f}, {answer}"
        return words, {"item": item, "title": item, "one": item}, answer


def training_reviews(dataset: Dataset, training: Ragged, numbers: np.ndarray) -> Reviews:
    """Of the interactions that training may see: the first of each user, as many as the training part has."""
    return _read(dataset, np.zeros(len(training), dtype=np.int64), training.lengths, numbers, None)


def held_out_reviews(dataset: Dataset, training: Ragged, numbers: np.ndarray, known: Reviews) -> Reviews:
    """Of each user's interaction after the training part, with the features of the training reviews."""
    return _read(dataset, training.lengths, training.lengths + 1, numbers, set(known.feature))


def _read(
    dataset: Dataset, start: np.ndarray, stop: np.ndarray, numbers: np.ndarray, features: set[str] | None
) -> Reviews:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    events = dataset.interactions
    none = np.zeros(0, dtype=np.int64)
    if events.review is None:
        return Reviews(none, none, none, none.astype(np.float32), none.astype(object), none.astype(object))
    offsets = dataset.sequences.offsets
    place = np.arange(len(events)) - offsets[events.user]
    rows = np.flatnonzero((place >= start[events.user]) & (place < stop[events.user]))
    sentences = [split(str(events.review[row])) for row in rows]
    if features is None:
        counts = Counter(word for own in sentences for word in set(words_of(" ".join(own))))
        frequent = [word for word, _ in counts.most_common() if word not in ENGLISH_STOP_WORDS][:FEATURES]
        rank = {word: n for n, word in enumerate(frequent)}
    else:
        rank = {word: n for n, word in enumerate(sorted(features))}
    kept, chosen, about = [], [], []
    for row, own in zip(rows, sentences, strict=True):
        for sentence in own:
            named = [word for word in words_of(sentence) if word in rank]
            if named and SHORTEST <= len(sentence.split()) <= LONGEST:
                kept.append(row)
                chosen.append(sentence)
                about.append(max(named, key=lambda word: rank[word]))
                break
    index = np.array(kept, dtype=np.int64)
    headline = getattr(events, "headline", None)
    return Reviews(
        events.user[index],
        numbers[events.user[index]],
        events.item[index],
        events.rating[index],
        np.array(chosen, dtype=object),
        np.array(about, dtype=object),
        None if headline is None else headline[index],
    )


def split(review: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+", review) if part.strip()]


def words_of(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]{3,}", text.casefold())]
