"""The letter reranker: head and losses against references, invariance, permutations, calibration, adapters on disk."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch.nn import functional as F

from data.candidates import Candidates, Prepared, prepare
from data.dataset import Dataset
from data.errors import UserError
from data.splits import Split
from experiments.config import configure
from rerankers.base import TrainerConfig
from rerankers.letter.asking import Asking
from rerankers.letter.item_text import item_texts
from rerankers.letter.labels import letters
from rerankers.letter.language_model import Lora, Scratch
from rerankers.letter.letter import LetterReranker
from rerankers.letter.prompt import instructions
from rerankers.letter.rows import with_response

SMALL = Scratch(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, head_dim=8, intermediate_size=32)


@pytest.fixture(scope="module")
def candidates(demo: Dataset, split: Split, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(demo, split, Candidates(size=20), tmp_path_factory.mktemp("cache"), "x")


@pytest.fixture(scope="module")
def checkpoint(demo: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as from_pretrained reads it: a small random Qwen3 and a tokenizer with a chat template."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tokenizer = SMALL.tokenizer(item_texts(demo.catalog, "text_only"), instructions())
    SMALL.model(len(tokenizer), 512).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make(folder: Path | None, tmp_path: Path, epochs: float = 1, **settings: Any) -> LetterReranker:
    trainer = TrainerConfig(
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        learning_rate=settings.pop("learning_rate", 1e-3),
        gradient_accumulation_steps=settings.pop("gradient_accumulation_steps", 1),
        logging_steps=1,
        metric_for_best_model="recall_at_10",
    )
    model = {"init": "scratch"} if folder is None else {"model": str(folder)}
    settings = {"training_candidates": 10, "negatives": "random", "scratch": SMALL, **settings}
    return LetterReranker(
        name="qwen_letter", trainer=trainer, checkpoints=tmp_path / "checkpoints", **model, **settings
    )


def nothing(values: dict[str, float], step: int) -> None:
    pass


def test_the_answer_head_gives_the_models_own_logits(
    demo: Dataset, split: Split, checkpoint: Path, tmp_path: Path
) -> None:
    reranker = make(checkpoint, tmp_path)
    reranker.build(demo, split)
    reranker.network.eval()
    batch = reranker.rows([{"row": row} for row in range(6)])
    tokens = reranker.answer_tokens(10)
    got = reranker.network(input_ids=batch["input_ids"], positions=batch["positions"], tokens=tokens)
    for row in range(6):
        length = int(batch["positions"][row, 0]) + 1
        alone = reranker.network(input_ids=batch["input_ids"][row : row + 1, :length]).logits[0, -1]
        assert torch.allclose(got[row, 0], alone[tokens], atol=1e-5), "padding is not seen"
        whole = reranker.network(input_ids=batch["input_ids"], positions=batch["positions"])[row, 0]
        assert torch.allclose(whole, alone, atol=1e-5)
    assert got.dtype == torch.float32


def training_loss(reranker: LetterReranker, batch: dict[str, torch.Tensor], tmp_path: Path) -> torch.Tensor:
    """Of the reranker's own trainer; its gradients are left on the parameters."""
    from rerankers.letter import trainer as module

    caught: list[Any] = []

    class Caught(Exception):
        pass

    def stop(trainer: Any, *args: Any) -> float:
        caught.append(trainer)
        raise Caught

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train", stop)
        with pytest.raises(Caught):
            module.train_letters(reranker, None, nothing)
    reranker.network.zero_grad()
    reranker.network.eval()
    loss = caught[0].compute_loss(reranker.network, batch)
    loss.backward()
    return loss.detach()


def gradients(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None])


def test_letters_loss_is_cross_entropy_over_the_letters(
    demo: Dataset, split: Split, checkpoint: Path, tmp_path: Path
) -> None:
    reranker = make(checkpoint, tmp_path)
    reranker.build(demo, split)
    torch.manual_seed(1)
    for p in reranker.network.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    batch = reranker.rows([{"row": row} for row in range(8)])
    loss = training_loss(reranker, batch, tmp_path)
    got = gradients(reranker.network)
    reranker.network.zero_grad()
    logits = reranker.network(input_ids=batch["input_ids"]).logits  # everywhere, over the whole vocabulary
    rows = torch.arange(8)
    ids = [reranker.tokenizer.convert_tokens_to_ids(letter) for letter in letters(10)]
    expected = F.cross_entropy(logits[rows, batch["positions"][:, 0]][:, ids], batch["shift_labels"][:, 0])
    expected.backward()
    assert torch.allclose(loss, expected, atol=1e-6)
    assert torch.allclose(got, gradients(reranker.network), atol=1e-6) and got.abs().max() > 1e-4
    answers = [int(ids[:end][-1]) for ids, end in zip(batch["input_ids"], batch["positions"][:, 0] + 1, strict=True)]
    assert set(answers) == {answers[0]}, "every prompt ends with the template's opening of an answer"


@pytest.mark.parametrize("tokenizer", ["scratch", "qwen3", "qwen2.5"])
def test_vocabulary_loss_and_gradients_equal_trls_own(
    tokenizer: str, demo: Dataset, split: Split, checkpoint: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from datasets import Dataset as Rows
    from trl import SFTConfig, SFTTrainer

    folder = checkpoint
    if tokenizer != "scratch":
        from transformers import AutoTokenizer

        real = AutoTokenizer.from_pretrained(
            request.getfixturevalue("shared_data") / "tokenizers" / f"{tokenizer}-tokenizer"
        )
        folder = tmp_path / "model"
        SMALL.model(len(real), 512).save_pretrained(folder)
        real.save_pretrained(folder)
    reranker = make(folder, tmp_path, loss="vocabulary", lora=Lora(lora_dropout=0.0))
    reranker.build(demo, split)
    torch.manual_seed(1)
    for p in reranker.network.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    examples = [{"row": row} for row in range(6)]
    loss = training_loss(reranker, reranker.rows(examples), tmp_path)
    ours = gradients(reranker.network)

    drawn = reranker.rows.draw([e["row"] for e in examples])
    histories, listed, target = drawn.histories, drawn.candidates, drawn.target
    conversations = []
    titles = item_texts(demo.catalog, "text_only")
    for row in range(6):
        lines = ["User history, oldest to newest:", *(f"- {titles[i]}" for i in histories.row(row)), "Candidates:"]
        lines += [f"{letter}. {titles[i]}" for letter, i in zip(letters(10), listed[row], strict=True)]
        lines += ["Answer with only one letter (A-J)."]
        said = "Choose the candidate that the user takes next."
        conversations.append(
            {
                "prompt": [{"role": "system", "content": said}, {"role": "user", "content": "\n".join(lines)}],
                "completion": [{"role": "assistant", "content": letters(10)[target[row]]}],
                "chat_template_kwargs": {"enable_thinking": False},
            }
        )
    arguments = SFTConfig(
        output_dir=str(tmp_path / "trl"), use_cpu=True, bf16=False, max_length=None, report_to=[], seed=0,
        gradient_checkpointing=False,
    )  # fmt: skip
    trl = SFTTrainer(
        model=reranker.network,
        args=arguments,
        train_dataset=Rows.from_list(conversations),
        processing_class=reranker.tokenizer,
    )
    reranker.network.eval()
    batch = trl.data_collator([trl.train_dataset[row] for row in range(6)])
    reranker.network.zero_grad()
    expected = trl.compute_loss(reranker.network, batch)
    expected.backward()
    assert abs(float(loss) - float(expected.detach())) < 1e-5
    assert torch.allclose(ours, gradients(reranker.network), atol=1e-5) and ours.abs().max() > 1e-4


def shuffled(requests: Any, seed: int) -> tuple[Any, np.ndarray]:
    order = np.argsort(np.random.default_rng(seed).random(requests.candidates.shape), axis=1)
    return replace(requests, candidates=np.take_along_axis(requests.candidates, order, 1)), order


def test_invariant_scores_do_not_know_the_order(
    demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path
) -> None:
    reranker = make(None, tmp_path, order="invariant", epochs=2)
    reranker.fit(demo, split, None, nothing)
    requests = candidates.test.take(slice(0, 30))
    scores = reranker.score(requests)
    assert scores.std(axis=1).min() > 1e-3, "candidates differ"
    for seed in range(5):
        other, order = shuffled(requests, seed)
        assert np.abs(np.take_along_axis(scores, order, 1) - reranker.score(other)).max() < 1e-5
    assert requests.candidates is not None
    alone = [reranker.score(replace(requests, candidates=requests.candidates[:, c : c + 1])) for c in range(20)]
    assert np.abs(np.concatenate(alone, axis=1) - scores).max() < 1e-5, "other candidates are not seen"
    many = np.random.default_rng(0).integers(0, len(demo.catalog), (30, 100)).astype(np.int32)
    wide = reranker.score(replace(requests, candidates=many))
    assert wide.shape == (30, 100) and np.isfinite(wide).all()
    whole = reranker.score(replace(requests, candidates=None))
    assert np.abs(np.take_along_axis(whole, many, 1) - wide).max() < 1e-5


def test_letters_know_the_order_and_end_at_52(
    demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path
) -> None:
    reranker = make(None, tmp_path)
    reranker.build(demo, split)
    scores = reranker.score(candidates.test)
    other, order = shuffled(candidates.test, 0)
    assert np.abs(np.take_along_axis(scores, order, 1) - reranker.score(other)).max() > 1e-4
    with pytest.raises(UserError, match=r"100 candidates need 100 labels.*reranker\.order=invariant"):
        make(None, tmp_path, training_candidates=100)
    with pytest.raises(UserError, match=r"reranker\.order=invariant"):
        reranker.check(replace(candidates.test, candidates=np.zeros((len(candidates.test), 60), dtype=np.int32)))


def test_permutations_are_the_mean_of_log_probabilities(
    demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path
) -> None:
    reranker = make(None, tmp_path)
    reranker.build(demo, split)
    requests = candidates.test.take(slice(0, 20))
    many = replace(reranker, permutations=3)
    for name in ("network", "tokenizer", "prompts", "_ids", "catalog"):
        setattr(many, name, getattr(reranker, name))
    expected = np.zeros((20, 20))
    for turn in range(3):
        columns = np.stack(Asking(many).columns(requests, turn))
        assert (np.sort(columns, axis=1) == np.arange(20)).all()
        once = reranker.score(replace(requests, candidates=np.take_along_axis(requests.candidates, columns, 1)))
        np.put_along_axis(expected, columns, np.take_along_axis(expected, columns, 1) + log_softmax(once, axis=1), 1)
    assert np.allclose(many.score(requests), expected / 3, atol=1e-4)
    assert any("3 permutations" in label for label in many.labels(requests))


def test_content_free_calibration_takes_the_labels_bias_away(
    demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path
) -> None:
    reranker = make(None, tmp_path, calibration="content_free")
    reranker.build(demo, split)
    requests = candidates.test.take(slice(0, 20))
    nothing_at_all = replace(
        requests,
        histories=type(requests.histories).from_rows([[reranker.prompts.nothing]] * 20),
        candidates=np.full((20, 20), reranker.prompts.nothing, dtype=np.int32),
    )
    assert np.abs(reranker.score(nothing_at_all)).max() < 1e-5, "without content no label is better"
    plain = replace(reranker, calibration="none")
    for name in ("network", "tokenizer", "prompts", "_ids", "catalog"):
        setattr(plain, name, getattr(reranker, name))
    bias = log_softmax(plain.score(nothing_at_all)[0])
    assert bias.std() > 1e-3
    expected = log_softmax(plain.score(requests), axis=1) - bias
    assert np.allclose(reranker.score(requests), expected, atol=1e-4)


def test_padding_candidates_are_never_shown(demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path) -> None:
    reranker = make(None, tmp_path)
    reranker.build(demo, split)
    requests = candidates.test.take(slice(0, 5))
    short = requests.candidates[:, :7]
    padded = np.concatenate([short, np.full((5, 4), -1, dtype=np.int32)], axis=1)
    scores = reranker.score(replace(requests, candidates=padded))
    assert np.allclose(scores[:, :7], reranker.score(replace(requests, candidates=short)), atol=1e-5)
    assert (scores[:, 7:] < scores[:, :7].min()).all()
    none = reranker.score(replace(requests, candidates=np.full((5, 3), -1, dtype=np.int32)))
    assert none.shape == (5, 3) and not np.isnan(none).any()


@pytest.mark.parametrize(
    "lora", [Lora(), Lora(r=4, use_rslora=True), Lora(use_dora=True), Lora(target_modules="q_proj")]
)
def test_adapters_are_saved_without_the_base_and_score_the_same(
    lora: Lora, demo: Dataset, split: Split, candidates: Prepared, checkpoint: Path, tmp_path: Path
) -> None:
    reranker = make(checkpoint, tmp_path, lora=lora, learning_rate=1e-2)
    before = make(checkpoint, tmp_path, epochs=0)
    for model in (reranker, before):
        model.fit(demo, split, None, nothing)
    requests = candidates.test.take(slice(0, 20))
    scores = reranker.score(requests)
    assert not np.allclose(scores, before.score(requests), atol=1e-3), "training changed it"
    (folder := tmp_path / "saved").mkdir()
    reranker.save(folder)
    assert not (folder / "model.safetensors").exists() and (folder / "adapter_model.safetensors").exists()
    again = make(checkpoint, tmp_path, lora=lora)
    again.load(folder, requests)
    assert np.array_equal(scores, again.score(requests))
    trainable, total = reranker.facts(requests)["parameters"]
    assert 0 < trainable < total / 2 and float(reranker.facts(requests)["weight_change"][0]) > 1e-3


def test_an_adapter_refuses_another_base(demo: Dataset, split: Split, checkpoint: Path, tmp_path: Path) -> None:
    reranker = make(checkpoint, tmp_path)
    reranker.fit(demo, split, None, nothing)
    (folder := tmp_path / "saved").mkdir()
    reranker.save(folder)
    torch.manual_seed(9)
    SMALL.model(len(reranker.tokenizer), 512).save_pretrained(other := tmp_path / "other")
    reranker.tokenizer.save_pretrained(other)
    with pytest.raises(UserError, match="is not the model that"):
        make(other, tmp_path).load(folder, reranker_requests(demo))


def reranker_requests(demo: Dataset) -> Any:
    from conftest import random_requests

    requests, _ = random_requests(np.random.default_rng(0), 4, 10, len(demo.catalog))
    return replace(requests, catalog=demo.catalog)


def test_zero_shot_is_a_run_of_its_own(
    demo: Dataset, split: Split, candidates: Prepared, checkpoint: Path, tmp_path: Path
) -> None:
    reranker = make(checkpoint, tmp_path, epochs=0)
    reranker.fit(demo, split, None, nothing)
    assert reranker.labels(candidates.test) == ["zero-shot"]
    assert reranker.facts(candidates.test)["parameters"][0] == 0
    (folder := tmp_path / "saved").mkdir()
    reranker.save(folder)
    again = make(checkpoint, tmp_path, epochs=0)
    again.load(folder, candidates.test)
    assert np.array_equal(reranker.score(candidates.test), again.score(candidates.test))
    assert make(None, tmp_path, epochs=0).labels(candidates.test) == ["untrained"]


def test_facts_show_the_same_prompt_in_training_and_scoring(demo: Dataset, split: Split, tmp_path: Path) -> None:
    for settings in ({}, {"loss": "vocabulary"}, {"order": "invariant"}):
        reranker = make(None, tmp_path, **settings)
        reranker.build(demo, split)
        facts = reranker.facts(reranker_requests(demo))
        assert np.array_equal(facts["trained_prompt"], facts["scored_prompt"]) and len(facts["trained_prompt"]) == 8
        assert ("label_ids" in facts) != reranker.invariant
        assert len(set(facts.get("label_ids", np.zeros(0)).tolist())) == len(facts.get("label_ids", []))
        assert (facts["prompt_lengths"] > 50).all() and not facts["shortened"].any()


def test_rows_are_drawn_afresh_each_epoch_from_the_seed(demo: Dataset, split: Split, tmp_path: Path) -> None:
    reranker = make(None, tmp_path, training_candidates=20, rows_per_user=40)
    reranker.build(demo, split)
    rows = reranker.rows
    everything = list(range(len(rows)))
    drawn = rows.draw(everything)
    histories, listed, target = drawn.histories, drawn.candidates, drawn.target
    assert np.array_equal(listed, rows.draw(everything).candidates)
    backwards = rows.draw(everything[::-1])
    assert np.array_equal(backwards.candidates[::-1], listed), "the order of a batch changes no row"
    rows.epoch = 1
    assert (rows.draw(everything).candidates != listed).mean() > 0.9
    users = rows.users[np.arange(len(rows)) % len(rows.users)]
    for row in range(0, len(rows), 37):
        own = split.train.histories.row(users[row]).tolist()
        answer = int(listed[row, target[row]])
        past = histories.row(row).tolist()
        assert answer in own and own[: len(past) + own.index(past[0])][-len(past) :] == past
        others = np.delete(listed[row], target[row])
        assert not set(others.tolist()) & set(own) and len(set(listed[row].tolist())) == 20
    counts = np.bincount(target, minlength=20)
    assert ((counts - len(rows) / 20) ** 2 / (len(rows) / 20)).sum() < 45, "no place is the target's (chi-square, 19)"
    held_out = split.test.relevant.values[users]
    assert (listed == held_out[:, None]).any(), (
        "test items may be negatives: leaving them out would tell which they are"
    )


@pytest.mark.parametrize(
    ("negatives", "least", "most"), [("random", 0, 0.75), ("mixed", 0.7, 0.95), ("first_stage", 1, 1)]
)
def test_hard_negatives_are_the_first_stages_best(
    negatives: str, least: float, most: float, demo: Dataset, split: Split, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("data.negatives.HARD", 25)
    reranker = make(None, tmp_path, negatives=negatives, training_candidates=11)
    reranker.build(demo, split)
    drawn = reranker.rows.draw(list(range(100)))
    histories, listed, target = drawn.histories, drawn.candidates, drawn.target
    from data.splits import Phase

    fitted = split.negatives(demo.catalog, 1.0).retriever
    assert fitted is not None
    scores = np.array(fitted.score(Phase(np.arange(100), histories, histories)))
    own = split.train.histories.take(reranker.rows.users[np.arange(100)])
    scores[own.row_of_value, own.values] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :25]
    others = listed[np.arange(11) != target[:, None]].reshape(100, 10)
    share = np.mean([np.isin(others[row], best[row]).mean() for row in range(100)])
    assert least <= share + 0.02 and share <= most + 0.02
    assert split.retriever is not None and not hasattr(split.retriever, "weights"), "the split's own stays unfitted"


def test_accumulated_batches_are_one_batch(demo: Dataset, split: Split, checkpoint: Path, tmp_path: Path) -> None:
    losses: dict[int, list[float]] = {}
    for parts in (1, 4):
        reranker = make(
            checkpoint, tmp_path / str(parts), lora=Lora(lora_dropout=0), gradient_accumulation_steps=parts
        )
        reranker.trainer.per_device_train_batch_size = 16 // parts
        curve = losses.setdefault(parts, [])

        def log(values: dict[str, float], step: int, curve: list[float] = curve) -> None:
            curve += [values["grad_norm"]] if "grad_norm" in values else []

        with pytest.MonkeyPatch.context() as patch:
            from rerankers.letter.rows import Drawn, LetterRows

            whole = LetterRows.draw

            def one_by_one(rows: Any, numbers: list[int], whole: Any = whole) -> Any:
                drawn = [whole(rows, [number]) for number in numbers]  # rows of a batch are drawn together otherwise
                histories = type(drawn[0].histories).from_rows([one.histories.row(0) for one in drawn])
                parts = [[getattr(one, name) for one in drawn] for name in ("candidates", "target", "copied")]
                return Drawn(histories, *map(np.concatenate, parts))

            patch.setattr(LetterRows, "draw", one_by_one)
            reranker.fit(demo, split, None, log)
    assert np.allclose(losses[1], losses[4], rtol=2e-3) and len(losses[1]) > 3


def test_it_overfits_what_is_easy(demo: Dataset, split: Split, tmp_path: Path) -> None:
    """A few users, always the same rows: the loss falls far below ln N, and it is logged as letter_loss too."""
    few = replace(split, train=split.train.take(slice(0, 8)))
    larger = replace(SMALL, hidden_size=64, head_dim=32)
    reranker = make(None, tmp_path, epochs=150, training_candidates=5, learning_rate=3e-3, scratch=larger)
    reranker.redraws = False
    logged: list[dict[str, float]] = []
    reranker.fit(demo, few, None, lambda values, step: logged.append(values))
    curve = [values["train_letter_loss"] for values in logged if "train_letter_loss" in values]
    assert curve[0] > 0.8 * math.log(5) and curve[-1] < 0.3 * math.log(5)


def test_item_texts_come_from_the_catalogue_or_say_what_is_missing(demo: Dataset) -> None:
    with pytest.raises(UserError, match="item_text=caption needs items with a caption"):
        item_texts(demo.catalog, "caption")
    captions = demo.catalog.caption.copy()
    captions[0] = "a red teapot"
    texts = item_texts(replace(demo.catalog, caption=captions), "caption")
    assert texts[0] == f"{demo.catalog.title[0]}: a red teapot" and texts[1] == demo.catalog.title[1]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("reranker.order=any", "reranker.order=any is not allowed; choose letters or invariant"),
        ("reranker.item_text=plot", "choose text_only or caption or semantic_summary"),
        ("reranker.lora.r=0", "reranker.lora.r=0 is out of range"),
        ("reranker.lora.rank=4", "Could not override 'reranker.lora.rank'"),
        ("+reranker.lora.rank=4", "unknown key reranker.lora.rank"),
        ("reranker.lora.r=abc", "reranker.lora.r=abc has the wrong type; it must be int"),
        ("reranker.lora=8", "reranker.lora=8 is not a mapping"),
        ("candidates.size=53", "53 candidates need 53 labels"),
        ("reranker.permutations=3 reranker.order=invariant", "reranker.order=invariant has no letters"),
    ],
)
def test_mistakes_are_one_sentence(override: str, says: str, config: Callable[..., Any]) -> None:
    with pytest.raises(Exception) as caught:
        configure(config("reranker=qwen_letter", "candidates.size=20", *override.split(), small=False))
    assert says in str(caught.value)


def test_a_model_that_cannot_be_had_says_what_to_do(
    demo: Dataset, split: Split, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        make(tmp_path / "nowhere", tmp_path).build(demo, split)
    with pytest.raises(UserError, match="give a Hugging Face name that this machine can reach, a folder"):
        make(tmp_path, tmp_path).build(demo, split)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        make(checkpoint, tmp_path, load_in_4bit=True).build(demo, split)


def test_with_response_reads_the_letter_and_its_closing(demo: Dataset, split: Split, tmp_path: Path) -> None:
    reranker = make(None, tmp_path)
    reranker.build(demo, split)
    prompts = [reranker.prompts.render(np.array([1]), np.array([2, 3]))]
    closing = reranker.prompts.closing()
    batch = with_response(prompts, np.array([77]), closing)
    assert batch["shift_labels"][0].tolist() == [77, *closing]
    end = len(prompts[0].ids)
    assert batch["positions"][0].tolist() == list(range(end - 1, end + len(closing)))
    assert batch["input_ids"][0, end:].tolist() == [77, *closing[:-1]]


def test_copying_lessons_ask_for_an_item_of_the_history(demo: Dataset, split: Split, tmp_path: Path) -> None:
    lessons = replace(SMALL, copying_epochs=2, copying_share=0.25)
    reranker = make(None, tmp_path, scratch=lessons, rows_per_user=4)
    reranker.build(demo, split)
    for epoch, expected in ((0, 1.0), (1, 1.0), (2, 0.25)):
        reranker.rows.epoch = epoch
        drawn = reranker.rows.draw(list(range(400)))
        answers = drawn.candidates[np.arange(400), drawn.target]
        inside = np.array([answer in drawn.histories.row(row) for row, answer in enumerate(answers)])
        assert np.array_equal(inside, drawn.copied) and abs(inside.mean() - expected) < 0.1
        others = drawn.candidates[np.arange(10) != drawn.target[:, None]].reshape(400, 9)
        assert not any(np.isin(others[row], drawn.histories.row(row)).any() for row in range(400))
    assert not make(None, tmp_path, scratch=replace(SMALL, copying_share=0.5)).copying_share(0)
    logged: list[dict[str, float]] = []
    reranker = make(None, tmp_path, scratch=lessons, epochs=3)
    reranker.fit(demo, split, None, lambda values, step: logged.append(values))
    assert any("train_line_loss" in values for values in logged)
    epochs = [values["epoch"] for values in logged if "train_letter_loss" in values]
    assert epochs and min(epochs) > 2, "what asks for the history is not counted as learning the next item"


def test_line_loss_asks_each_line_one_layer_below(demo: Dataset, split: Split, tmp_path: Path) -> None:
    reranker = make(None, tmp_path)
    reranker.build(demo, split)
    batch = reranker.rows([{"row": row} for row in range(8)])
    loss = training_loss(reranker, batch, tmp_path)
    got = gradients(reranker.network)
    reranker.network.zero_grad()
    out = reranker.network(input_ids=batch["input_ids"], output_hidden_states=True)
    weight = reranker.network.get_output_embeddings().weight
    ids = reranker.answer_tokens(10)
    newline = reranker.prompts.newline[0]
    own = []
    for row in range(8):
        end = int(batch["positions"][row, 0])
        breaks = [place for place, token in enumerate(batch["input_ids"][row, :end].tolist()) if token == newline]
        begin = batch["input_ids"][row].tolist().index(reranker.tokenizer.convert_tokens_to_ids("Candidates"))
        lines = [place for place in breaks if place > begin][1:11]  # after "Candidates:"
        below = reranker.network.base_model.norm(out.hidden_states[-2][row, lines])
        own.append((below * weight[ids]).sum(-1))
    target = batch["shift_labels"][:, 0]
    letter = F.cross_entropy(out.logits[torch.arange(8), batch["positions"][:, 0]][:, ids], target)
    expected = letter + F.cross_entropy(torch.stack(own), target)
    expected.backward()
    assert torch.allclose(loss, expected, atol=1e-5)
    assert torch.allclose(got, gradients(reranker.network), atol=1e-5)


def test_a_shortened_invariant_prompt_is_shortened_alike_for_every_order(
    demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path
) -> None:
    titles = demo.catalog.title.copy()
    titles[::7] = [f"{title} of a very long name that takes a lot of room in any prompt" for title in titles[::7]]
    longer = replace(demo, catalog=replace(demo.catalog, title=titles))
    reranker = make(None, tmp_path, order="invariant", max_length=110)
    reranker.build(longer, split)
    many = np.random.default_rng(0).integers(0, len(titles), (20, 100)).astype(np.int32)
    requests = replace(candidates.test.take(slice(0, 20)), catalog=longer.catalog, candidates=many)
    assert reranker.facts(requests)["shortened"].mean() > 0.5
    scores = reranker.score(requests)
    other, order = shuffled(requests, 1)
    assert np.abs(np.take_along_axis(scores, order, 1) - reranker.score(other)).max() < 1e-5
    assert np.abs(reranker.score(replace(requests, candidates=many[:, :3])) - scores[:, :3]).max() < 1e-5


def test_the_identity_of_a_run_is_the_models_content_not_its_place(
    demo: Dataset, checkpoint: Path, tmp_path: Path, config: Callable[..., Any]
) -> None:
    import shutil

    def identity(folder: Path) -> str:
        return configure(config("reranker=qwen_letter", f"reranker.model={folder}")).identity(demo)

    moved = shutil.copytree(checkpoint, tmp_path / "moved")
    assert identity(moved) == identity(checkpoint)
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    assert identity(moved) != identity(checkpoint)
    assert identity(tmp_path / "not a folder") != identity(checkpoint)


def test_a_model_that_lacks_weights_is_refused(demo: Dataset, split: Split, checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    torn = shutil.copytree(checkpoint, tmp_path / "torn")
    weights = load_file(torn / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layers.1" not in k}, torn / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights \(model\.layers\.1"):
        make(torn, tmp_path).build(demo, split)
    (torn / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:500])
    with pytest.raises(UserError, match="cannot be loaded"):
        make(torn, tmp_path).build(demo, split)


@pytest.mark.parametrize("name", ["candidates_sweep", "lora_rank_sweep"])
def test_a_sweep_trains_the_model_it_is_given(name: str, config: Callable[..., Any]) -> None:
    reranker = configure(config(f"experiment={name}", "reranker.model=/my/model", small=False)).reranker
    assert isinstance(reranker, LetterReranker)
    assert (reranker.init, reranker.model, reranker.training_candidates) == (
        "pretrained",
        "/my/model",
        {"candidates_sweep": 50, "lora_rank_sweep": 20}[name],
    )


def test_sweeps_compose_their_jobs(config: Callable[..., Any]) -> None:
    for size in (5, 10, 20, 50):
        configure(config("experiment=candidates_sweep", f"candidates.size={size}", small=False))
