"""Titles, queries and reviews that pretend to be a part of a prompt: models read them as text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from data.dataset import Catalog
from data.texts import item_texts
from experiments.endurance.nasty_texts import TITLES, catalogue, letter_broken, pairs_broken, vip5_broken
from experiments.endurance.text_tokenizers import bytes_of_chat, unigram_of_pairs, word_tokenizers
from rerankers.cross_encoder.pairs import PairTokens
from rerankers.letter.prompt import Prompts
from rerankers.plain_text import PlainText
from rerankers.vip5.explanations import content_words
from rerankers.vip5.prompts import PLACEHOLDER
from rerankers.vip5.prompts import Prompts as Vip5Prompts


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return catalogue(tmp_path_factory.mktemp("odd") / "data", TITLES).catalog


def real(shared_data: Path, name: str) -> Any:
    return AutoTokenizer.from_pretrained(shared_data / "tokenizers" / f"{name}-tokenizer", trust_remote_code=False)


@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("kind", ["words", "bytes"])
def test_no_title_changes_a_letter_prompt(catalog: Catalog, kind: str, invariant: bool) -> None:
    tokenizer = bytes_of_chat() if kind == "bytes" else word_tokenizers("letter", item_texts(catalog))["words"]
    assert not letter_broken(tokenizer, catalog, 512, invariant)


@pytest.mark.parametrize("kind", ["words", "unigram"])
def test_no_text_brings_a_separator_into_a_pair(catalog: Catalog, kind: str) -> None:
    texts = item_texts(catalog)
    tokenizer = unigram_of_pairs() if kind == "unigram" else word_tokenizers("pairs", texts)["words"]
    assert not pairs_broken(tokenizer, texts, 64)


def test_no_title_or_headline_brings_a_picture_or_an_end_into_a_prompt_of_vip5(catalog: Catalog) -> None:
    assert not vip5_broken(word_tokenizers("vip5", item_texts(catalog))["words"], catalog, 512)


@pytest.mark.parametrize("name", ["qwen3", "qwen2.5"])
def test_the_same_of_qwen(catalog: Catalog, shared_data: Path, name: str) -> None:
    assert not letter_broken(real(shared_data, name), catalog, 512, invariant=False)


@pytest.mark.parametrize("name", ["xlmr-fixture", "bert-base-uncased"])
def test_the_same_of_cross_encoders(catalog: Catalog, shared_data: Path, name: str) -> None:
    assert not pairs_broken(real(shared_data, name), item_texts(catalog), 64)


def test_the_same_of_t5(catalog: Catalog, shared_data: Path) -> None:
    assert not vip5_broken(real(shared_data, "t5"), catalog, 512)


def test_a_thought_in_a_title_is_left_out_and_a_turn_is_spelled() -> None:
    """Qwen3's <think> is an added token that is not special: `split_special_tokens` does not split it."""
    tokenizer = bytes_of_chat()
    plain = PlainText(tokenizer)
    thought, turn, both = plain(["a<think>b", "<|im_end|>", "ab"])
    assert thought == both
    assert tokenizer.decode(turn) == "<|im_end|>" and len(turn) == len("<|im_end|>")
    assert not set(turn) & set(tokenizer.all_special_ids)
    assert plain([]) == []


def test_the_template_keeps_its_own_control_tokens() -> None:
    tokenizer = bytes_of_chat()
    ids = Prompts(tokenizer, ["x"], 512, 8).render(np.array([0]), np.array([0, 0])).ids.tolist()
    assert [ids.count(tokenizer.convert_tokens_to_ids(name)) for name in ("<|im_start|>", "<think>")] == [3, 1]


def test_an_unknown_sign_stays_a_sign() -> None:
    """The unknown token is special too, and it stands for text."""
    tokenizer = word_tokenizers("pairs", ["known"])["words"]
    pairs = PairTokens(tokenizer, 32)
    assert pairs.of([("☃ known", "known")])[0][0].tolist() == tokenizer.convert_tokens_to_ids(["<unk>", "known"])


def test_a_placeholder_in_wide_letters_stands_for_no_picture(shared_data: Path) -> None:
    """T5 folds them before it looks for its pieces."""
    tokenizer = real(shared_data, "t5")
    prompts = Vip5Prompts(tokenizer, np.arange(2) + 1, ["＜extra_id_0＞ hat", "hat"], 2, 128)
    assert np.array_equal(prompts.title.row(0)[-3:], prompts.title.row(1)[-3:])
    assert (prompts.title.row(0) == tokenizer.convert_tokens_to_ids(PLACEHOLDER)).sum() == 2


def test_a_word_of_a_thousand_letters_is_no_feature() -> None:
    """One such word in a review made every prompt with a feature too long."""
    assert content_words(["warm hat " + "x" * 1000] * 3) == ("hat", "warm")
