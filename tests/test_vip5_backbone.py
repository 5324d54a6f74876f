"""T5s that can be had, tied, gated or with a head of their own, and those that cannot: one sentence each."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vip5 import SMALL, TEXTS, TOKENIZER, WORDS
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration, T5Tokenizer

from data.errors import UserError
from rerankers.vip5.backbone import Scratch, fingerprint, load_t5
from rerankers.vip5.network import add_adapters

SIZES: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 2}
SIZES |= {"decoder_start_token_id": 0, "vocab_size": len(TOKENIZER) + 28}  # more rows than tokens, as t5-small has
ASKED: dict[str, Any] = {"input_ids": torch.tensor([[7, 9, 1]]), "labels": torch.tensor([[8, 1]])}


def saved(folder: Path, tokenizer: Any = TOKENIZER, gated: bool = False, seed: int = 0, **sizes: Any) -> Path:
    torch.manual_seed(seed)
    kind = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if gated else {}
    t5 = T5ForConditionalGeneration(T5Config(**(SIZES | kind | sizes)))
    if gated:
        t5.lm_head.weight = torch.nn.Parameter(torch.randn(t5.lm_head.weight.shape))
    t5.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("gated", [False, True])
def test_t5_of_a_folder_scores_the_same_with_fewer_rows(gated: bool, tmp_path: Path) -> None:
    folder = saved(tmp_path, gated=gated)
    whole = T5ForConditionalGeneration.from_pretrained(folder)
    tokenizer, t5 = load_t5(str(folder))
    n = len(TOKENIZER)
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
    assert torch.allclose(t5(**ASKED).logits, whole(**ASKED).logits[..., :n], atol=1e-6)
    assert t5.shared.num_embeddings == t5.lm_head.out_features == t5.config.vocab_size == n
    assert t5.config.scale_decoder_outputs == (not gated)
    tables = [t5.shared.weight, t5.encoder.embed_tokens.weight, t5.decoder.embed_tokens.weight, t5.lm_head.weight]
    assert [table is tables[0] for table in tables] == [True, True, True, not gated]
    assert len(list(t5.parameters())) == len(list(whole.parameters())), "what was tied is tied"


def test_the_fingerprint_is_of_the_content_and_not_of_adapters(tmp_path: Path) -> None:
    first, again = (load_t5(str(saved(tmp_path / name)))[1] for name in ("a", "b"))
    other = load_t5(str(saved(tmp_path / "c", seed=1)))[1]
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)
    add_adapters(first, reduction_factor=4)
    assert fingerprint(first) == fingerprint(again)
    with torch.no_grad():
        first.decoder.final_layer_norm.weight[3] += 1
    assert fingerprint(first) != fingerprint(again)


def another_kind(tmp_path: Path) -> Path:
    MT5ForConditionalGeneration(MT5Config(**SIZES)).save_pretrained(tmp_path / "mt5")
    return tmp_path / "mt5"


def without(part: str, tmp_path: Path) -> Path:
    path = saved(tmp_path) / "model.safetensors"
    save_file({name: w for name, w in load_file(path).items() if part not in name}, path, {"format": "pt"})
    return tmp_path


def no_tokenizer(tmp_path: Path) -> Path:
    saved(tmp_path)
    for path in tmp_path.glob("token*"):
        path.unlink()
    return tmp_path


def no_placeholder(tmp_path: Path) -> Path:
    pieces = [(piece, -1.0) for piece in TOKENIZER.get_vocab() if "extra" not in piece]
    return saved(tmp_path, T5Tokenizer(vocab=pieces, extra_ids=0))


def pickled(tmp_path: Path) -> Path:
    path = saved(tmp_path) / "model.safetensors"
    torch.save(load_file(path), tmp_path / "pytorch_model.bin")
    path.unlink()
    return tmp_path


def empty(tmp_path: Path) -> Path:
    shutil.copytree(saved(tmp_path / "full"), tmp_path / "empty", ignore=lambda *_: ["config.json"])
    return tmp_path / "empty"


MISTAKES: list[tuple[Callable[[Path], Path], str]] = [
    (another_kind, "mt5 is a mt5, not a T5; give one like google-t5/t5-small"),
    (lambda tmp: without("decoder.block.1", tmp), r"lacks weights \(decoder\.block\.1\..* which would be random"),
    (lambda tmp: without("shared", tmp), "lacks weights .* which would be random; give a whole one"),
    (no_tokenizer, "has no tokenizer of T5's kind, .* give a folder with T5's own tokenizer.json"),
    (no_placeholder, "has no tokenizer of T5's kind, with words that begin with ▁ and <extra_id_0>"),
    (lambda tmp: saved(tmp, vocab_size=20), rf"tokenizer of {len(TOKENIZER)} tokens, and the model knows 20; give"),
    (pickled, "holds pytorch_model.bin, a pickle, and is not opened"),
    (lambda tmp: tmp / "nowhere", "nowhere: there is no such folder; give one that holds a model"),
    (lambda tmp: Path("nobody/nothing"), "reranker.model=nobody/nothing cannot be loaded"),
    (empty, "empty cannot be loaded .* a folder that holds the model"),
]


@pytest.mark.parametrize(("make", "says"), MISTAKES)
def test_a_t5_that_cannot_be_had_says_what_to_do(make: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load_t5(str(make(tmp_path)))
    assert "\n" not in str(caught.value)


def test_one_from_nothing_is_saved_and_loaded(tmp_path: Path) -> None:
    tokenizer = SMALL.tokenizer(WORDS, TEXTS)
    t5 = SMALL.model(tokenizer).eval()
    t5.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_t5(str(tmp_path))[1]
    assert fingerprint(t5) == fingerprint(again)
    assert torch.equal(t5(**ASKED).logits, again(**ASKED).logits)


@pytest.mark.parametrize("vocab_size", [300, 430, 8192])
def test_a_tokenizer_from_nothing_knows_all_numbers_whole_however_small_it_is_to_be(vocab_size: int) -> None:
    numbers = [str(n) for n in range(1, 401)]
    tokenizer = Scratch(vocab_size=vocab_size).tokenizer(["user_ item_", *numbers], ["a blue hat"])
    assert [tokenizer.tokenize(number) for number in numbers] == [["▁" + number] for number in numbers]
