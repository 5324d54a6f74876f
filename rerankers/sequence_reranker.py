"""What rerankers of item sequences share: settings, rows, training, scoring, saving. A model adds its task.

One training row is one user. `SequenceReranker.task` turns a batch of sequences into tokens and labels, `query` turns
histories into the tokens whose last hidden state is scored; see `bert4rec.py` and `sasrec.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, Trainer

from data.dataset import Dataset, Ragged, Requests
from data.errors import UserError, in_range
from data.files import read_json, write_json
from data.splits import Split
from rerankers.base import Log, Reranker, Validate
from rerankers.item_ids import load_item_ids, rows_in, save_item_ids
from rerankers.item_transformer import MASK, PAD, SPECIAL, ItemTransformer
from rerankers.training import (
    RankingEvaluation,
    SetEpoch,
    device,
    seed_everything,
    train,
    training_arguments,
    training_facts,
)
from rerankers.weights import read_weights

ARCHITECTURE = "max_length hidden_size num_hidden_layers num_attention_heads intermediate_size".split()
UNKNOWN = float(np.finfo(np.float32).min)  # score of an item the model never knew: last, but ranked


@dataclass(kw_only=True)
class SequenceReranker(Reranker):
    max_length: int = 50  # tokens of a row
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 256
    dropout: float = 0.2
    initializer_range: float = 0.05  # BERT's .02 leaves a small model at the popularity plateau for long
    random_crop: float = 0.5  # share of rows that end at a random place of the user's sequence
    rows_per_user: int = 1  # rows an epoch
    label_smoothing: float = 0.0
    sampled_softmax_above: int = 50_000  # catalogue size from which negatives are sampled
    sampled_negatives: int = 4_096  # shared by a batch

    requires: ClassVar[tuple[str, ...]] = ("interactions",)
    trains: ClassVar[bool] = True
    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_length", 2, 4096),
            ("hidden_size", 1, 16_384),
            ("num_hidden_layers", 1, 48),
            ("num_attention_heads", 1, 64),
            ("intermediate_size", 1, 1_000_000),
            ("dropout", 0, 0.9),
            ("initializer_range", 1e-4, 1),
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

    def task(self, items: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Items [B, T], left-padded with -1 -> tokens and labels [B, T'] (labels: item rows, -100 = not asked)."""
        raise NotImplementedError

    def query(self, histories: Ragged) -> np.ndarray:
        """Histories of a batch -> tokens [B, T]; the last column's hidden state is scored."""
        raise NotImplementedError

    @property
    def row_items(self) -> int:
        """Items that a training row reads."""
        return self.max_length

    def shortest_crop(self, lengths: np.ndarray) -> np.ndarray:
        """The earliest end of a randomly cropped row."""
        return np.full_like(lengths, 2)

    def build(self, dataset: Dataset, split: Split) -> None:
        seed_everything(self.seed)
        self.item_ids = dataset.catalog.id
        n_items = len(self.item_ids)
        self.model = ItemTransformer(self._config(n_items), self.label_smoothing, self._negatives(n_items)).to(
            device()
        )
        self.rows = SequenceRows(split.train.histories, self)

    def fit(self, dataset: Dataset, split: Split, validate: Validate | None, log: Log) -> None:
        self.build(dataset, split)
        if self.trainer.num_train_epochs == 0:
            return
        trainer = RankingTrainer(
            score=self.score,
            validate=validate,
            model=self.model,
            args=training_arguments(self, validate is not None),
            train_dataset=self.rows,
            data_collator=lambda batch: batch,
            callbacks=[SetEpoch(self.rows)] if self.redraws else [],
        )
        self.weight_change = train(trainer, self, log, math.log(len(self.item_ids)))
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
            is_decoder=self.causal,
            use_cache=False,
        )

    @torch.inference_mode()
    def score(self, requests: Requests) -> np.ndarray:
        self.model.eval()
        scores = np.empty((len(requests), requests.width), dtype=np.float32)
        order = np.argsort(requests.histories.lengths, kind="stable")  # rows of one batch are of like length
        place = self.model.bert.device
        for batch in np.array_split(order, max(1, math.ceil(len(order) / self.trainer.per_device_eval_batch_size))):
            tokens = torch.from_numpy(self.query(requests.histories.take(batch)).astype(np.int64))
            hidden = self.model.encode(tokens.to(place))[:, -1]  # [B, H]
            if requests.candidates is None:
                logits = self.model.logits(hidden)
            else:
                candidates = np.maximum(requests.candidates[batch], 0).astype(np.int64)
                logits = self.model.logits_of(hidden, torch.from_numpy(candidates).to(place))
            scores[batch] = logits.float().cpu().numpy()
        return scores

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
        weights = read_weights(folder, load_file)
        known = torch.from_numpy(
            np.concatenate([np.arange(SPECIAL), np.where(rows < 0, MASK - SPECIAL, rows) + SPECIAL])
        )
        embeddings = "bert.embeddings.word_embeddings.weight"
        weights[embeddings] = weights[embeddings][known]
        bias = weights["bias"][torch.from_numpy(np.maximum(rows, 0))]
        weights["bias"] = torch.where(torch.from_numpy(rows < 0), torch.tensor(UNKNOWN), bias)
        self.item_ids = requests.catalog.id
        self.model = ItemTransformer(self._config(len(rows)), self.label_smoothing, None)
        self.model.load_state_dict(weights)
        self.model.to(device()).eval()

    def chance_loss(self, requests: Requests) -> float:
        return math.log(len(requests.catalog))

    def facts(self, requests: Requests) -> dict[str, np.ndarray]:
        return training_facts(self, self.model)


class RankingTrainer(RankingEvaluation, Trainer):  # type: ignore[misc]
    pass


class SequenceRows(torch.utils.data.Dataset):
    """Training rows, drawn anew each epoch by (seed, epoch, rows of the batch) alone, so that a continued training
    and any number of loading workers see the same data."""

    def __init__(self, sequences: Ragged, config: SequenceReranker) -> None:
        self.sequences = sequences.take(np.flatnonzero(sequences.lengths >= 2))
        if len(self.sequences) == 0:
            raise UserError(f"no user has two training interactions; {config.name} has nothing to learn from")
        self.config, self.epoch = config, 0

    def __len__(self) -> int:
        return len(self.sequences) * self.config.rows_per_user

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        config = self.config
        rng = np.random.default_rng([config.seed, self.epoch, *indices])
        users = np.asarray(indices) % len(self.sequences)
        length = self.sequences.lengths[users]
        cropped = rng.random(len(users)) < config.random_crop
        end = np.where(cropped, rng.integers(config.shortest_crop(length), length + 1), length)
        rows = self.sequences.part(users, np.zeros_like(end), end)
        tokens, labels = config.task(rows.last(int(min(end.max(), config.row_items))), rng)
        return {
            "tokens": torch.from_numpy(tokens.astype(np.int64)),
            "labels": torch.from_numpy(labels.astype(np.int64)),
        }
