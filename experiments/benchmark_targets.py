"""What `experiments.benchmark` times: rows of generated data, the usual way beside ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from omegaconf import DictConfig


@dataclass
class Row:
    what: str
    run: Callable[[], int]  # does the work, returns how many units
    unit: str
    base: str | None = None  # the row it is compared with
    warm_up: bool = True  # run once before the rounds; not where a run takes minutes
    note: Callable[[], str] | None = None  # a sentence under the table, after the rounds


def metrics_rows(cfg: DictConfig) -> list[Row]:
    from data.dataset import Ragged, Requests
    from experiments.metrics import measure, rank

    rng = np.random.default_rng(cfg.seed)
    n = 20_000
    candidates = np.argsort(rng.random((n, 4 * cfg.candidates)), axis=1)[:, : cfg.candidates].astype(np.int32)
    none: Any = None
    requests = Requests(none, np.arange(n), Ragged.empty(n), candidates=candidates)
    relevant = Ragged.from_lengths(candidates[:, 0], np.ones(n, dtype=np.int64))
    scores = rng.random(candidates.shape, dtype=np.float32)

    def run() -> int:
        measure(rank(scores, requests, relevant, cfg.seed), ["recall", "ndcg", "mrr", "hit"], [10, 20])
        return n

    return [Row(f"8 metrics of 20,000 x {cfg.candidates} scores", run, "requests")]


def mining_rows(cfg: DictConfig) -> list[Row]:
    """Hard negatives of `n_users` queries over `n_items` passages of 40 words, drawn by Zipf's law. A query has 4
    words of the passage that is relevant to it and 4 others."""
    from data.dataset import Catalog, Ragged
    from data.mining import mine
    from data.splits import Phase
    from data.text_retrievers import BM25

    rng = np.random.default_rng(cfg.seed)
    chance = 1 / np.arange(1, 50_001)

    def drawn(n: int, length: int) -> np.ndarray:
        return rng.choice(len(chance), (n, length), p=chance / chance.sum())

    def texts(words: np.ndarray) -> np.ndarray:
        return np.array([" ".join(f"w{word}" for word in row) for row in words], dtype=object)

    passages = drawn(cfg.n_items, 40)
    none = np.full(cfg.n_items, "", dtype=object)
    catalog = Catalog(none, none, texts(passages), none, none, none, none)
    relevant = rng.integers(0, cfg.n_items, cfg.n_users)
    queries = texts(np.concatenate([passages[relevant, 10:14], drawn(cfg.n_users, 4)], axis=1))
    one, nothing = np.ones(cfg.n_users, dtype=np.int64), Ragged.empty(cfg.n_users)
    training = Phase(np.arange(cfg.n_users), Ragged.from_lengths(relevant, one), nothing, queries)
    retriever = BM25()

    def index() -> int:
        retriever.fit(catalog, training)
        return cfg.n_items

    def best() -> int:
        return len(mine(retriever, training, cfg.n_items, 100, 0.05))

    return [
        Row("index of words and pairs, BM25", index, "passages", warm_up=False),
        Row("100 hard negatives a query, margin .05", best, "queries", warm_up=False),
    ]


def cross_entropy_rows(cfg: DictConfig) -> list[Row]:
    """Forward and backward of 1,024 rows of 64 features over the catalogue."""
    import torch
    from torch.nn import LinearCrossEntropyOptions
    from torch.nn.functional import cross_entropy, linear_cross_entropy

    from rerankers.cross_entropy import item_cross_entropy

    torch.manual_seed(cfg.seed)
    shapes = ((1024, 64), (cfg.n_items, 64), (cfg.n_items,))
    hidden, items, bias = (torch.randn(shape, requires_grad=True) for shape in shapes)
    target = torch.randint(cfg.n_items, (1024,))

    def step(loss: Callable[[], Any]) -> Callable[[], int]:
        def run() -> int:
            loss().backward()
            return len(target)

        return run

    plain = "all logits in memory"
    native = "torch's linear_cross_entropy"
    options = LinearCrossEntropyOptions()
    return [
        Row(plain, step(lambda: cross_entropy(hidden @ items.T + bias, target)), "rows"),
        Row(
            native,
            step(lambda: linear_cross_entropy(hidden, items, target, linear_bias=bias, options=options)),
            "rows",
            plain,
        ),
        Row(
            "in blocks, rerankers.cross_entropy",
            step(lambda: item_cross_entropy(hidden, items, bias, target)),
            "rows",
            plain,
        ),
    ]


def bert4rec_rows(cfg: DictConfig) -> list[Row]:
    import torch

    from data.dataset import Ragged, Requests
    from rerankers.base import TrainerConfig
    from rerankers.bert4rec import BERT4Rec
    from rerankers.item_transformer import MASK, PAD, SPECIAL, ItemTransformer
    from rerankers.sequence_reranker import SequenceRows

    rng = np.random.default_rng(cfg.seed)
    lengths = np.clip(rng.geometric(1 / cfg.mean_length, cfg.n_users), 2, cfg.n_items // 2)
    sequences = Ragged.from_rows([rng.choice(cfg.n_items, n, replace=False) for n in lengths])
    model = BERT4Rec(name="bert4rec", max_length=50, trainer=TrainerConfig(per_device_eval_batch_size=256))
    torch.manual_seed(cfg.seed)
    model.model = ItemTransformer(model._config(cfg.n_items), 0.0, None)
    optimizer = torch.optim.AdamW(model.model.parameters(), lr=1e-3, fused=True)
    rows = SequenceRows(sequences, model)
    batches = [rows.__getitems__(list(range(b, min(b + 64, len(rows))))) for b in range(0, len(rows), 64)]

    def steps(loss: Callable[[Any, Any], Any]) -> int:
        model.model.train()
        for batch in batches:
            loss(batch["tokens"], batch["labels"]).backward()
            optimizer.step()
            optimizer.zero_grad()
        return len(rows)

    def everywhere(tokens: Any, labels: Any) -> Any:
        """The usual way: logits of the whole catalogue at every position, most of them thrown away."""
        logits = model.model.logits(model.model.encode(tokens))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    catalog: Any = range(cfg.n_items)
    candidates = rng.integers(0, cfg.n_items, (cfg.n_users, cfg.candidates), dtype=np.int32)
    asked = Requests(catalog, np.arange(cfg.n_users), sequences, candidates=candidates)
    full = replace(asked, candidates=None)

    @torch.inference_mode()
    def padded_and_full() -> int:
        """The usual way: every history padded to max_length, the catalogue scored, the candidates gathered."""
        model.model.eval()
        history = sequences.last(49)
        tokens = np.concatenate([np.where(history < 0, PAD, history + SPECIAL), np.full((cfg.n_users, 1), MASK)], 1)
        for start in range(0, cfg.n_users, 256):
            part = torch.from_numpy(tokens[start : start + 256].astype(np.int64))
            logits = model.model.logits(model.model.encode(part))[:, -1]
            logits.gather(1, torch.from_numpy(candidates[start : start + 256].astype(np.int64))).numpy()
        return cfg.n_users

    def score(requests: Requests) -> Callable[[], int]:
        return lambda: len(model.score(requests))

    usual_training, usual_scoring = "training, logits everywhere", "scoring, padded, logits everywhere"
    return [
        Row(usual_training, lambda: steps(everywhere), "sequences"),
        Row(
            "training, logits at masks only",
            lambda: steps(lambda tokens, labels: model.model(tokens, labels)["loss"]),
            "sequences",
            usual_training,
        ),
        Row(usual_scoring, padded_and_full, "requests"),
        Row(f"scoring, {cfg.candidates} candidates", score(asked), "requests", usual_scoring),
        Row("scoring, whole catalogue", score(full), "requests", usual_scoring),
        *metrics_rows(cfg),
    ]


def letter_rows(cfg: DictConfig) -> list[Row]:
    """A small Qwen3 with the real size of vocabulary and LoRA on every linear layer: 8 prompts of 768 tokens each."""
    import tempfile

    import torch
    from datasets import Dataset
    from torch.nn.functional import cross_entropy
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from trl import SFTConfig, SFTTrainer

    from rerankers.letter.answer import add_answer_head
    from rerankers.letter.language_model import Lora, Scratch
    from rerankers.letter.prompt import instructions

    batch, length, vocabulary, response = 8, 768, 151_936, 3  # the letter, <|im_end|>, a line break
    torch.manual_seed(cfg.seed)
    shape: dict[str, Any] = {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 768,
    }
    config = Qwen3Config(vocab_size=vocabulary, tie_word_embeddings=True, use_cache=False, **shape)
    base: Any = Qwen3ForCausalLM(config)
    add_answer_head(base)
    model = Lora(lora_dropout=0.0).wrap(base)
    ids = torch.randint(vocabulary, (batch, length))
    letters = torch.randperm(vocabulary)[: cfg.candidates]
    target = torch.randint(cfg.candidates, (batch,))
    answer = torch.full((batch, 1), length - response - 1)
    ids[:, length - response] = letters[target]
    labels = torch.where(torch.arange(length) >= length - response, ids, -100)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    arguments = SFTConfig(
        output_dir=tempfile.gettempdir(),
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        max_length=None,
        activation_checkpointing=False,
        report_to=[],
    )
    trl = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()}),
        processing_class=Scratch().tokenizer([], instructions()),
    )
    place = next(model.parameters()).device
    ids, labels, letters, target, answer = (x.to(place) for x in (ids, labels, letters, target, answer))
    prompt = ids[:, : length - response]

    def everywhere() -> Any:
        logits = model(input_ids=ids).logits[:, :-1].float()
        return cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())

    def default() -> Any:
        mask = torch.ones_like(ids)
        return trl.compute_loss(model, {"input_ids": ids, "attention_mask": mask, "labels": labels})

    def response_only() -> Any:
        positions = torch.arange(length - response - 1, length - 1, device=place).expand(batch, -1)
        logits = model(input_ids=ids[:, :-1], positions=positions)
        return cross_entropy(logits.flatten(0, 1), ids[:, length - response :].flatten())

    def only_letters() -> Any:
        return model(input_ids=prompt, positions=answer, tokens=letters)[:, 0]

    def restricted() -> Any:
        return cross_entropy(only_letters(), target)

    def step(loss: Callable[[], Any]) -> Callable[[], int]:
        def run() -> int:
            model.train()
            loss().backward()
            optimizer.step()
            optimizer.zero_grad()
            return batch

        return run

    def scoring(logits: Callable[[], Any]) -> Callable[[], int]:
        def run() -> int:
            model.eval()
            with torch.inference_mode():
                logits().cpu()
            return batch

        return run

    usual, asked = "training, logits everywhere, prompt masked", "scoring, logits everywhere"
    return [
        Row(usual, step(everywhere), "prompts"),
        Row("training, trl's default here", step(default), "prompts", usual),
        Row("training, loss=vocabulary", step(response_only), "prompts", usual),
        Row("training, loss=letters", step(restricted), "prompts", usual),
        Row(asked, scoring(lambda: model(input_ids=prompt).logits[:, -1, letters]), "prompts"),
        Row(
            "scoring, letters only",
            scoring(lambda: model(input_ids=prompt, positions=answer, tokens=letters)),
            "prompts",
            asked,
        ),
    ]
