"""T5 with pictures and adapters: what is trained, where visual tokens land, what is saved."""

from typing import Any

import pytest
import torch
from tiny_vip5 import PICTURES, disturb, features_of, network_of, some_prompts
from transformers import T5Config, T5ForConditionalGeneration

from rerankers.vip5.network import PICTURE, TEXT, Vip5Network, add_adapters, freeze_backbone
from rerankers.vip5.prompts import to_batch

NORMS = [f"t5.encoder.block.{n}.layer.{m}.layer_norm.weight" for n in range(2) for m in range(2)]
NORMS += [f"t5.decoder.block.{n}.layer.{m}.layer_norm.weight" for n in range(2) for m in range(3)]
NORMS += ["t5.encoder.final_layer_norm.weight", "t5.decoder.final_layer_norm.weight"]
PROJECTOR = [f"projector.{part}.{name}" for part in ("hidden", "out") for name in ("weight", "bias")]
PROJECTOR += ["projector.norm.weight"]


def batch_of(network: Vip5Network, counts: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    return to_batch(some_prompts(network, counts, seed), padding=0)


def logits(network: Vip5Network, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    tokens = torch.tensor([[0, 7, 9, 8]]).expand(len(batch["input_ids"]), -1)
    return network.t5.lm_head(network.decode(tokens, network.encode(batch), batch["attention_mask"]))


def trained(network: Vip5Network) -> set[str]:
    return {name for name, p in network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("visual_tokens", "cross_attention", "of_trained", "of_all", "percent"),
    [
        (2, True, 2_788_736, 63_797_120, 4.37),  # the released script
        (1, True, 2_263_168, 63_271_552, 3.58),  # the paper's table 5
        (1, False, 1_866_496, 62_874_880, 2.97),
    ],
)
def test_t5_small_has_the_papers_parameters(
    visual_tokens: int, cross_attention: bool, of_trained: int, of_all: int, percent: float
) -> None:
    with torch.device("meta"):  # T5Config's own sizes are t5-small's
        t5 = T5ForConditionalGeneration(T5Config(vocab_size=32_100))
    add_adapters(t5, reduction_factor=8, cross_attention=cross_attention)
    network = Vip5Network(t5, placeholder=32_099, visual_tokens=visual_tokens, features=torch.zeros(3, 512))
    freeze_backbone(network, layer_norms=True, whole_words=False, categories=False)
    counts = [sum(p.numel() for p in network.parameters() if p.requires_grad or every) for every in (False, True)]
    assert counts == [of_trained, of_all]
    assert round(100 * of_trained / of_all, 2) == percent


def test_adapters_projector_and_norms_are_trained_and_the_tables_by_choice() -> None:
    network = network_of(reduction_factor=4)
    attention = [f"t5.{side}.block.{n}.layer.0.SelfAttention.o" for side in ("encoder", "decoder") for n in range(2)]
    attention += [f"t5.decoder.block.{n}.layer.1.EncDecAttention.o" for n in range(2)]
    forward = [f"t5.encoder.block.{n}.layer.1.DenseReluDense" for n in range(2)]
    forward += [f"t5.decoder.block.{n}.layer.2.DenseReluDense" for n in range(2)]
    parts = [f"{part}.{name}" for part in ("down", "up") for name in ("weight", "bias")]
    adapters = {f"{place}.adapter.{part}" for place in [*attention, *forward] for part in parts}
    assert trained(network) == adapters | {*PROJECTOR, *NORMS}
    freeze_backbone(network, layer_norms=False, whole_words=True, categories=True)
    assert trained(network) == adapters | {*PROJECTOR, "whole_words.weight", "categories.weight"}


def test_adapters_begin_as_the_identity() -> None:
    network = network_of()
    batch = batch_of(network, [2, 1])
    before = logits(network, batch)
    add_adapters(network.t5, reduction_factor=4)
    assert torch.equal(logits(network, batch), before)
    for name, p in network.named_parameters():
        if ".adapter.up." not in name:
            continue
        with torch.no_grad():
            p.fill_(0.5)
            assert not torch.allclose(logits(network, batch), before), name
            p.zero_()


@pytest.mark.parametrize("visual_tokens", [1, 2, 3])
def test_visual_tokens_land_at_the_placeholders_of_their_item(visual_tokens: int) -> None:
    network = network_of(visual_tokens=visual_tokens, missing=(3,))
    prompts = some_prompts(network, [3, 0, 1, 5])
    batch = to_batch(prompts, padding=0)
    embedded = network.embed(batch["input_ids"], batch["whole_words"], batch["pictures"])
    for row, prompt in enumerate(prompts):
        visual = [token for item in prompt.pictures for token in network.visual(torch.tensor([item]))[0]]
        assert len(visual) == (prompt.ids == network.placeholder).sum()
        for place, (token, word) in enumerate(zip(prompt.ids, prompt.whole_words, strict=True)):
            seen = token == network.placeholder
            own = visual.pop(0) if seen else network.t5.shared.weight[token]
            want = own + network.whole_words.weight[word] + network.categories.weight[PICTURE if seen else TEXT]
            assert torch.allclose(embedded[row, place], want, atol=1e-6), (row, place)


def test_the_norm_is_over_all_visual_tokens_of_an_item() -> None:
    network = network_of(visual_tokens=3)
    visual = network.visual(torch.tensor([4, 1, 4]))
    assert visual.shape == (3, 3, 16) and torch.equal(visual[0], visual[2]) and not torch.equal(visual[0], visual[1])
    assert torch.allclose(visual.flatten(1).square().mean(dim=1), torch.ones(3), atol=1e-4)
    assert not torch.allclose(visual.square().mean(dim=2), torch.ones(3, 3), atol=1e-2)
    plain = network_of(visual_tokens=3, visual_norm=False)
    p = plain.projector
    want = p.out(torch.tanh(p.hidden(plain.features[[4]]))).view(1, 3, 16)  # type: ignore[index]
    assert torch.allclose(plain.visual(torch.tensor([4])), want, atol=1e-6)


def test_items_without_a_picture_share_a_learned_vector() -> None:
    network = disturb(network_of(missing=(2, 5)))
    visual = network.visual(torch.tensor([2, 0, 5]))
    assert torch.allclose(visual[0], visual[2], atol=1e-6) and not torch.allclose(visual[0], visual[1])
    assert torch.allclose(network.projector(network.no_picture[None])[0], visual[0], atol=1e-6)
    for items, learns in (([2, 0], True), ([0, 1], False)):
        network.zero_grad()
        network.visual(torch.tensor(items))[:, 0].sum().backward()
        gradient = network.no_picture.grad
        assert gradient is not None and gradient.isfinite().all() and bool(gradient.any()) == learns
    assert not hasattr(network_of(), "no_picture"), "all have pictures"


def test_another_catalogue_is_read_in_the_place_of_the_last() -> None:
    network = network_of(missing=(0,))
    features = features_of(5, missing=(4,), seed=1)
    network.read(features)
    want = network.projector(features[:1])
    assert torch.allclose(network.visual(torch.tensor([0])), want, atol=1e-6)
    assert torch.allclose(network.visual(torch.tensor([4])), network.projector(torch.zeros(1, PICTURES)), atol=1e-6)


def test_the_state_is_what_the_backbone_has_not() -> None:
    network = disturb(network_of(reduction_factor=4, missing=(1,)))
    state = network.state_dict()
    assert set(state) == trained(network) | {"whole_words.weight", "categories.weight", "mean", "deviation"}
    assert "no_picture" in state
    other = network_of(reduction_factor=4, missing=(1,))
    batch = batch_of(network, [2, 3])
    assert not torch.allclose(logits(other, batch), logits(network, batch))
    missing, unknown = other.load_state_dict(state, strict=False)
    assert not unknown and all(name.startswith("t5.") or name in ("features", "missing") for name in missing)
    assert torch.equal(logits(other, batch), logits(network, batch))


def test_the_state_of_one_from_nothing_holds_tied_weights_once() -> None:
    network = network_of()
    state = network.state_dict()
    tied = {"t5.lm_head.weight", "t5.encoder.embed_tokens.weight", "t5.decoder.embed_tokens.weight"}
    assert "t5.shared.weight" in state and not tied & set(state)
    scaling = 2 * PICTURES  # mean and deviation of the features
    assert sum(w.numel() for w in state.values()) == sum(p.numel() for p in network.parameters()) + scaling
    other = network_of(seed=1)
    other.read(features_of(12))
    assert not other.load_state_dict(state, strict=False).unexpected_keys
    batch = batch_of(network, [2, 3])
    assert torch.equal(logits(other, batch), logits(network, batch))


def test_only_what_is_trained_gets_gradients() -> None:
    network = disturb(network_of(reduction_factor=4, missing=(1,)))
    batch = batch_of(network, [3, 2, 6])
    batch["pictures"][0] = 1
    labels = torch.tensor([[7, 9, 1], [8, 1, -100], [9, 1, -100]])
    network(**batch, labels=labels).sum().backward()
    moved = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == trained(network)


def test_losses_are_of_labels_alone_and_those_of_t5() -> None:
    network = network_of(visual_tokens=0)
    for table in (network.whole_words, network.categories):
        torch.nn.init.zeros_(table.weight)
    batch = batch_of(network, [2, 4])
    labels = torch.tensor([[7, 9, 1], [8, 1, -100]])
    losses = network(**batch, labels=labels)
    asked: Any = {name: batch[name] for name in ("input_ids", "attention_mask")}
    want = network.t5(**asked, labels=labels).logits.log_softmax(dim=-1)
    for row, place in (labels != -100).nonzero().tolist():
        assert losses[row, place].item() == pytest.approx(-want[row, place, labels[row, place]].item(), abs=1e-5)
    assert losses[1, 2] == 0
