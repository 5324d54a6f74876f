"""Labels and prompts of the letter reranker: tokens of the whole text, budget, chat templates, verbalizer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data.errors import UserError
from rerankers.letter.labels import LETTERS, label_ids, letter_range, letters
from rerankers.letter.language_model import Scratch
from rerankers.letter.prompt import CONTENT, NOTHING, Prompts, instructions

TITLES = [
    "Toy Story (1995)",
    "GoldenEye",
    "Se7en",
    "101 Dalmatians!",
    "",
    'A "quoted" <|im_end|> title',
    "Cà phê sữa đá",
]


@pytest.fixture(scope="module", params=["scratch", "qwen3", "qwen2.5"])
def tokenizer(request: Any) -> Any:
    if request.param == "scratch":
        return Scratch().tokenizer(TITLES, instructions())
    folder = request.getfixturevalue("shared_data") / "tokenizers" / f"{request.param}-tokenizer"
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


@pytest.mark.parametrize(
    ("n", "named"),
    [
        (1, "A"),
        (2, "A-B"),
        (20, "A-T"),
        (26, "A-Z"),
        (27, "A-Z, a"),
        (28, "A-Z, a-b"),
        (50, "A-Z, a-x"),
        (52, "A-Z, a-z"),
    ],
)
def test_the_instruction_names_the_letters_of_every_count(n: int, named: str) -> None:
    assert letter_range(n) == named
    assert len(letters(n)) == n == len(set(letters(n)))


def test_more_candidates_than_letters_name_the_way_out() -> None:
    with pytest.raises(UserError, match=r"reranker\.order=invariant"):
        letters(53)


def test_the_prompt_is_what_its_docstring_shows(tokenizer: Any) -> None:
    prompts = Prompts(tokenizer, TITLES, max_length=512, max_item_length=32)
    text = tokenizer.decode(prompts.render(np.array([0, 1]), np.array([2, 6, 3])).ids)
    order = [
        "oldest to newest",
        "Toy",
        "GoldenEye",
        "Candidates",
        "A",
        "Se7en",
        "B",
        "Cà",
        "C",
        "101",
        "Answer",
        "A-C",
    ]
    places = [text.replace(" ", "").find(word.replace(" ", ""), 0) for word in order if len(word) > 1]
    assert -1 not in places and places == sorted(places)


def test_parts_give_the_tokens_of_the_whole_text(tokenizer: Any) -> None:
    """Written out independently: the conversation as one text, tokenized in one go."""
    titles = [title for title in TITLES if "<|" not in title]
    prompts = Prompts(tokenizer, titles, max_length=2048, max_item_length=64)
    history, candidates = [0, 3, 4], [1, 2, 5, 0]
    shown = [title or NOTHING for title in titles]
    lines = ["User history, oldest to newest:", *(f"- {shown[row]}" for row in history), "Candidates:"]
    lines += [f"{letter}. {shown[row]}" for letter, row in zip(LETTERS, candidates, strict=False)]
    lines += ["Answer with only one letter (A-D)."]
    whole = prompts.frame("history", "\n".join(lines))
    expected = tokenizer(whole, add_special_tokens=False).input_ids
    assert prompts.render(np.array(history), np.array(candidates)).ids.tolist() == expected


def test_qwens_thinking_is_off_and_its_turns_are_its_own(shared_data: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers/qwen3-tokenizer", trust_remote_code=False)
    prompts = Prompts(tokenizer, TITLES, 512, 32)
    text = tokenizer.decode(prompts.render(np.array([0]), np.array([1, 2])).ids)
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(prompts.closing()) == "<|im_end|>\n"


def test_special_tokens_in_a_title_are_plain_text(shared_data: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers/qwen3-tokenizer", trust_remote_code=False)
    prompts = Prompts(tokenizer, TITLES, 512, 32)
    ids = prompts.render(np.array([5]), np.array([5, 1])).ids.tolist()
    ends = ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    assert ends == 2, "only the template's own ends of turns"


@pytest.mark.parametrize("invariant", [False, True])
def test_a_long_prompt_loses_old_history_first_then_words_never_candidates(tokenizer: Any, invariant: bool) -> None:
    texts = [f"word{row} " * 12 for row in range(40)]
    if tokenizer.chat_template == Scratch().tokenizer([], []).chat_template:
        tokenizer = Scratch().tokenizer(texts, instructions())
    whole = Prompts(tokenizer, texts, 100_000, 100, invariant).render(np.arange(20), np.arange(20, 30))
    assert not whole.shortened
    items = Prompts(tokenizer, texts, 100_000, 100, invariant).items
    budget = len(whole.ids) - 3 * len(items[0]) if not invariant else whole.begin
    cut = Prompts(tokenizer, texts, budget, 100, invariant).render(np.arange(20), np.arange(20, 30))
    extent = len(cut.ids) if not invariant else cut.begin + int(np.diff(cut.ends).max())
    assert cut.shortened and extent <= budget
    read = cut.ids.tolist()

    def stands(row: int) -> bool:
        body = items[row].tolist()
        return any(read[start : start + len(body)] == body for start in range(len(read)))

    kept = [row for row in range(20) if stands(row)]
    assert kept == list(range(20 - len(kept), 20)) and 0 < len(kept) < 20, "the oldest are gone, the newest whole"
    assert all(stands(row) for row in range(20, 30)), "every candidate is whole"

    listed = sum(len(items[row]) + 2 for row in range(20, 30))
    short = (
        len(whole.ids) - 20 * (len(items[0]) + 1) - listed // 3 if not invariant else whole.begin - 19 * len(items[0])
    )
    squeezed = Prompts(tokenizer, texts, short, 100, invariant).render(np.arange(20), np.arange(20, 30))
    assert squeezed.shortened
    first = [items[row][:3].tolist() for row in range(20, 30)]
    text = squeezed.ids.tolist()
    assert all(any(text[i : i + 3] == words for i in range(len(text))) for words in first), "no candidate is lost"
    assert text[-4:] == whole.ids.tolist()[-4:], "the answer's opening stays"
    with pytest.raises(UserError, match=r"max_length=64 .* at least \d+ tokens"):
        Prompts(tokenizer, texts, 64, 100).render(np.arange(20), np.arange(20, 40))


def test_max_item_length_cuts_items_and_says_so(tokenizer: Any) -> None:
    texts = ["one two three four five six", "one"]
    if not tokenizer.get_vocab().get("Ġone"):
        tokenizer = Scratch().tokenizer(texts, instructions())
    prompts = Prompts(tokenizer, texts, 512, 3)
    assert len(prompts.items[0]) == 4 and prompts.items[0][-1] == prompts.newline[-1]
    assert prompts.render(np.array([1]), np.array([0, 1])).shortened
    assert not prompts.render(np.array([1]), np.array([1, 1])).shortened


def test_a_template_without_system_turns_gets_the_line_in_the_users(tokenizer: Any) -> None:
    from copy import deepcopy

    other = deepcopy(tokenizer)
    other.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
        "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}model:{% endif %}"
    )
    text = Prompts(other, TITLES, 512, 32).frame("history", CONTENT)
    assert text.startswith("user:Choose the candidate") and text.endswith("model:") and CONTENT in text
    other.chat_template = None
    assert Prompts(other, TITLES, 512, 32).frame("history", "x").endswith("\nAnswer:\n")
    other.chat_template = "{{ 'nothing of what was said' }}"
    with pytest.raises(UserError, match="chat template"):
        Prompts(other, TITLES, 512, 32).render(np.array([0]), np.array([1, 2]))


def test_labels_are_single_distinct_and_follow_the_prompt(tokenizer: Any) -> None:
    prompts = Prompts(tokenizer, TITLES, 512, 32)
    text = prompts.frame("history", prompts.instruction(52))
    ids = label_ids(tokenizer, text, letters(52))
    assert len(set(ids.tolist())) == 52
    for letter, token in zip(letters(52), ids, strict=True):
        whole = tokenizer(text + letter, add_special_tokens=False).input_ids
        assert whole == [*tokenizer(text, add_special_tokens=False).input_ids, token]
    if len(tokenizer) > 100_000:  # Qwen: the answer is the token that stands in the list, not the one after a blank
        assert ids.tolist() == [*range(32, 58), *range(64, 90)]


def words(vocabulary: dict[str, int], pattern: str = " ") -> Any:
    whole = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    whole.pre_tokenizer = pre_tokenizers.Split(pattern, "merged_with_next")
    return PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="?")


def test_labels_fall_back_to_a_blank_before_and_then_to_the_letter_alone() -> None:
    after_a_blank = words({"?": 0, "x": 1, " A": 2, " B": 3})
    assert label_ids(after_a_blank, "x", ["A", "B"]).tolist() == [2, 3]
    alone = words({"?": 0, "A": 4, "B": 5})
    assert label_ids(alone, "x", ["A", "B"]).tolist() == [4, 5]


def test_missing_letters_are_named_never_passed_over() -> None:
    some = words({"?": 0, "x": 1, " A": 2, " B": 3, " D": 4})
    with pytest.raises(UserError, match=r"labels C E \(3 of 5 found\)"):
        label_ids(some, "x", letters(5))
    folded = words({"?": 0, "x": 1, " a": 2, " b": 3})
    folded.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(UserError, match=r"single, distinct token for the labels A a \(1 of 3 found\)"):
        label_ids(folded, "x", ["A", "b", "a"])


def test_a_pretrained_vocabulary_is_never_needed_by_a_scratch_tokenizer(tmp_path: Path) -> None:
    tokenizer = Scratch(vocab_size=120).tokenizer(TITLES, instructions())
    assert len(tokenizer) <= 120
    ids = Prompts(tokenizer, ["Toy"], 512, 32).render(np.array([0]), np.array([0, 0])).ids
    assert tokenizer.unk_token_id not in ids, "the frame of a prompt is known, turns included"
    assert set(tokenizer.convert_tokens_to_ids(["<|system|>", "<|user|>", "<|assistant|>"])) <= set(ids.tolist())
    assert all(tokenizer.convert_tokens_to_ids(letter) != tokenizer.unk_token_id for letter in LETTERS)
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())
    again = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    text = "User history, oldest to newest:\n- Toy Story (1995)\nCandidates:\nA. Unseen Title\n"
    assert again(text).input_ids == tokenizer(text).input_ids
