"""Prompts put together from parts: the tokens of the whole text, whole words, placeholders, what a long one loses."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_vip5 import prompts_of, tokenizer_of

from data.errors import UserError
from rerankers.vip5.prompts import PLACEHOLDER, SEPARATORS, Prompt, Prompts, begins_word, to_batch
from rerankers.vip5.templates import MENTIONS, TEMPLATES, Template

NEEDED = {"history": [2, 0, 5, 1], "candidates": [3, 4, 6, 2, 1], "one": [9], "item": [7], "title": [8]}
WORDS = {"user": "user_251", "name": "Ann Lee", "rating": "4", "headline": "so nice a hat", "feature": "brim"}
ITEMS = {slot: np.array(rows) for slot, rows in NEEDED.items()}


@pytest.fixture(params=["t5", "tiny"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return tokenizer_of(request.getfixturevalue("shared_data") if request.param == "t5" else None)


@pytest.fixture
def t5(shared_data: Path) -> Any:
    return tokenizer_of(shared_data)


def spelled(prompts: Prompts, template: Template, separator: int) -> str:
    """The whole text, a space around each slot."""
    visual = " " + PLACEHOLDER * prompts.visual_tokens

    def text(slot: str) -> str:
        if slot not in MENTIONS:
            return WORDS[slot]
        if slot == "title":
            return prompts.titles[NEEDED[slot][0]] + visual
        mentioned = [f"{'item_' * (slot == 'item')}{prompts.numbers[row]}{visual}" for row in NEEDED[slot]]
        return f" {SEPARATORS[separator if slot == 'history' else 0]} ".join(mentioned)

    return " ".join(re.sub(r"{(\w+)}", lambda match: f" {text(match[1])} ", template.text).split())


@pytest.mark.parametrize("visual_tokens", [0, 1, 2, 3])
def test_rendering_is_tokenizing_the_whole_text(tokenizer: Any, visual_tokens: int) -> None:
    prompts = prompts_of(tokenizer, visual_tokens)
    for template in TEMPLATES.values():
        for separator in (0, 1):
            prompt = prompts.render(template, ITEMS, WORDS, separator)
            assert prompt.ids.tolist() == tokenizer(spelled(prompts, template, separator)).input_ids, template.name
            assert not prompt.shortened


@pytest.mark.parametrize("visual_tokens", [0, 1, 2, 3])
def test_each_mentioned_item_has_its_placeholders(tokenizer: Any, visual_tokens: int) -> None:
    prompts = prompts_of(tokenizer, visual_tokens)
    for template in TEMPLATES.values():
        mentioned = [row for slot in template.slots if slot in MENTIONS for row in NEEDED[slot]]
        prompt = prompts.render(template, ITEMS, WORDS)
        assert prompt.pictures.tolist() == (mentioned if visual_tokens else []), template.name
        assert (prompt.ids == prompts.placeholder).sum() == visual_tokens * len(mentioned), template.name


def test_whole_words_worked_out_by_hand(t5: Any) -> None:
    prompts = prompts_of(t5)
    prompt = prompts.render(Template("A-0", "{user} took {history}.", "item"), {"history": np.array([11, 8])}, WORDS)
    hand = [
        ("▁user", 1), ("_", 1), ("25", 1), ("1", 1), ("▁took", 2),
        ("▁25", 3), ("1", 3), ("<extra_id_0>", 4), ("<extra_id_0>", 5), ("▁", 6), (",", 6),
        ("▁3", 7), ("45", 7), ("<extra_id_0>", 8), ("<extra_id_0>", 9), ("▁", 10), (".", 10), ("</s>", 0),
    ]  # fmt: skip
    pieces = t5.convert_ids_to_tokens(prompt.ids.tolist())
    assert list(zip(pieces, prompt.whole_words.tolist(), strict=True)) == hand


def test_words_begin_at_the_mark_and_at_placeholders(tokenizer: Any) -> None:
    begins = begins_word(tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert len(begins) == len(tokenizer)
    assert {piece for piece, begin in zip(pieces, begins, strict=True) if begin and piece[0] != "▁"} == {PLACEHOLDER}
    assert not begins[tokenizer.eos_token_id] and not begins[tokenizer.pad_token_id]


def test_answers_are_the_bare_numbers(tokenizer: Any) -> None:
    prompts = prompts_of(tokenizer)
    for row, number in enumerate(prompts.numbers):
        answer = prompts.answers.row(row).tolist()
        assert [*answer, prompts.end] == tokenizer(str(number)).input_ids
        assert tokenizer.decode(answer) == str(number)
    assert prompts.yes_no().tolist() == [tokenizer("yes").input_ids[0], tokenizer("no").input_ids[0]]
    assert len(set(prompts.yes_no())) == 2


@pytest.mark.parametrize("name", ["A-1", "A-3", "D-2"])
def test_a_long_history_loses_its_oldest_items_and_no_more(tokenizer: Any, name: str) -> None:
    template = TEMPLATES[name]
    whole = prompts_of(tokenizer).render(template, ITEMS, WORDS)
    without = prompts_of(tokenizer).render(template, ITEMS | {"history": np.zeros(0, dtype=np.int64)}, WORDS)
    tail = whole.ids[np.flatnonzero(whole.ids == prompts_of(tokenizer).placeholder)[7] + 1 :].tolist()
    seen = set()
    newest = prompts_of(tokenizer).render(template, ITEMS | {"history": np.array([1])}, WORDS)
    for length in range(len(newest.ids), len(whole.ids) + 1):
        prompts = prompts_of(tokenizer, max_length=length)
        prompt = prompts.render(template, ITEMS, WORDS)
        n_kept = len(prompt.pictures) - len(without.pictures)
        seen.add(n_kept)
        assert len(prompt.ids) <= length and prompt.shortened == (length < len(whole.ids))
        kept = NEEDED["history"][len(NEEDED["history"]) - n_kept :]
        assert prompt.pictures[:n_kept].tolist() == kept
        assert prompt.ids[-len(tail) :].tolist() == tail
        same = prompts_of(tokenizer).render(template, ITEMS | {"history": np.array(kept, dtype=np.int64)}, WORDS)
        assert same.ids.tolist() == prompt.ids.tolist()
        if n_kept < 4:
            more = ITEMS | {"history": np.array(NEEDED["history"][3 - n_kept :])}
            assert len(prompts_of(tokenizer).render(template, more, WORDS).ids) > length, "one more would fit"
    assert seen == {1, 2, 3, 4}
    with pytest.raises(
        UserError, match=f"needs {len(newest.ids)} tokens with .* give reranker.max_length={len(newest.ids)},"
    ):
        prompts_of(tokenizer, max_length=len(newest.ids) - 1).render(template, ITEMS, WORDS)
    nothing = ITEMS | {"history": np.zeros(0, dtype=np.int64)}
    assert not prompts_of(tokenizer, max_length=len(without.ids)).render(template, nothing, WORDS).shortened


@pytest.mark.parametrize("name", ["A-3", "B-5", "C-2", "D-1"])
def test_what_cannot_be_shortened_says_how_long_it_is(tokenizer: Any, name: str) -> None:
    items = ITEMS | {"history": np.zeros(0, dtype=np.int64)}
    length = len(prompts_of(tokenizer).render(TEMPLATES[name], items, WORDS).ids)
    with pytest.raises(UserError, match=f"prompt {name} needs {length} tokens.* reranker.max_length={length - 1} "):
        prompts_of(tokenizer, max_length=length - 1).render(TEMPLATES[name], items, WORDS)


def test_a_long_title_is_cut_before_its_pictures(tokenizer: Any) -> None:
    numbers = np.array([1, 2])
    prompts = Prompts(tokenizer, numbers, ["a " * 50, "a"], visual_tokens=2, max_length=512, max_title_length=4)
    assert prompts.title.lengths.tolist() == [4 + 2, len(tokenizer.tokenize("a")) + 2]
    assert (prompts.title.row(0)[-2:] == prompts.placeholder).all()


def test_a_batch_is_padded_on_the_right_and_names_pictures_row_after_row(tokenizer: Any) -> None:
    prompts = prompts_of(tokenizer)
    names = ["D-1", "B-1", "A-3"]
    made: list[Prompt] = [prompts.render(TEMPLATES[name], ITEMS, WORDS) for name in names]
    batch = to_batch(made, padding=0)
    for row, prompt in enumerate(made):
        length = len(prompt.ids)
        assert batch["input_ids"][row].tolist() == [*prompt.ids, *[0] * (batch["input_ids"].shape[1] - length)]
        assert batch["whole_words"][row, length:].sum() == 0 and batch["whole_words"][row, length - 1] == 0
        assert batch["attention_mask"][row].sum() == batch["attention_mask"][row, :length].sum() == length
        assert (batch["input_ids"][row] == prompts.placeholder).sum() == 2 * len(prompt.pictures)
    assert batch["pictures"].tolist() == [row for prompt in made for row in prompt.pictures]


def test_the_papers_29_templates_and_two_of_ours() -> None:
    counts = Counter(template.family for template in TEMPLATES.values())
    assert counts == {"sequential": 9, "direct": 8, "explanation": 12, "rerank": 2}
    assert {name for name, template in TEMPLATES.items() if not template.trained} == {"A-9", "B-8", "C-12"}
    assert all(name == template.name for name, template in TEMPLATES.items())
    assert len({template.text for template in TEMPLATES.values()}) == 31
    answers = Counter((template.family, template.answer) for template in TEMPLATES.values())
    assert answers == {
        ("sequential", "item"): 7,
        ("sequential", "yes_no"): 2,
        ("direct", "item"): 4,
        ("direct", "yes_no"): 4,
        ("explanation", "explanation"): 10,
        ("explanation", "rating_explanation"): 2,
        ("rerank", "item"): 2,
    }


def test_slots_are_those_of_the_papers_prompts() -> None:
    """History without candidates and candidates without history, but in ours; each speaks of one user."""
    for template in TEMPLATES.values():
        slots = set(template.slots)
        assert len(slots & {"user", "name"}) == 1, template.name
        assert ("history" in slots) == (template.name[0] in "AD"), template.name
        assert ("candidates" in slots) == (template.name in ("B-5", "B-6", "B-7", "B-8", "D-1", "D-2")), template.name
        assert slots <= {*MENTIONS, *WORDS}, template.name


def test_a_placeholder_in_a_title_stands_for_no_picture(tokenizer: Any) -> None:
    prompts = Prompts(tokenizer, np.array([1, 12]), ["Hat <extra_id_0> blue", "Blue hat"], 2, 512)
    for item in (0, 1):
        made = prompts.render(TEMPLATES["B-3"], {"title": np.array([item])}, {"name": "shopper_1"})
        assert (made.ids == prompts.placeholder).sum() == 2 * len(made.pictures) == 2
