"""Synthetic passages with a planted structure, generated from a seed in memory, so that everything runs anywhere.

Passages come in families: one kind of place in one town, described by four of ten properties that each have two
opposite values, so that many passages of a family differ in one word. A query names kind, town and three properties;
the one or two passages that have them all are relevant. Three things lead there, and each kind of ranker sees a part:

    kind and town     the same words in query and passage: counting words finds the family
    a property, once in a while in the passage's own word: counting words finds the half of the family that has it
    a property, mostly in a word that no passage has ("cheap" for "inexpensive"): 20 pairs of words, to be learned

Names of towns are Vietnamese, and half of them are written with decomposed letters (NFD): without normalisation
they match nothing.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random

import numpy as np

from data.errors import UserError, in_range
from data.sources.passages import Passage, PassageSource, Query, RawPassages, cleaned
from data.tables import BadRows, Place

GENERATED = Path("generated")
FAMILY = 14  # passages of one kind in one town, of the 16 that four properties can make
KINDS = "hotel bakery museum market library theatre garden school clinic cafe harbour station temple gallery bank gym"
SYLLABLES = "Hoà Bình Đà Lạt Sơn Tây Hội Cần Thơ Vĩnh Phú Yên Mỹ Bến Hạ Hải Nghệ Thuỷ Lộc Ngãi Quế Đức Tiền Hậu"
WORDS = (  # of each property two values, of each value (the passages' word, the queries' word)
    (("inexpensive", "cheap"), ("costly", "expensive")),
    (("quiet", "silent"), ("noisy", "loud")),
    (("large", "big"), ("tiny", "small")),
    (("ancient", "old"), ("modern", "new")),
    (("rapid", "fast"), ("unhurried", "slow")),
    (("sunlit", "bright"), ("dim", "dark")),
    (("spotless", "clean"), ("dusty", "dirty")),
    (("deserted", "empty"), ("crowded", "full")),
    (("nearby", "close"), ("remote", "far")),
    (("friendly", "kind"), ("grumpy", "rude")),
)
DESCRIPTIONS = (
    "The {kind} in {town} is {0} and {1}. {more} People call it {2} and {3}.",
    "In {town} there is a {0} {kind}, {1} and {2}. {more} It is also {3}.",
    "{more} Those who know the {kind} of {town} say it is {0}, {1}, {2} and {3}.",
    "A {0} and {1} {kind} stands in {town}. It seems {2} to most, and {3}. {more}",
)
QUESTIONS = (
    "{0} {1} {2} {kind} in {town}",
    "where is a {0} {1} {2} {kind} {town}",
    "{kind} {town} that is {0} {1} {2}",
    "{town} {kind}, {0}, {1} and {2}",
)
MORE = (
    "Tickets are sold at the gate on the left side.",
    "The owner paints boats when the rain begins.",
    "A bus stops in front every twenty minutes.",
    "Its roof was repaired after the last storm.",
    "Children play under the tall trees behind it.",
    "You can pay with coins or by card.",
    "Two brothers have managed the house since spring.",
    "Music is heard there on Sunday evening.",
    "The door opens at seven and shuts at nine.",
    "Coffee and rice cakes are served upstairs.",
    "A yellow flag shows where to turn from the road.",
    "Maps hang on each wall of the main hall.",
    "Bicycles may be left beside the fence.",
    "Last winter a film crew worked here for weeks.",
    "Students meet in the corner room after lunch.",
    "The river path leads straight to its steps.",
)


@dataclass
class DemoPassages(PassageSource):
    n_passages: int = 300
    n_queries: int = 1000
    own_words: float = 0.2  # how often a query has the passage's own word for a property

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("dataset.n_passages", self.n_passages, 2 * FAMILY, 100_000)
        in_range("dataset.n_queries", self.n_queries, 10, 10 * self.n_passages)
        in_range("dataset.own_words", self.own_words, 0, 1)
        if self.path is not None:
            raise UserError(
                f"dataset.path={self.path} has no use for dataset={self.name}, which is generated; drop it"
            )

    def read(self, data_dir: Path, bad: BadRows) -> RawPassages:
        rng = np.random.default_rng(self.seed)
        world = World(rng, self.n_passages)
        number = rng.permutation(self.n_passages)  # ids tell nothing of families
        passages = [
            Passage(f"p{number[row]:06d}", world.passage(row), place("passage", row)) for row in range(len(number))
        ]
        queries: dict[str, Query] = {}
        while len(queries) < self.n_queries:
            text, relevant = world.query(self.own_words)
            ids = [passages[row].id for row in relevant]
            name = f"q{len(queries):06d}"
            queries.setdefault(cleaned(text), Query(name, text, ids, place("query", len(queries))))
        return RawPassages(
            passages=passages,
            queries=list(queries.values()),
            source=f"generated, seed {self.seed}",
            licence="MIT, as this project",
            files={},
            synthetic=True,
        )


def place(what: str, row: int) -> Place:
    return Place(GENERATED, f"{what} {row}")


class World:
    """Families in a row; passage `row` belongs to family `row // FAMILY`."""

    def __init__(self, rng: np.random.Generator, n_passages: int) -> None:
        self.n_passages = n_passages
        self.dice = Random(int(rng.integers(2**63)))  # of single draws, much faster than NumPy
        n_families = -(-n_passages // FAMILY)
        kinds, syllables = KINDS.split(), SYLLABLES.split()
        towns = [f"{a} {b}" for a, b in product(syllables, syllables) if a != b]
        chosen = rng.choice(len(kinds) * len(towns), n_families, replace=False)
        self.kind = [kinds[c % len(kinds)] for c in chosen]
        self.town = [towns[c // len(kinds)] for c in chosen]
        self.properties = np.argsort(rng.random((n_families, len(WORDS))), axis=1)[:, :4].tolist()  # of each family
        sides = np.array(list(product((0, 1), repeat=4)))  # [16, 4]
        of_family = np.argsort(rng.random((n_families, len(sides))), axis=1)[:, :FAMILY]
        self.sides = sides[of_family].reshape(-1, 4)[:n_passages].tolist()  # [P, 4] which value

    def passage(self, row: int) -> str:
        family = row // FAMILY
        words = [WORDS[p][side][0] for p, side in zip(self.properties[family], self.sides[row], strict=True)]
        self.dice.shuffle(words)
        form, more = self.dice.choice(DESCRIPTIONS), self.dice.choice(MORE)
        return form.format(*words, kind=self.kind[family], town=self._written(family), more=more)

    def query(self, own_words: float) -> tuple[str, list[int]]:
        """A text, and the rows of the passages that are relevant to it: one or two."""
        target = self.dice.randrange(self.n_passages)
        family = target // FAMILY
        asked = self.dice.sample(range(4), 3)
        words = []
        for a in asked:
            own, other = WORDS[self.properties[family][a]][self.sides[target][a]]
            words.append(own if self.dice.random() < own_words else other)
        text = self.dice.choice(QUESTIONS).format(*words, kind=self.kind[family], town=self._written(family))
        rows = range(family * FAMILY, min((family + 1) * FAMILY, self.n_passages))
        return text, [row for row in rows if all(self.sides[row][a] == self.sides[target][a] for a in asked)]

    def _written(self, family: int) -> str:
        return unicodedata.normalize(self.dice.choice(("NFC", "NFD")), self.town[family])
