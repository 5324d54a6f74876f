"""A tokenizer of whole words for models from nothing: the words and signs of the given texts, most frequent first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


def word_tokenizer(texts: Sequence[str], size: int, special: list[str], lower: bool = False) -> Any:
    """For pairs of texts, in XLM-R's form <s> a </s></s> b </s> with the token types 0 and 1. `special`: begin,
    padding, end, unknown, which have the first numbers. Text is NFC, so a composed letter and its parts are one."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    normalizer: Any = normalizers.NFC()
    if lower:
        normalizer = normalizers.Sequence([normalizer, normalizers.Lowercase()])
    splitter = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    frequent = by_frequency(split_words(texts, normalizer, splitter))
    vocabulary = {word: number for number, word in enumerate([*special, *frequent][:size])}
    begin, padding, end, unknown = special
    whole_words = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    whole_words.normalizer, whole_words.pre_tokenizer = normalizer, splitter
    whole_words.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} {end} $B:1 {end}:1",
        special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=whole_words,
        bos_token=begin,
        cls_token=begin,
        pad_token=padding,
        eos_token=end,
        sep_token=end,
        unk_token=unknown,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def split_words(texts: Iterable[str], normalizer: Any, splitter: Any) -> Iterator[str]:
    """The words and signs that a tokenizer of these two parts sees."""
    for text in texts:
        yield from (word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))


def by_frequency(words: Iterable[str]) -> list[str]:
    """Each once, the most frequent first; equally frequent ones by their spelling."""
    counts = Counter(words)
    return sorted(counts, key=lambda word: (-counts[word], word))
