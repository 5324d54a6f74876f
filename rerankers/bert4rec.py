"""BERT4Rec (Sun et al., CIKM 2019): a bidirectional transformer that fills in masked items of a sequence.

    python train.py reranker=bert4rec dataset=ml_100k candidates=full

One row is one user. Rows are left-padded and positions count from the right end, so a batch may be cut to its
longest row and the position of a mask at the end is the same in training and scoring. The output vocabulary is the
items alone, tied to their embeddings, and the softmax is computed at masked positions only. Scoring appends [MASK]
to the history and reads off the candidates asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel, Trainer, TrainerCallback

from data.dataset import Dataset, Ragged, Requests
from data.errors import UserError, in_range
from data.files import read_json, write_json
from data.splits import Split
from rerankers.base import Log, Reranker, Validate
from rerankers.item_ids import load_item_ids, rows_in, save_item_ids
from rerankers.training import RankingEvaluation, device, seed_everything, train, training_arguments

PAD, MASK, SPECIAL = 0, 1, 2  # item row i is token i + SPECIAL
ARCHITECTURE = "max_length hidden_size num_hidden_layers num_attention_heads intermediate_size".split()
UNKNOWN = float(np.finfo(np.float32).min)  # score of an item the model never knew: last, but ranked


@dataclass(kw_only=True)
class BERT4Rec(Reranker):
    max_length: int = 50  # items of a training row; scoring reads the last max_length - 1 and a mask
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 256
    dropout: float = 0.2
    initializer_range: float = 0.05  # BERT's .02 leaves a small model at the popularity plateau for long
    mask_probability: float = 0.2
    last_only: float = 0.3  # share of rows that mask the last item alone, which is what scoring asks
    random_crop: float = 0.5  # share of rows that end at a random place of the user's sequence
    rows_per_user: int = 1  # rows an epoch
    label_smoothing: float = 0.0
    sampled_softmax_above: int = 50_000  # catalogue size from which negatives are sampled
    sampled_negatives: int = 4_096  # shared by a batch

    requires: ClassVar[tuple[str, ...]] = ("interactions",)
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_length", 2, 4096),
            ("hidden_size", 1, 16_384),
            ("num_hidden_layers", 1, 48),
            ("num_attention_heads", 1, 64),
            ("intermediate_size", 1, 1_000_000),
            ("dropout", 0, 0.9),
            ("initializer_range", 1e-4, 1),
            ("mask_probability", 0.01, 0.9),
            ("last_only", 0, 1),
            ("random_crop", 0, 1),
            ("rows_per_user", 1, 1000),
            ("label_smoothing", 0, 0.5),
            ("sampled_negatives", 1, 1_000_000),
        ):
            in_range(f"reranker.{name}", getattr(self, name), low, high)
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"reranker.hidden_size={self.hidden_size} must be a multiple of reranker.num_attention_heads="
                f"{self.num_attention_heads}"
            )

    def fit(self, dataset: Dataset, split: Split, validate: Validate | None, log: Log) -> None:
        seed_everything(self.seed)
        self.item_ids = dataset.catalog.id
        n_items = len(self.item_ids)
        self.model = MaskedItemModel(self._config(n_items), self.label_smoothing, self._negatives(n_items)).to(
            device()
        )
        if self.trainer.num_train_epochs == 0:
            return
        rows = MaskedRows(split.train.histories, self)
        trainer = RankingTrainer(
            score=self.score,
            validate=validate,
            model=self.model,
            args=training_arguments(self, validate is not None),
            train_dataset=rows,
            data_collator=lambda batch: batch,
            callbacks=[SetEpoch(rows)],
        )
        train(trainer, self, log, math.log(n_items))
        self.model.eval()

    def _negatives(self, n_items: int) -> int | None:
        if n_items <= self.sampled_softmax_above:
            return None
        if self.label_smoothing:  # it would spread weight over negatives that are masked out
            raise UserError(
                f"reranker.label_smoothing={self.label_smoothing} needs the full softmax, but {n_items:,} items are "
                f"above reranker.sampled_softmax_above={self.sampled_softmax_above:,}; set one of them"
            )
        return self.sampled_negatives

    def _config(self, n_items: int) -> BertConfig:
        return BertConfig(
            vocab_size=n_items + SPECIAL,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            initializer_range=self.initializer_range,
            max_position_embeddings=self.max_length,
            type_vocab_size=1,
            pad_token_id=PAD,
        )

    @torch.inference_mode()
    def score(self, requests: Requests) -> np.ndarray:
        self.model.eval()
        scores = np.empty((len(requests), requests.width), dtype=np.float32)
        order = np.argsort(requests.histories.lengths, kind="stable")  # rows of one batch are of like length
        place = self.model.bert.device
        for batch in np.array_split(order, max(1, math.ceil(len(order) / self.trainer.per_device_eval_batch_size))):
            history = requests.histories.take(batch).last(self._width(requests.histories.lengths[batch]))
            tokens = np.concatenate([history + SPECIAL, np.full((len(batch), 1), MASK)], axis=1)
            tokens[:, :-1][history < 0] = PAD
            hidden = self.model.encode(torch.from_numpy(tokens).to(place))[:, -1]  # [B, H]
            if requests.candidates is None:
                logits = self.model.logits(hidden)
            else:
                candidates = np.maximum(requests.candidates[batch], 0).astype(np.int64)
                logits = self.model.logits_of(hidden, torch.from_numpy(candidates).to(place))
            scores[batch] = logits.float().cpu().numpy()
        return scores

    def _width(self, lengths: np.ndarray) -> int:
        return int(min(lengths.max(initial=0), self.max_length - 1))

    def save(self, folder: Path) -> None:
        save_file(
            {name: w.contiguous().cpu() for name, w in self.model.state_dict().items()},
            folder / "model.safetensors",
        )
        save_item_ids(folder, self.item_ids)
        write_json(folder / "config.json", {name: getattr(self, name) for name in ARCHITECTURE})

    def load(self, folder: Path, requests: Requests) -> None:
        """Items the model never knew are ranked last; in a history they are masks it was not asked about."""
        for name, value in read_json(folder / "config.json").items():
            if getattr(self, name) != value:
                raise UserError(f"reranker.{name}={getattr(self, name)}, but {folder} holds a model with {value}")
        saved = load_item_ids(folder)
        rows = rows_in(saved, requests.catalog)
        weights = load_file(folder / "model.safetensors")
        known = torch.from_numpy(
            np.concatenate([np.arange(SPECIAL), np.where(rows < 0, MASK - SPECIAL, rows) + SPECIAL])
        )
        embeddings = "bert.embeddings.word_embeddings.weight"
        weights[embeddings] = weights[embeddings][known]
        bias = weights["bias"][torch.from_numpy(np.maximum(rows, 0))]
        weights["bias"] = torch.where(torch.from_numpy(rows < 0), torch.tensor(UNKNOWN), bias)
        self.item_ids = requests.catalog.id
        self.model = MaskedItemModel(self._config(len(rows)), self.label_smoothing, None)
        self.model.load_state_dict(weights)
        self.model.to(device()).eval()

    def chance_loss(self, requests: Requests) -> float:
        return math.log(len(requests.catalog))

    def facts(self, requests: Requests) -> dict[str, np.ndarray]:
        sizes = [(p.numel() if p.requires_grad else 0, p.numel()) for p in self.model.parameters()]
        return {"parameters": np.sum(sizes, axis=0)}


class MaskedItemModel(nn.Module):
    """BertModel, a transform as in BERT's own head, and the tied item output."""

    def __init__(self, config: BertConfig, label_smoothing: float, negatives: int | None) -> None:
        super().__init__()
        self.config = config
        self.bert = BertModel(config, add_pooling_layer=False)
        dense = nn.Linear(config.hidden_size, config.hidden_size)
        nn.init.normal_(dense.weight, std=config.initializer_range)
        nn.init.zeros_(dense.bias)
        self.transform = nn.Sequential(dense, nn.GELU(), nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size - SPECIAL))  # [I]
        self.label_smoothing, self.negatives = label_smoothing, negatives

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        self.bert.gradient_checkpointing_enable(**kwargs)

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [B, T], left-padded -> hidden states [B, T, H]. The last column has position 0."""
        positions = torch.arange(tokens.shape[1] - 1, -1, -1, device=tokens.device).expand_as(tokens)
        return self.bert(
            input_ids=tokens, attention_mask=(tokens != PAD).long(), position_ids=positions
        ).last_hidden_state

    @property
    def items(self) -> torch.Tensor:
        return self.bert.embeddings.word_embeddings.weight[SPECIAL:]  # [I, H]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[B, H] -> [B, I]"""
        return self.transform(hidden) @ self.items.T + self.bias

    def logits_of(self, hidden: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """[B, H] and item rows [B, N] -> [B, N]; the rest of the catalogue is not touched."""
        return torch.einsum("bh,bnh->bn", self.transform(hidden), self.items[items]) + self.bias[items]

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """tokens and labels [B, T]; labels are item rows at masked positions, -100 elsewhere. Mean loss over them."""
        masked = labels >= 0
        hidden, target = self.encode(tokens)[masked], labels[masked]  # [M, H], [M]
        if self.negatives is None:
            logits = self.logits(hidden)
        else:
            logits, target = self._sampled(hidden, target)
        return {"loss": nn.functional.cross_entropy(logits, target, label_smoothing=self.label_smoothing)}

    def _sampled(self, hidden: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [M, 1 + S] of the target and S shared uniform negatives, corrected by log(I / S) so that the loss
        estimates the full softmax; a negative that is the row's own target is left out."""
        n_items = len(self.bias)
        negatives = torch.randint(n_items, (self.negatives or 0,), device=target.device)  # [S]
        transformed = self.transform(hidden)
        positive = (transformed * self.items[target]).sum(-1, keepdim=True) + self.bias[target, None]
        negative = transformed @ self.items[negatives].T + self.bias[negatives] + math.log(n_items / len(negatives))
        negative = negative.masked_fill(negatives == target[:, None], -torch.inf)
        return torch.cat([positive, negative], dim=1), torch.zeros_like(target)


class RankingTrainer(RankingEvaluation, Trainer):  # type: ignore[misc]
    pass


class MaskedRows(torch.utils.data.Dataset):
    """Training rows, masked anew each epoch by (seed, epoch, rows of the batch) alone, so that a continued training
    and any number of loading workers see the same data."""

    def __init__(self, sequences: Ragged, config: BERT4Rec) -> None:
        self.sequences = sequences.take(np.flatnonzero(sequences.lengths >= 2))
        if len(self.sequences) == 0:
            raise UserError("no user has two training interactions; bert4rec has nothing to learn from")
        self.config, self.epoch = config, 0

    def __len__(self) -> int:
        return len(self.sequences) * self.config.rows_per_user

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        config = self.config
        rng = np.random.default_rng([config.seed, self.epoch, *indices])
        users = np.asarray(indices) % len(self.sequences)
        length = self.sequences.lengths[users]
        end = np.where(rng.random(len(users)) < config.random_crop, rng.integers(2, length + 1), length)
        rows = self.sequences.part(users, np.zeros_like(end), end)
        items = rows.last(int(min(end.max(), config.max_length)))  # [B, T]
        masked = rng.random(items.shape) < config.mask_probability
        only_last = rng.random(len(users)) < config.last_only
        masked[only_last] = False
        masked[:, -1] |= only_last | ~(masked & (items >= 0)).any(axis=1)  # no row without a target
        masked &= items >= 0
        tokens = np.where(masked, MASK, items + SPECIAL)
        tokens[items < 0] = PAD
        return {
            "tokens": torch.from_numpy(tokens.astype(np.int64)),
            "labels": torch.from_numpy(np.where(masked, items, -100).astype(np.int64)),
        }


class SetEpoch(TrainerCallback):
    """Tells the rows which epoch it is. (accelerate's own `set_epoch` does not reach them when it skips batches.)"""

    def __init__(self, rows: MaskedRows) -> None:
        self.rows = rows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rows.epoch = math.floor(state.epoch or 0)
