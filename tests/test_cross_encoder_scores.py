"""Scores are those of plain transformers, CrossEncoder and FlagEmbedding, whatever else is in the batch."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED
from sentence_transformers import CrossEncoder
from tiny_pairs import asked, folder_of, make, nothing, some_pairs, tokenizer_of
from tiny_passages import folded, generated
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from data.dataset import Dataset
from data.errors import UserError
from data.splits import Split
from data.text_retrievers import BM25
from rerankers.cross_encoder.network import PairEncoder, load
from rerankers.cross_encoder.scoring import FlagScorer, score_pairs

PAIRS = some_pairs(50)
TOKENS = 64


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Split]:
    dataset = generated()
    return dataset, replace(folded(dataset), retriever=BM25())


@pytest.fixture(scope="module", params=["bert", "xlmr"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tokenizer_of(request.param, SHARED)
    return folder_of(request.param, tokenizer, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def network(folder: Path) -> PairEncoder:
    return load(str(folder), TOKENS)


def test_scores_are_those_of_the_libraries_after_saving(network: PairEncoder, tmp_path: Path) -> None:
    scores = score_pairs(network, PAIRS, "float32", 500)
    assert scores.dtype == np.float32 and scores.std() > 0.1 and len(np.unique(scores)) == len(PAIRS)
    network.save_pretrained(str(tmp_path), create_model_card=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=False).eval()
    batch = tokenizer([a for a, _ in PAIRS], [b for _, b in PAIRS], truncation=True, padding=True, return_tensors="pt")
    assert batch["input_ids"].shape[1] == TOKENS, "the saved tokenizer knows where to cut"
    with torch.inference_mode():
        assert np.allclose(model(**batch).logits[:, 0].numpy(), scores, atol=1e-5)
    library = CrossEncoder(str(tmp_path), device="cpu", trust_remote_code=False)
    assert np.allclose(library.predict(PAIRS, activation_fn=torch.nn.Identity()), scores, atol=1e-5)
    assert np.allclose(library.predict(PAIRS), 1 / (1 + np.exp(-scores)), atol=1e-5), "bce is saved with its sigmoid"


def test_the_last_layer_of_the_first_token_alone_gives_all_gradients(network: PairEncoder, folder: Path) -> None:
    library = CrossEncoder(str(folder), num_labels=1, device="cpu", trust_remote_code=False)
    gradients = []
    for model in (network, library):
        model.train()
        batch = network.pairs.batch(network.pairs.of(PAIRS[:8]))
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.zero_grad()
        model(batch)["scores"].square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    ours, theirs = gradients
    assert ours.keys() == theirs.keys() and len(ours) > 30
    for name, gradient in theirs.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max() + 1)), name


def test_flag_embedding_scores_the_same(network: PairEncoder, tmp_path: Path) -> None:
    from FlagEmbedding import FlagReranker

    unknown = network.tokenizer.unk_token_id

    def read_alike(pair: tuple[str, str]) -> bool:  # see FlagScorer
        ids = network.tokenizer(*pair)["input_ids"]
        return len(ids) <= TOKENS and unknown not in ids and all(pair)

    fits = [pair for pair in some_pairs(800, longest=15) if read_alike(pair)][:60]
    assert len(fits) > 20
    scores = score_pairs(network, fits, "float32", None)
    network.save_pretrained(str(tmp_path), create_model_card=False)
    flag = FlagReranker(str(tmp_path), use_fp16=False, devices=["cpu"], max_length=TOKENS, trust_remote_code=False)
    assert np.allclose(flag.compute_score([list(pair) for pair in fits]), scores, atol=1e-4)
    scorer = FlagScorer(network)
    assert np.allclose(scorer.score(fits, 7), scores, atol=1e-4)
    assert scorer.score([], 7).shape == (0,) and scorer.score(fits[:1], 7).shape == (1,)
    long = [(a, b * 9) for a, b in PAIRS]
    assert np.isfinite(scorer.score(long, 7)).all(), "texts beyond its length are cut"


def test_the_backend_is_one_key(data: tuple[Dataset, Split], tmp_path: Path) -> None:
    dataset, split = data
    requests = asked(dataset, split)
    ours, flag = (make(tmp_path, None, 0, backend=backend) for backend in ("torch", "flag"))
    for reranker in (ours, flag):
        reranker.build(dataset, split)
    assert np.allclose(ours.score(requests), flag.score(requests), atol=1e-4)
    with torch.no_grad():
        for p in flag.network.parameters():
            p.mul_(2)
    assert not np.allclose(ours.score(requests), flag.score(requests), atol=1e-2), "it scores with the weights as now"


def test_neither_batch_nor_order_changes_a_score(network: PairEncoder) -> None:
    scores = score_pairs(network, PAIRS, "float32", None)
    for budget in (1, 90, 10**6):
        assert np.allclose(score_pairs(network, PAIRS, "float32", budget), scores, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(PAIRS))
    assert np.allclose(score_pairs(network, [PAIRS[i] for i in order], "float32", 200), scores[order], atol=1e-5)
    assert np.array_equal(score_pairs(network, PAIRS, "float32", 200), score_pairs(network, PAIRS, "float32", 200))
    assert score_pairs(network, [], "float32", None).shape == (0,)


def test_pieces_of_many_pairs_are_one(network: PairEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = score_pairs(network, PAIRS, "float32", None)
    monkeypatch.setattr("rerankers.cross_encoder.scoring.CHUNK", 7)
    assert np.allclose(score_pairs(network, PAIRS, "float32", None), scores, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_scores_do_not_tie_and_leave_the_weights_alone(network: PairEncoder, dtype: str) -> None:
    scores = score_pairs(network, PAIRS, "float32", None)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    places = {name: p.data_ptr() for name, p in network.named_parameters()}
    half = score_pairs(network, PAIRS, dtype, None)
    assert half.dtype == np.float32 and not np.array_equal(half, scores)
    assert np.corrcoef(half, scores)[0, 1] > 0.99
    assert len(np.unique(half)) > 0.9 * len(PAIRS)
    assert (torch.from_numpy(half).bfloat16().float().numpy() != half).mean() > 0.9, "the head's logits are float32"
    for name, p in network.named_parameters():
        assert torch.equal(p, before[name]) and p.data_ptr() == places[name] and not p.is_inference()
    assert np.array_equal(score_pairs(network, PAIRS, "float32", None), scores)
    with pytest.raises(ValueError):
        score_pairs(network, [(None, "a")], dtype, None)  # type: ignore[list-item]
    assert all(p.dtype == torch.float32 for p in network.parameters()), "also after an error"


def test_saved_and_loaded_models_score_identically(data: tuple[Dataset, Split], folder: Path, tmp_path: Path) -> None:
    dataset, split = data
    requests = asked(dataset, split)
    reranker = make(tmp_path, folder, max_length=TOKENS, max_steps=2)
    reranker.fit(dataset, split, None, nothing)
    scores = reranker.score(requests)
    assert scores.shape == (8, 10) and scores.dtype == np.float32
    assert (scores[0, -2:] == np.finfo(np.float32).min).all() and (scores[1:] > -1e30).all(), "padding comes last"
    reranker.save(saved := tmp_path / "saved")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in saved.iterdir()}
    again = make(tmp_path, folder, max_length=TOKENS)
    again.load(saved, requests)
    assert np.array_equal(again.score(requests), scores)


def test_what_is_read_is_told(data: tuple[Dataset, Split], folder: Path, tmp_path: Path) -> None:
    dataset, split = data
    reranker = make(tmp_path, folder, 0, max_length=20)
    reranker.build(dataset, split)
    requests = asked(dataset, split)
    assert requests.candidates is not None and requests.queries is not None
    requests.candidates[3] = -1  # a request without any
    reads, facts = reranker.inputs(requests), reranker.facts(requests)
    tokenizer, texts = reranker.network.tokenizer, dataset.catalog.description
    for row, own in enumerate(requests.candidates):
        pairs = [(requests.queries[row], texts[item]) for item in own[own >= 0]]
        whole = [tokenizer(*pair)["input_ids"] for pair in pairs]
        cut = [tokenizer(*pair, truncation=True, max_length=20)["input_ids"] for pair in pairs]
        assert reads[row] == "\n".join(map(tokenizer.decode, cut))
        assert facts["prompt_lengths"][row] == max(map(len, cut), default=0)
        assert facts["shortened"][row] == any(len(ids) > 20 for ids in whole)
    assert (reranker.score(requests)[3] == np.finfo(np.float32).min).all()


@pytest.mark.parametrize("loss", ["listwise", "lambda"])
def test_other_losses_are_saved_without_a_sigmoid(
    loss: str, data: tuple[Dataset, Split], folder: Path, tmp_path: Path
) -> None:
    dataset, split = data
    reranker = make(tmp_path, folder, max_length=TOKENS, max_steps=1, loss=loss)
    reranker.fit(dataset, split, None, nothing)
    reranker.save(tmp_path / "saved")
    predicted = CrossEncoder(str(tmp_path / "saved"), device="cpu", trust_remote_code=False).predict(PAIRS)
    assert np.allclose(predicted, reranker.score_pairs(PAIRS), atol=1e-5)


def test_out_of_memory_halves_what_is_scored_at_once(
    network: PairEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scores = score_pairs(network, PAIRS, "float32", None)
    forward, sizes = PairEncoder.forward, []

    def small(self: Any, features: Any, **kwargs: Any) -> Any:
        sizes.append(features["input_ids"].numel())
        if features["input_ids"].numel() > 200:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, features, **kwargs)

    monkeypatch.setattr(PairEncoder, "forward", small)
    with caplog.at_level(logging.WARNING):
        assert np.allclose(score_pairs(network, PAIRS, "float32", 2000), scores, atol=1e-5)
    assert "out of memory with 31 pairs at once: going on with 16" in caplog.text
    assert sum(size > 200 for size in sizes) < 6, "what did not fit once is not tried again"
    monkeypatch.setattr(PairEncoder, "forward", lambda *a, **k: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(UserError, match="out of memory with a single pair of 64 tokens; give a smaller"):
        score_pairs(network, PAIRS, "float32", None)
    monkeypatch.setattr(PairEncoder, "forward", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("another")))
    with pytest.raises(RuntimeError, match="another"):
        score_pairs(network, PAIRS, "float32", None)
