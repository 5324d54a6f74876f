"""What reviews give to explain: a sentence, the feature word that it is about, the rating, the headline.

Few datasets name features, so a sentence's feature is the rarest of its words among the most frequent content words of
the training reviews; a review without such a sentence explains nothing and is left out. A headline is no sentence of
its review: templates that show the headline would show the answer.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from data.dataset import Dataset, Interactions
from data.splits import Phase
from rerankers.vip5.templates import Template
from rerankers.word_tokenizer import by_frequency

FEATURES = 500  # words
SHORTEST, LONGEST = 3, 40  # words of a sentence
LENGTHS_OF_FEATURES = range(3, 31)  # in letters
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*+")  # "don't" is one, and no content word
END = re.compile(r"[.!?…]+(?!\d)|\n")  # 4.5 goes on


@dataclass(frozen=True)
class Reviews:
    user: np.ndarray  # [n] user rows
    item: np.ndarray  # [n] catalogue rows
    rating: np.ndarray  # [n] float32
    sentence: np.ndarray  # [n] str, one line without its last mark
    feature: np.ndarray  # [n] str, casefolded
    headline: np.ndarray | None = None  # [n] str
    features: tuple[str, ...] = ()  # all that there are, the most frequent first

    def __len__(self) -> int:
        return len(self.user)

    @cached_property
    def rated(self) -> bool:
        return len(self) > 0 and bool(np.isfinite(self.rating).all())

    @cached_property
    def scale(self) -> tuple[float, float]:
        return float(self.rating.min()), float(self.rating.max())

    def allows(self, template: Template) -> bool:
        """Whether reviews have what an explanation's prompt and answer need."""
        if not self.rated and ("rating" in template.slots or template.answer == "rating_explanation"):
            return False
        return len(self) > 0 and (self.headline is not None or "headline" not in template.slots)

    def question(
        self, row: int, template: Template, jitter: float = 0.0, rng: np.random.Generator | None = None
    ) -> tuple[dict[str, str], dict[str, np.ndarray], str]:
        """Words and items of a template's slots, and the answer.

        Where the rating is a part of the answer it has one decimal; with `rng` it is drawn around the review's own
        with the standard deviation `jitter`, within the scale, so that equal ratings are not one token to learn.
        """
        rating = float(self.rating[row])
        words = {"rating": f"{rating:g}", "feature": str(self.feature[row])}
        if self.headline is not None:
            words["headline"] = str(self.headline[row])
        items = dict.fromkeys(("item", "title", "one"), self.item[row : row + 1])
        answer = str(self.sentence[row])
        if template.answer == "rating_explanation":
            low, high = self.scale
            drawn = rating if rng is None else min(max(rng.normal(rating, jitter), low), high)
            answer = f"{drawn:.1f}, {answer}"
        return words, items, answer


def training_reviews(dataset: Dataset, training: Phase) -> Reviews:
    """Of the interactions that training sees: the first of each of its users, as many as the history is long."""
    return _reviews(dataset, places(dataset) < seen(dataset, training))


def held_out_reviews(dataset: Dataset, training: Phase, known: Reviews) -> Reviews:
    """Of the interaction that follows each user's training part, where there are both; features are `known`'s."""
    n = seen(dataset, training)
    return _reviews(dataset, (places(dataset) == n) & (n > 0), known.features)


def seen(dataset: Dataset, training: Phase) -> np.ndarray:
    """[M] how many of its user's interactions training has."""
    lengths = np.zeros(len(dataset.user_id), dtype=np.int64)
    lengths[training.ids] = training.histories.lengths
    return lengths[dataset.interactions.user]


def places(dataset: Dataset) -> np.ndarray:
    """[M] which of its user's interactions each one is, from 0."""
    return np.arange(len(dataset.interactions)) - dataset.sequences.offsets[dataset.interactions.user]


def _reviews(dataset: Dataset, chosen: np.ndarray, features: tuple[str, ...] | None = None) -> Reviews:
    """`features` None: found in these reviews."""
    events = dataset.interactions
    rows = np.flatnonzero(chosen & (events.review is not None))
    texts = bodies(events, rows)
    features = content_words(texts) if features is None else features
    rank = {word: place for place, word in enumerate(features)}
    told = {int(row): about for row, text in zip(rows, texts, strict=True) if (about := explanation(text, rank))}
    rows = np.array(list(told), dtype=np.int64)
    return Reviews(
        user=events.user[rows],
        item=events.item[rows],
        rating=events.rating[rows],
        sentence=np.array([sentence for sentence, _ in told.values()], dtype=object),
        feature=np.array([feature for _, feature in told.values()], dtype=object),
        headline=None if events.headline is None else events.headline[rows],
        features=features,
    )


def bodies(events: Interactions, rows: np.ndarray) -> list[str]:
    """Reviews without the headlines that they begin with."""
    if events.review is None or events.headline is None:
        return [] if events.review is None else events.review[rows].tolist()
    pairs = zip(events.review[rows], events.headline[rows], strict=True)
    return [review.removeprefix(headline).removeprefix(": ") for review, headline in pairs]


def content_words(texts: list[str]) -> tuple[str, ...]:
    """The `FEATURES` that most texts have, the most frequent first; equally frequent ones by their spelling."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    by_texts = by_frequency(word for text in texts for word in set(words(text)))
    content = (
        word
        for word in by_texts
        if len(word) in LENGTHS_OF_FEATURES and word.isalpha() and word not in ENGLISH_STOP_WORDS
    )
    return tuple(islice(content, FEATURES))


def explanation(text: str, rank: dict[str, int]) -> tuple[str, str] | None:
    """The first sentence of fitting length with a feature, and its rarest feature; None: there is none."""
    for sentence in END.split(text):
        found = words(sentence)
        features = [word for word in found if word in rank]
        if features and SHORTEST <= len(found) <= LONGEST:
            return " ".join(sentence.split()), max(features, key=rank.__getitem__)
    return None


def words(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFC", text).casefold())
