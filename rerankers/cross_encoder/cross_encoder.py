"""The cross-encoder: one model reads a query and a text together and gives one logit; ViRanker and BGE's family.

    python train.py experiment=proptit dataset.path=/my/proptit                        # namdp-ptit/ViRanker
    python train.py reranker=viranker reranker.model=BAAI/bge-reranker-v2-m3 dataset=squad ...
    python train.py reranker=viranker reranker.init=scratch experiment=demo_passages

`pairs.py` tokens, `network.py` the model, `rows.py` training rows, `losses.py`, `trainer.py` training, `scoring.py`,
`dev_metrics.py`. A recommendation request is read as a query of its history's items, newest first.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from data.dataset import Catalog, Dataset, Requests
from data.errors import UserError, in_range, one_of
from data.retrievers import Retriever
from data.splits import Phase, Split
from data.text_retrievers import BM25, TfIdf
from data.texts import check_item_text, item_texts, request_texts
from rerankers.base import Log, Reranker, Validate
from rerankers.cross_encoder.augment import Augment, with_snippets
from rerankers.cross_encoder.dev_metrics import dev_groups, dev_metrics
from rerankers.cross_encoder.losses import LOSSES, chance_loss
from rerankers.cross_encoder.network import PairEncoder, Scratch, convert, load
from rerankers.cross_encoder.pairs import Pair
from rerankers.cross_encoder.records import facts, inputs, reports
from rerankers.cross_encoder.rows import PairRows
from rerankers.cross_encoder.scoring import DTYPES, FlagScorer, free_memory, score_pairs, score_requests
from rerankers.cross_encoder.trainer import train_pairs
from rerankers.processes import n_processes
from rerankers.training import seed_everything

log_ = logging.getLogger(__name__)
RETRIEVERS: dict[str, type[Retriever] | None] = {"bm25": BM25, "tfidf": TfIdf, "first_stage": None}


@dataclass(kw_only=True)
class CrossEncoderReranker(Reranker):
    model: str = "namdp-ptit/ViRanker"
    init: str = "pretrained"
    item_text: str = "text_only"
    max_history: int = 20
    max_length: int = 512
    loss: str = "bce"
    pos_weight: float | None = None
    hard_negatives: int = 2
    random_negatives: int = 1
    hard_neg_top_k: int = 50
    hard_neg_margin: float | None = None
    hard_neg_retriever: str = "first_stage"
    dropout: float | None = 0.0
    mixed_precision: str = "auto"
    backend: str = "torch"
    dtype: str = "float32"
    batch_tokens: int | None = None
    augment: Augment = field(default_factory=Augment)
    scratch: Scratch = field(default_factory=Scratch)

    requires: ClassVar[tuple[str, ...]] = ("text",)
    pointwise: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    keeps_checkpoints: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("reranker.init", self.init, ("pretrained", "scratch"))
        check_item_text(self.item_text)
        one_of("reranker.loss", self.loss, LOSSES)
        one_of("reranker.hard_neg_retriever", self.hard_neg_retriever, tuple(RETRIEVERS))
        one_of("reranker.mixed_precision", self.mixed_precision, ("auto", "none"))
        one_of("reranker.backend", self.backend, ("torch", "flag"))
        one_of("reranker.dtype", self.dtype, tuple(DTYPES))
        for name, low, high in (
            ("max_history", 1, 10_000),
            ("max_length", 16, 1_000_000),
            ("pos_weight", 1e-3, 1e6),
            ("hard_negatives", 0, 1000),
            ("random_negatives", 0, 1000),
            ("hard_neg_top_k", 1, 10_000),
            ("hard_neg_margin", 0, 1),
            ("dropout", 0, 0.9),
            ("batch_tokens", 1, 2**30),
        ):
            in_range(f"reranker.{name}", getattr(self, name), low, high)
        if not self.n_negatives:
            raise UserError(
                "reranker.hard_negatives=0 and reranker.random_negatives=0 leave nothing to learn; give one of them"
            )
        if self.hard_negatives > self.hard_neg_top_k:
            raise UserError(
                f"reranker.hard_negatives={self.hard_negatives} exceeds reranker.hard_neg_top_k={self.hard_neg_top_k}"
            )
        if self.backend == "flag" and n_processes() > 1:
            raise UserError("reranker.backend=flag scores in one process; leave it out, or start without torchrun")
        if self.backend == "flag" and self.dtype != "float32":
            raise UserError("reranker.backend=flag scores in float32; leave out reranker.dtype")

    @property
    def mines_first_stage(self) -> bool:  # type: ignore[override]
        return self.hard_negatives > 0 and self.hard_neg_retriever == "first_stage"

    @property
    def n_negatives(self) -> int:
        return self.hard_negatives + self.random_negatives

    @property
    def positive_weight(self) -> float:
        """Of a relevant pair in the loss; by default relevant and other pairs weigh the same in sum."""
        return float(self.n_negatives if self.pos_weight is None else self.pos_weight)

    @property
    def rows_per_user(self) -> int:
        """Training rows of each relevant passage, or of each user."""
        return 1 + self.n_negatives if self.loss == "bce" else 1

    @property
    def untrained(self) -> bool:
        return self.trainer.num_train_epochs == 0

    @property
    def folders(self) -> list[Path]:
        return [Path(self.model)] if self.init == "pretrained" and Path(self.model).is_dir() else []

    def untuned(self) -> Reranker | None:
        if self.init == "scratch" or self.untrained:
            return None
        return replace(self, trainer=replace(self.trainer, num_train_epochs=0))

    def labels(self, requests: Requests) -> list[str]:
        if self.init == "scratch":
            return ["untrained" if self.untrained else "model from nothing, all weights trained"]
        if not self.untrained:
            return []
        head = hasattr(self, "network") and self.network.new_head
        return ["untuned, its head is random" if head else "untuned"]

    def build(self, dataset: Dataset, split: Split) -> None:
        seed_everything(self.seed)
        split = with_snippets(split, dataset.catalog, self.augment, self.seed)
        self.texts = item_texts(dataset.catalog, self.item_text)
        if split.train.queries is not None:
            self.texts += map(str, split.train.queries)
        self.open_network()
        if self.untrained:
            return
        self.rows = self.rows_of(dataset.catalog, split)
        log_.info("%s: %s groups of %d texts", self.name, f"{len(self.rows.owner):,}", self.rows.size)

    def rows_of(
        self, catalog: Catalog, split: Split, asked: Phase | None = None, hard: bool = True, last: bool = False
    ) -> PairRows:
        """Groups of the training part, or of `asked`, with their negatives."""
        kind = RETRIEVERS[self.hard_neg_retriever]
        negatives = split.negatives(
            catalog,
            self.hard_negatives / self.n_negatives if hard else 0.0,
            top_k=self.hard_neg_top_k,
            margin=self.hard_neg_margin,
            retriever=kind() if kind else None,
            asked=asked,
        )
        return PairRows(catalog, split.train if asked is None else asked, negatives, self, last)

    def open_network(self) -> None:
        """The model as it is before training; one that was open is let go of before."""
        self.__dict__.pop("flag", None)
        if self.__dict__.pop("network", None) is not None:
            free_memory()
        torch.manual_seed(self.seed)  # also of a head that a pretrained model does not have
        if self.init == "pretrained":
            self._use(load(self.model, self.max_length))
            return
        with tempfile.TemporaryDirectory() as folder:
            self.scratch.save(Path(folder), self.texts, self.max_length)
            self._use(load(folder, self.max_length))

    def _use(self, network: PairEncoder) -> None:
        self.network = network
        if self.dropout is not None:
            for module in network.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = self.dropout
        if self.loss != "bce":  # the library's sigmoid would make large scores equal
            network.activation_fn = torch.nn.Identity()
        network.pairs.keep(getattr(self, "texts", []))
        self.__dict__.pop("flag", None)

    def fit(self, dataset: Dataset, split: Split, validate: Validate | None, log: Log) -> None:
        self.build(dataset, split)
        if self.untrained:
            return
        groups = dev_groups(self, dataset, split) if validate else None  # a refit has seen validation
        self.weight_change, self.used = train_pairs(self, validate, log)
        self.network.eval()
        self.network.new_head = False
        if groups:
            self.dev_metrics = dev_metrics(self, *groups)

    def score(self, requests: Requests) -> np.ndarray:
        return score_requests(self, requests)

    def items(self, requests: Requests) -> np.ndarray:
        """[R, N] item rows, -1 padded."""
        if requests.candidates is not None:
            return requests.candidates
        return np.broadcast_to(np.arange(requests.width), (len(requests), requests.width))

    def score_pairs(self, pairs: list[Pair]) -> np.ndarray:
        """[P] float32 logits."""
        if self.backend == "flag":
            if "flag" not in self.__dict__:
                self.flag = FlagScorer(self.network)
            self.network.eval()
            return self.flag.score(pairs, self.trainer.per_device_eval_batch_size)
        return score_pairs(self.network, pairs, self.dtype, self.batch_tokens)

    def queries(self, requests: Requests) -> list[str]:
        return request_texts(requests.catalog, requests.histories, requests.queries, self.max_history, self.item_text)

    def save(self, folder: Path) -> None:
        config: Any = self.network.config
        config.untrained_head = self.network.new_head  # which a folder that has a head cannot tell
        self.network.save_pretrained(str(folder), create_model_card=False)

    def load(self, folder: Path, requests: Requests) -> None:
        self._use(load(str(folder), self.max_length))

    def serve(self) -> None:
        """Weights of half precision stay so: `scoring_in` then has nothing to change."""
        if self.network.new_head:
            raise UserError(f"{self.model} has no head, and a random one ranks nothing; name a model that was trained")
        convert(self.network, DTYPES[self.dtype])

    def chance_loss(self, requests: Requests | None) -> float | None:
        """Of the best constant score: listwise ln of the group's size, bce the entropy of the weighted labels."""
        return chance_loss(self.loss, 1 + self.n_negatives, self.positive_weight)

    def inputs(self, requests: Requests) -> list[str]:
        """The pairs of a request, a line each."""
        return inputs(self, requests)

    def facts(self, requests: Requests) -> dict[str, np.ndarray]:
        return facts(self, requests)

    def reports(self) -> dict[str, dict[str, Any]]:
        return reports(self)
