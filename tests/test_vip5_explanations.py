"""What reviews give to explain, by hand and without the future; what a network writes, against its own arg max."""

import json
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from data.dataset import Dataset, Interactions
from data.splits import LeaveOneOut, Phase, Split, Temporal
from rerankers.vip5.backbone import Scratch
from rerankers.vip5.explanation_metrics import explanation_metrics
from rerankers.vip5.explanations import FEATURES, Reviews, content_words, held_out_reviews, training_reviews
from rerankers.vip5.network import Vip5Network
from rerankers.vip5.prompts import PLACEHOLDER, Prompt, Prompts, to_batch
from rerankers.vip5.templates import TEMPLATES
from rerankers.vip5.writing import ASKED, BASELINE, explained, write

TEXTS = [  # of three users, four interactions each: two of training, validation, test
    ("Nice", "Nice: Really. It has a soft lamp, rated 4.5 by me. A lamp!"),
    ("Two lamps", "Two lamps: Don't buy, don't! The soft lamp is warm\nand so on and on"),
    ("", "My lamp and the teapot don't match"),
    ("", "the zebra is here"),
    ("No words", "No words"),
    ("Long", "Long: " + "lamp " * 41 + ". Cafe\u0301 LAMP here"),
    ("", "Yes. A café again, so warm"),
    ("", ""),
    ("", ""),
    ("", "a soft café for you? a teapot"),
    ("", "nothing of it is known"),
    ("", "zebra zebra zebra"),
]


@pytest.fixture
def shop(demo: Dataset) -> Dataset:
    headline, review = (np.array(column, dtype=object) for column in zip(*TEXTS, strict=True))
    rating = np.array([5, 4, 1, 2] * 3, dtype=np.float32)
    user = np.repeat(np.arange(3), 4).astype(np.int32)
    events = Interactions(user, np.arange(12, dtype=np.int32), np.arange(12), rating, review, headline)
    return replace(demo, user_id=demo.user_id[:3], interactions=events)


def training_of(dataset: Dataset) -> Phase:
    return LeaveOneOut().split(dataset).train


def same(first: Reviews, second: Reviews) -> bool:
    return all(np.array_equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(Reviews))


def test_sentences_and_features_by_hand(shop: Dataset) -> None:
    reviews = training_reviews(shop, training_of(shop))
    assert reviews.features == ("lamp", "soft", "café", "buy", "rated", "really", "teapot", "warm")
    told = ["It has a soft lamp, rated 4.5 by me", "Don't buy, don't", "Cafe\u0301 LAMP here", "a soft café for you"]
    assert reviews.sentence.tolist() == told and reviews.feature.tolist() == ["rated", "buy", "café", "café"]
    assert reviews.user.tolist() == [0, 0, 1, 2] and reviews.item.tolist() == [0, 1, 5, 9]
    assert reviews.rating.tolist() == [5, 4, 4, 4]
    assert reviews.headline is not None and reviews.headline.tolist() == ["Nice", "Two lamps", "Long", ""]
    held_out = held_out_reviews(shop, training_of(shop), reviews)
    assert held_out.sentence.tolist() == ["My lamp and the teapot don't match", "A café again, so warm"]
    assert held_out.feature.tolist() == ["teapot", "warm"], "match is no feature of training"
    assert held_out.item.tolist() == [2, 6] and held_out.features == reviews.features


@pytest.mark.parametrize("cut", [LeaveOneOut(), Temporal()])
def test_training_reviews_know_nothing_of_what_comes_later(demo: Dataset, cut: LeaveOneOut | Temporal) -> None:
    events, split = demo.interactions, cut.split(demo)
    later = np.ones(len(events), dtype=bool)
    for user, n in enumerate(split.train.histories.lengths):
        later[np.flatnonzero(events.user == user)[:n]] = False
    assert events.review is not None and events.review[later].size == later.sum() > 200
    changed = events.review.copy()
    changed[later] = "A zebra, one zebra and more zebra."
    other = replace(demo, interactions=replace(events, review=changed, rating=np.where(later, 9, events.rating)))
    reviews, again = (training_reviews(data, split.train) for data in (demo, other))
    assert same(reviews, again) and len(reviews) > 500
    pairs = set(zip(events.user[~later].tolist(), events.item[~later].tolist(), strict=True))
    assert set(zip(reviews.user.tolist(), reviews.item.tolist(), strict=True)) <= pairs
    assert len(held_out_reviews(other, split.train, reviews)) == 0
    held_out = held_out_reviews(demo, split.train, reviews)
    assert len(held_out) > 0 and set(held_out.feature) <= set(reviews.features)
    for user, item in zip(held_out.user, held_out.item, strict=True):
        assert demo.sequences.row(user)[split.train.histories.lengths[user]] == item


def test_features_are_the_most_frequent_content_words(demo: Dataset) -> None:
    review = demo.interactions.review
    assert review is not None
    counts = Counter(word for text in review for word in {w.strip(".,").lower() for w in text.split()})
    features = content_words(review.tolist())
    assert [counts[word] for word in features] == sorted((counts[word] for word in features), reverse=True)
    assert {"teapot", "rustic", "love"} <= set(features) and not {"this", "the", "me", "not"} & set(features)
    many = [f"zq{'abcdefghij'[n // 100]}{'klmnopqrst'[n // 10 % 10]}{'qrstuvwxyz'[n % 10]}" for n in range(1000)]
    assert content_words([*many, many[-1]]) == (many[-1], *many[: FEATURES - 1])


def test_questions(shop: Dataset) -> None:
    reviews = training_reviews(shop, training_of(shop))
    words, items, answer = reviews.question(0, TEMPLATES["C-2"])
    assert words == {"rating": "5", "feature": "rated", "headline": "Nice"} and answer == reviews.sentence[0]
    assert {slot: rows.tolist() for slot, rows in items.items()} == {"item": [0], "title": [0], "one": [0]}
    half = replace(reviews, rating=reviews.rating - 0.5, headline=None)
    words, _, answer = half.question(3, TEMPLATES["C-7"])
    assert words == {"rating": "3.5", "feature": "café"} and answer == "3.5, a soft café for you"
    assert half.question(3, TEMPLATES["C-11"], 0.3, np.random.default_rng(0))[2] == "a soft café for you"


def test_predicted_ratings_are_drawn_around_the_review_s_within_the_scale(shop: Dataset) -> None:
    reviews = replace(training_reviews(shop, training_of(shop)), rating=np.array([1, 3, 5, 5], dtype=np.float32))
    rng = np.random.default_rng(0)

    def drawn(row: int) -> np.ndarray:
        return np.array([float(reviews.question(row, TEMPLATES["C-8"], 0.3, rng)[2][:3]) for _ in range(2000)])

    assert drawn(1).mean() == pytest.approx(3, abs=0.03) and drawn(1).std() == pytest.approx(0.3, abs=0.03)
    assert drawn(0).min() == 1 and drawn(2).max() == 5 and np.unique(drawn(2)).size > 5
    assert reviews.question(1, TEMPLATES["C-8"], 0.0, rng)[2].startswith("3.0, ")


def test_reviews_of_a_part_of_the_users(demo: Dataset, split: Split) -> None:
    few = split.train.take(np.arange(90, 30, -7))
    part, every = training_reviews(demo, few), training_reviews(demo, split.train)
    assert set(part.user.tolist()) == set(few.ids.tolist()) < set(every.user.tolist())
    assert len(part) == np.isin(every.user, few.ids).sum()
    assert set(held_out_reviews(demo, few, part).user.tolist()) <= set(few.ids.tolist())


def test_what_reviews_lack_is_not_asked(shop: Dataset) -> None:
    def allowed(reviews: Reviews) -> set[str]:
        return {name for name, template in TEMPLATES.items() if name[0] == "C" and reviews.allows(template)}

    reviews = training_reviews(shop, training_of(shop))
    every = {f"C-{n}" for n in range(1, 13)}
    rated = {f"C-{n}" for n in (3, 6, 7, 8, 11, 12)}
    assert allowed(reviews) == every and allowed(replace(reviews, headline=None)) == every - {"C-2", "C-5"}
    unrated = replace(reviews, rating=np.array([5, np.nan, 1, 1], dtype=np.float32))
    assert not unrated.rated and allowed(unrated) == every - rated
    for review in (None, np.full(12, "", dtype=object)):
        silent = replace(shop, interactions=replace(shop.interactions, review=review))
        nothing = training_reviews(silent, training_of(shop))
        assert len(nothing) == 0 and not nothing.rated and nothing.features == () and allowed(nothing) == set()
        assert len(held_out_reviews(silent, training_of(shop), reviews)) == 0


Written = tuple[Vip5Network, Prompts, Reviews, Reviews]


def words_of(user: int) -> dict[str, str]:
    return {"user": f"user_{user}", "name": f"shopper_{user}"}


@pytest.fixture
def writer(demo: Dataset, split: Split) -> Written:
    training = training_reviews(demo, split.train)
    held_out = held_out_reviews(demo, split.train, training)
    scratch = Scratch(d_model=32, d_ff=64, num_layers=1)
    always = [*(template.text for template in TEMPLATES.values()), *map(str, range(120)), "user_ shopper_ item_"]
    tokenizer = scratch.tokenizer(always, [*demo.catalog.title, *training.sentence])
    torch.manual_seed(0)
    placeholder = tokenizer.convert_tokens_to_ids(PLACEHOLDER)
    network = Vip5Network(scratch.model(tokenizer), placeholder, 1, torch.randn(60, 4))
    prompts = Prompts(tokenizer, np.arange(1, 61), demo.catalog.title.tolist(), visual_tokens=1, max_length=128)
    return network, prompts, training, held_out


def asked(prompts: Prompts, reviews: Reviews, rows: list[int], template: str = "C-12") -> list[Prompt]:
    out = []
    for row in rows:
        words, items, _ = reviews.question(row, TEMPLATES[template])
        out.append(prompts.render(TEMPLATES[template], items, words | words_of(int(reviews.user[row]))))
    return out


KNOWN = list(range(6))  # rows of the training reviews


def teach(network: Vip5Network, prompts: Prompts, reviews: Reviews, steps: int) -> None:
    batch = to_batch(asked(prompts, reviews, KNOWN), 0)
    answers = [torch.tensor([*prompts.tokens([text]).values, prompts.end]) for text in reviews.sentence[KNOWN]]
    labels = torch.nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=-100).long()
    network.eval()  # no dropout
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        network(**batch, labels=labels).sum().backward()
        optimizer.step()


def test_writing_is_the_arg_max_token_after_token_in_the_order_asked(writer: Written) -> None:
    network, prompts, training, _ = writer
    teach(network, prompts, training, steps=20)
    some = [*asked(prompts, training, [3, 1, 4], "C-1"), *asked(prompts, training, [1, 5])]
    wanted = []
    for prompt in some:
        batch = to_batch([prompt], 0)
        tokens = torch.tensor([[0]])
        while tokens.shape[1] <= 6 and tokens[0, -1] != prompts.end:
            states = network.decode(tokens, network.encode(batch), batch["attention_mask"])
            tokens = torch.cat([tokens, network.t5.lm_head(states[:, -1]).argmax(dim=-1, keepdim=True)], dim=1)
        wanted.append(prompts.tokenizer.decode(tokens[0], skip_special_tokens=True))
    network.train()
    for batch_size in (1, 2, 8):
        assert write(network, prompts.tokenizer, some, 6, batch_size) == wanted
    assert len(set(wanted)) > 2 and write(network, prompts.tokenizer, [], 6, 2) == []


def test_a_few_sentences_learnt_by_heart_are_written_back(writer: Written) -> None:
    network, prompts, training, _ = writer
    teach(network, prompts, training, steps=80)
    sentences = training.sentence[KNOWN].tolist()
    written = write(network, prompts.tokenizer, asked(prompts, training, KNOWN), 30, 4)
    assert written == sentences and len(set(sentences)) > 3
    assert explanation_metrics(written, sentences)["bleu_4"] == pytest.approx(100)


def test_explained(writer: Written) -> None:
    network, prompts, training, held_out = writer

    def run(limit: int = 12, reviews: Reviews = held_out) -> dict[str, Any]:
        settings = {"limit": limit, "max_new_tokens": 5, "batch_size": 8}
        return explained(network, prompts, reviews, training, words_of, **settings)

    got = run()
    assert json.loads(json.dumps(got)) == got == run()
    assert got.pop("of") == "the interaction after each user's training part" and list(got) == [BASELINE, *ASKED]
    rows = np.random.default_rng(0).permutation(len(held_out))[:12].tolist()
    references = held_out.sentence[rows].tolist()
    counts = Counter(training.sentence.tolist())
    assert counts[got[BASELINE]["written"]] == max(counts.values())
    for name, own in got.items():
        texts = [got[BASELINE]["written"]] * 12
        if name != BASELINE:
            texts = write(network, prompts.tokenizer, asked(prompts, held_out, rows, name), 5, 3)
            assert [example["written"] for example in own["examples"]] == texts[:5]
            assert [example["reference"] for example in own["examples"]] == references[:5]
        assert own["number"] == 12
        metrics = explanation_metrics(texts, references)
        assert {metric: own[metric] for metric in metrics} == pytest.approx(metrics)
    item, feature = prompts.numbers[held_out.item[rows[0]]], held_out.feature[rows[0]]
    prompt = got["C-3"]["examples"][0]["prompt"]
    assert prompts.titles[item - 1] in prompt and f"user_{held_out.user[rows[0]]} gave" in prompt
    assert f"stars to item_{item} for its {feature} . Explain why:" in got["C-12"]["examples"][0]["prompt"]
    assert run(10**9)["C-3"]["number"] == len(held_out)
    unrated = replace(held_out, rating=np.full(len(held_out), np.nan, dtype=np.float32))
    assert run(0) == run(reviews=unrated) == {}
