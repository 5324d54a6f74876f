"""A synthetic shop with a planted structure, generated from a seed in memory, so that everything runs anywhere.

What a user takes next depends on four things, and each kind of reranker can see a part of them:

    category taste   titles and categories (text)         style taste    adjectives in titles and reviews (text)
    colour taste     only the pictures show it (images)   succession     some items follow others (ids in sequence)

The probabilities are known, so the model that drew the data is scored beside the rerankers: the planted ceiling.

With `cold_share` some of the items are new: all are launched when everything else has happened, and the last item of
each user is one of them, drawn by category, style and colour alone. Leave-one-out then tests what no id can teach, as
training and validation have none of them; candidates=sampled draws its negatives from old and new items alike.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data.dataset import Requests
from data.errors import UserError, in_range
from data.sources.source import Raw, Source

NOUNS = "teapot lamp scarf backpack candle notebook chair mug blanket clock basket mirror".split()
ROOMS = "kitchen living wardrobe travel living office living kitchen bedroom office garden bedroom".split()
STYLES = "rustic modern vintage nordic industrial floral minimal coastal".split()
COLOURS = ((200, 40, 40), (40, 120, 200), (40, 160, 70), (230, 180, 40), (140, 70, 170), (90, 90, 90))
IMPOSSIBLE = -1e3  # log-weight, in place of -infinity
PRAISE = (
    "I love this {style} {noun}.",
    "A lovely {style} {noun}, just right.",
    "The {noun} is so {style}, I am happy.",
)
BLAME = (
    "This {noun} is too {style} for me.",
    "Not my {noun}.",
    "The {style} look of the {noun} let me down.",
)


@dataclass
class Demo(Source):
    n_users: int = 2000
    n_items: int = 200
    mean_length: int = 20  # interactions a user, at least 5
    cold_share: float = 0.0  # of the items are new: nobody takes one but last
    taste: float = 1.0  # how much the three tastes decide, beside popularity and succession

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("dataset.n_users", self.n_users, 1, 100_000)
        in_range("dataset.n_items", self.n_items, 60, 5_000)  # the planted transitions are dense
        in_range("dataset.mean_length", self.mean_length, 5, 1_000)
        in_range("dataset.cold_share", self.cold_share, 0, 0.5)
        in_range("dataset.taste", self.taste, 0, 10)
        if self.cold_share and (self.min_rating is not None or self.k_core > 1):
            raise UserError("dataset.cold_share needs each user's last item; leave out dataset.min_rating and k_core")

    def read(self, data_dir: Path) -> Raw:
        rng = np.random.default_rng(self.seed)
        n_new = int(np.ceil(self.cold_share * self.n_items))
        world = World.draw(rng, self.n_users, self.n_items, n_new, self.taste)
        length = np.clip(rng.poisson(self.mean_length, self.n_users), 5, (self.n_items - n_new) // 2)
        taken, step = world.walk(rng, length)  # item of each step [U, T]
        user, position = np.nonzero(np.arange(taken.shape[1]) < length[:, None])
        item = taken[user, position]
        start = rng.integers(1_577_836_800, 1_640_995_200, self.n_users)  # 2020 and 2021
        pause = rng.integers(3_600, 400_000, taken.shape)
        timestamp = start[user] + np.cumsum(pause, axis=1)[user, position]
        notes = []
        if n_new:
            final = position == length[user] - 1
            timestamp[final] = timestamp[~final].max() + pause[user, position][final]
            notes = [f"{n_new:,} of {self.n_items:,} items are new; the last interaction of each user is with one"]
        liking = step[user, position]
        rating = np.clip(
            np.round(3.5 + 0.7 * (liking - liking.mean()) / liking.std() + rng.normal(0, 0.5, len(user))),
            1,
            5,
        )
        events = pd.DataFrame(
            {
                "user": np.char.mod("u%04d", user).astype(object),
                "item": world.item_id[item],
                "timestamp": timestamp,
                "rating": rating,
                "review": world.reviews(rng, item, rating),
            }
        )
        users = {f"u{u:04d}": u for u in range(self.n_users)}
        items = {name: row for row, name in enumerate(world.item_id)}
        return Raw(
            interactions=events,
            items=world.items(rng),
            source=f"generated, seed {self.seed}",
            licence="MIT, as this project",
            files={},
            synthetic=True,
            notes=notes,
            plant=lambda user_id, item_id: PlantedModel(
                world, np.array([users[u] for u in user_id]), np.array([items[i] for i in item_id]), length
            ),
        )


@dataclass(frozen=True)
class World:
    item_id: np.ndarray  # [I] str
    category: np.ndarray  # [I] index into NOUNS
    style: np.ndarray  # [I] index into STYLES
    colour: np.ndarray  # [I] index into COLOURS
    popularity: np.ndarray  # [I] log-weight
    taste: np.ndarray  # [U, I] log-weight of category + style + colour
    follow: np.ndarray  # [I, I] log-weight of going from row to column
    new: np.ndarray  # [I] bool: taken last or never

    @staticmethod
    def draw(rng: np.random.Generator, n_users: int, n_items: int, n_new: int, taste_weight: float) -> "World":
        category = np.arange(n_items) % len(NOUNS)
        style, colour = rng.integers(0, len(STYLES), n_items), rng.integers(0, len(COLOURS), n_items)

        def liking(kinds: int, favourites: int, weight: float) -> np.ndarray:
            liked = np.argsort(rng.random((n_users, kinds)), axis=1) < favourites
            return (weight * liked).astype(np.float32)

        taste = (
            liking(len(NOUNS), 3, 2.0)[:, category]
            + liking(len(STYLES), 2, 1.4)[:, style]
            + liking(len(COLOURS), 2, 1.4)[:, colour]
        )
        follow = np.zeros((n_items, n_items), dtype=np.float32)
        successors = np.argsort(rng.random((n_items, n_items)), axis=1)[:, :3]
        np.put_along_axis(follow, successors, 5.8, axis=1)
        ids = np.array([f"B{n:05d}" for n in rng.permutation(90_000)[:n_items] + 10_000], dtype=object)
        new = np.arange(n_items) >= n_items - n_new  # of every category
        taste = np.float32(taste_weight) * taste
        return World(ids, category, style, colour, rng.normal(0, 0.6, n_items), taste, follow, new)

    def log_weights(self, user: np.ndarray, last: np.ndarray, final: np.ndarray) -> np.ndarray:
        """Unnormalised log-probability of each item as the next one, [len(user), I]; last = -1 at the start.

        `final`: whether it is the last one that the user takes, which is a new item where there are any.
        """
        weights = self.taste[user] + self.popularity + np.where(last[:, None] >= 0, self.follow[last], 0)
        if not self.new.any():
            return weights
        return np.where(self.new == final[:, None], np.where(self.new, self.taste[user], weights), -np.inf)

    def walk(self, rng: np.random.Generator, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Items drawn without repeats by the Gumbel trick, and the taste for each: two arrays [U, max(length)]."""
        n_users, n_items = self.taste.shape
        everyone, last = np.arange(n_users), np.full(n_users, -1)
        free = np.zeros((n_users, n_items), dtype=np.float32)
        taken = np.empty((n_users, length.max()), dtype=np.int64)
        for t in range(taken.shape[1]):
            noise = rng.gumbel(size=free.shape)
            last = np.argmax(self.log_weights(everyone, last, length == t + 1) + noise + free, axis=1)
            taken[:, t] = last
            free[everyone, last] = -np.inf
        return taken, np.take_along_axis(self.taste, taken, axis=1)

    def reviews(self, rng: np.random.Generator, item: np.ndarray, rating: np.ndarray) -> np.ndarray:
        choice = rng.integers(0, 3, len(item))
        texts = [
            (PRAISE if r >= 4 else BLAME)[c].format(style=STYLES[self.style[i]], noun=NOUNS[self.category[i]])
            for i, r, c in zip(item, rating, choice, strict=True)
        ]
        return np.array(texts, dtype=object)

    def items(self, rng: np.random.Generator) -> pd.DataFrame:
        syllables = np.array("mi ro ta lu ke so na vi do pa".split(), dtype=object)
        names = syllables[rng.integers(0, len(syllables), (len(self.item_id), 3))].sum(axis=1)
        style, noun = np.array(STYLES, dtype=object)[self.style], np.array(NOUNS, dtype=object)[self.category]
        rooms = np.array(ROOMS, dtype=object)[self.category]
        pictures = np.empty(len(self.item_id), dtype=object)
        for row in range(len(pictures)):
            pictures[row] = paint(int(self.category[row]), COLOURS[self.colour[row]])
        return pd.DataFrame(
            {
                "title": [
                    f"{s.capitalize()} {n} {m.capitalize()}" for s, n, m in zip(style, noun, names, strict=True)
                ],
                "description": [f"A {s} {n} for the {r}." for s, n, r in zip(style, noun, rooms, strict=True)],
                "categories": [(r, n) for r, n in zip(rooms, noun, strict=True)],
                "image": pictures,
            },
            index=pd.Index(self.item_id),
        )


def paint(category: int, colour: tuple[int, int, int], size: int = 32) -> np.ndarray:
    """A product picture, uint8 [size, size, 3]: the category's silhouette in the product's colour on white."""
    y, x = (np.mgrid[0:size, 0:size] - (size - 1) / 2) / (size / 2)
    width, kind = 0.45 + 0.1 * (category // 4), category % 4
    shape = (
        x**2 + y**2 < width**2,
        np.maximum(abs(x), abs(y)) < width,
        abs(x) + abs(y) < width * 1.3,
        (abs(x) < width * (y + 1) / 2) & (abs(y) < 0.8),
    )[kind]
    picture = np.full((size, size, 3), 255, dtype=np.uint8)
    picture[shape] = colour
    return picture


@dataclass(frozen=True)
class PlantedModel:
    """The generator's own probabilities; it knows each user's taste, which no reranker is told."""

    world: World
    user: np.ndarray  # [U] the world's user of each user row
    item: np.ndarray  # [I] the world's item of each catalog row
    length: np.ndarray  # of the world's users: interactions

    def score(self, requests: Requests) -> np.ndarray:
        """Log-weight of each candidate after the last item of the history, float32 [R, N].

        It knows when a user takes the last one: then all new items stand above all old ones, and before below them.
        """
        last, user = requests.histories.last(1)[:, 0], self.user[requests.ids]
        final = requests.histories.lengths >= self.length[user] - 1
        weights = self.world.log_weights(user, np.where(last < 0, -1, self.item[last]), final)
        weights = np.maximum(weights[:, self.item], IMPOSSIBLE).astype(np.float32)
        if requests.candidates is None:
            return weights
        return np.take_along_axis(weights, np.maximum(requests.candidates, 0), axis=1)
