"""Head and losses of the letter reranker against straightforward references, values and gradients; it learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_letters import SMALL, make, nothing, overfitted
from torch.nn import functional as F

from data.dataset import Dataset
from data.splits import Split
from data.texts import item_texts
from rerankers.letter.labels import letters
from rerankers.letter.language_model import Lora
from rerankers.letter.letter import LetterReranker
from rerankers.letter.rows import with_response


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
            request.getfixturevalue("shared_data") / "tokenizers" / f"{tokenizer}-tokenizer", trust_remote_code=False
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
    curve = overfitted(demo, split, 8, tmp_path, epochs=150, training_candidates=5)
    assert curve[0] > 0.8 and curve[-1] < 0.3
