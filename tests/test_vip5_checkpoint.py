"""Weights of the reference code: its names onto ours, the same scores, what does not fit in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_vip5 import disturb, network_of, some_prompts

from data.errors import UserError
from experiments.endurance.canaries import pickle_that_marks
from rerankers.vip5.checkpoint import load_checkpoint
from rerankers.vip5.network import Vip5Network
from rerankers.vip5.prompts import to_batch

State = dict[str, torch.Tensor]
TASKS = ("sequential", "direct", "explanation")
PROJECTOR = {"hidden": "0.model.0", "out": "0.model.2", "norm": "1"}


def as_the_reference(network: Vip5Network, prefix: str = "") -> State:
    """Names as in modeling_vip5.py and adapters/: a module of its own each, adapters once for each task."""
    out: State = {}
    t5, weights = network.t5, dict(network.named_parameters(remove_duplicate=False))

    def put(name: str, weight: torch.Tensor) -> None:
        out[prefix + name] = weight.detach().clone()

    def put_sublayer(name: str, sublayer: str, part: Any, adapter: str) -> None:
        own = getattr(part, "adapter", None)
        for task in TASKS if own else ():
            for direction, linear in (("down", own.down), ("up", own.up)):
                for kind in ("weight", "bias"):
                    put(f"{name}.{adapter}.adapters.{task}.{direction}_sampler.{kind}", getattr(linear, kind))
        for inner, weight in (part.module if own else part).named_parameters():
            put(f"{name}.{sublayer}.{inner}", weight)

    for name in ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        put(name, weights["t5." + name])
    for side, stack in (("encoder", t5.encoder), ("decoder", t5.decoder)):
        put(f"{side}.final_layer_norm.weight", stack.final_layer_norm.weight)
        for n, block in enumerate(stack.block):
            for m, layer in enumerate(block.layer):
                name = f"{side}.block.{n}.layer.{m}"
                put(f"{name}.layer_norm.weight", layer.layer_norm.weight)
                for sublayer, adapter in (("SelfAttention", "attn_adapter"), ("EncDecAttention", "enc_attn_adapter")):
                    if attention := getattr(layer, sublayer, None):
                        for kind in "qkv":
                            put(f"{name}.{sublayer}.{kind}.weight", getattr(attention, kind).weight)
                        put_sublayer(name, f"{sublayer}.o", attention.o, adapter)
                        if attention.has_relative_attention_bias:
                            bias = attention.relative_attention_bias.weight
                            put(f"{name}.{sublayer}.relative_attention_bias.weight", bias)
                if hasattr(layer, "DenseReluDense"):
                    put_sublayer(name, "DenseReluDense", layer.DenseReluDense, "ff_adapter")
    put("encoder.whole_word_embeddings.weight", network.whole_words.weight)
    put("encoder.category_embeddings.weight", network.categories.weight)
    for part, there in PROJECTOR.items():
        for kind, weight in getattr(network.projector, part).named_parameters():
            put(f"encoder.visual_embedding.feat_embedding.{there}.{kind}", weight)
    return out


def pth(state: Any, folder: Path) -> Path:
    torch.save(state, path := folder / "Epoch10.pth")
    return path


def losses(network: Vip5Network) -> torch.Tensor:
    batch = to_batch(some_prompts(network, [3, 1, 5]), padding=0)
    return network(**batch, labels=torch.tensor([[7, 9, 1], [8, 1, -100], [9, 1, -100]])).detach()


def of_p5(network: Vip5Network) -> State:
    """No adapters, no pictures, fewer whole words, more rows of the vocabulary than its tokenizer has tokens."""
    state = as_the_reference(network)
    dropped = ("adapter", "category", "visual")
    state = {name: w for name, w in state.items() if not any(part in name for part in dropped)}
    for name in ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        state[name] = torch.cat([state[name], torch.ones(28, 16)])
    state["encoder.whole_word_embeddings.weight"] = state["encoder.whole_word_embeddings.weight"][:40].clone()
    return state


@pytest.mark.parametrize("reduction_factor", [0, 4])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_references_weights_score_the_same_here(reduction_factor: int, prefix: str, tmp_path: Path) -> None:
    theirs = disturb(network_of(0, reduction_factor=reduction_factor))
    ours = network_of(1, reduction_factor=reduction_factor)
    ours.read(theirs.features)  # type: ignore[arg-type]
    assert not torch.allclose(losses(ours), losses(theirs))
    loaded = load_checkpoint(ours, pth(as_the_reference(theirs, prefix), tmp_path))
    assert torch.equal(losses(ours), losses(theirs))
    assert set(loaded.matched) == {name for name, _ in ours.named_parameters()}
    assert not loaded.missing and not loaded.unused and not loaded.cut
    assert loaded.summary == f"{len(loaded.matched)} of {len(loaded.matched)} weights loaded"


def test_safetensors_are_the_same(tmp_path: Path) -> None:
    theirs, ours = disturb(network_of(0)), network_of(1)
    ours.read(theirs.features)  # type: ignore[arg-type]
    save_file(as_the_reference(theirs), path := tmp_path / "vip5.safetensors")
    load_checkpoint(ours, path)
    assert torch.equal(losses(ours), losses(theirs))


def test_p5_leaves_adapters_and_projector_as_they_are(tmp_path: Path) -> None:
    theirs, ours = disturb(network_of(0)), network_of(1, reduction_factor=4, missing=(2,))
    before = {name: p.detach().clone() for name, p in ours.named_parameters()}
    loaded = load_checkpoint(ours, pth(of_p5(theirs) | {"encoder.odd.weight": torch.zeros(2)}, tmp_path))
    new = ("adapter.", "projector.", "categories.", "no_picture")
    assert set(loaded.missing) == {name for name in before if any(part in name for part in new)}
    assert all(torch.equal(before[name], p) for name, p in ours.named_parameters() if name in loaded.missing)
    n = len(ours.t5.shared.weight)
    assert loaded.unused == ["encoder.odd.weight"]
    assert loaded.cut == [f"t5.shared.weight: the first {n} rows", "whole_words.weight: the first 40 rows"]
    words = ours.whole_words.weight
    assert torch.equal(words[:40], theirs.whole_words.weight[:40])
    assert torch.equal(words[40:], before["whole_words.weight"][40:])
    assert torch.equal(ours.t5.shared.weight, theirs.t5.shared.weight)
    assert "unused 1 (encoder.odd.weight); cut 2 (t5.shared.weight: the first" in loaded.summary
    assert "\n" not in loaded.summary


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


def exploding(folder: Path) -> Path:
    return pth({"shared.weight": Bomb()}, folder)


def plain_pickle(folder: Path) -> Path:
    (path := folder / "plain.pth").write_bytes(pickle_that_marks(folder / "exploded"))
    return path


def torn(folder: Path) -> Path:
    path = pth(as_the_reference(network_of()), folder)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def other_adapters(folder: Path) -> Path:
    state = as_the_reference(network_of(reduction_factor=4))
    state["encoder.block.0.layer.0.attn_adapter.adapters.direct.up_sampler.bias"] += 1
    return pth(state, folder)


MISTAKES: list[tuple[Callable[[Path], Path], str]] = [
    (exploding, r"Epoch10.pth cannot be read \(it holds more than tensors\); give a state dict, .pth or .safetensors"),
    (plain_pickle, r"plain.pth cannot be read \(it holds more than tensors\)"),
    (torn, "cannot be read .* give a state dict"),
    (lambda folder: folder / "nowhere.pth", "nowhere.pth cannot be read .*No such file"),
    (lambda folder: folder / "nowhere.safetensors", "nowhere.safetensors cannot be read .*No such file"),
    (lambda folder: pth([torch.ones(2)], folder), "is no state dict, tensors by name"),
    (lambda folder: pth({"model": as_the_reference(network_of())}, folder), "is no state dict, tensors by name"),
    (lambda folder: pth({"weight": torch.ones(2)}, folder), "holds no weight of T5 by the names of VIP5 or P5"),
    (
        lambda folder: pth({"encoder.category_embeddings.weight": torch.ones(16, 16)}, folder),
        "holds no weight of T5 by the names of VIP5 or P5",
    ),
    (other_adapters, "adapters.sequential.up_sampler.bias and .*adapters.direct.up_sampler.bias differ"),
    (
        lambda folder: pth(as_the_reference(network_of(visual_tokens=3)), folder),
        r"feat_embedding.0.model.0.weight is 24 x 6, and 16 x 6 here; give reranker.model, visual_tokens and",
    ),
    (
        lambda folder: pth(as_the_reference(network_of(reduction_factor=2)), folder),
        r"down_sampler.weight is 8 x 16, and 4 x 16 here",
    ),
]


@pytest.mark.parametrize(("make", "says"), MISTAKES)
def test_a_file_that_does_not_fit_says_so_and_changes_nothing(
    make: Callable[[Path], Path], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path)
    network = network_of(5, reduction_factor=4)
    before = losses(network)
    with pytest.raises(UserError, match=says) as caught:
        load_checkpoint(network, path)
    assert "\n" not in str(caught.value) and torch.equal(losses(network), before)
    assert not Path("exploded").exists()
