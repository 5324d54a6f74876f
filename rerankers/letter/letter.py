"""The letter reranker: a causal language model reads history and lettered candidates; letters' logits are the scores.

    python train.py reranker=qwen_letter reranker.model=Qwen/Qwen3-0.6B dataset=ml_100k candidates.size=20

The verbalizer is LlamaRec's (arXiv 2311.02089), training trl's SFTTrainer with peft's LoRA; see `prompt.py` for what
the model reads, `labels.py` for the letters' tokens, `answer.py` for the head, `rows.py` for the training rows,
`asking.py` for scoring.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from data.dataset import Catalog, Dataset, Requests, sha256
from data.errors import UserError, in_range, one_of
from data.files import read_json, write_json
from data.progress import bar
from data.splits import Split
from data.texts import check_item_text, item_texts
from rerankers.base import Log, Reranker, Validate
from rerankers.letter.answer import add_answer_head, verify_answer_head
from rerankers.letter.asking import Asking
from rerankers.letter.labels import label_ids, letters
from rerankers.letter.language_model import Lora, Scratch, fingerprint, load_adapter, load_model, load_tokenizer
from rerankers.letter.prompt import Prompts, instructions
from rerankers.letter.rows import LetterRows
from rerankers.letter.trainer import train_letters
from rerankers.training import device, seed_everything, training_facts

log_ = logging.getLogger(__name__)
SHARE = {"random": 0.0, "mixed": 0.5, "first_stage": 1.0}  # of hard negatives
REQUESTS = 256  # rendered at a time
WORST = float(np.finfo(np.float32).min)  # score of padding


@dataclass(kw_only=True)
class LetterReranker(Reranker):
    model: str = "Qwen/Qwen3-0.6B"
    init: str = "pretrained"
    item_text: str = "text_only"
    max_history: int = 20
    max_item_length: int = 32
    max_length: int = 2048
    order: str = "letters"
    loss: str = "letters"
    training_candidates: int = 50
    negatives: str = "mixed"
    rows_per_user: int = 1
    permutations: int = 1
    calibration: str = "none"
    load_in_4bit: bool = False
    lora: Lora = field(default_factory=Lora)
    scratch: Scratch = field(default_factory=Scratch)

    requires: ClassVar[tuple[str, ...]] = ("text",)
    trains: ClassVar[bool] = True
    chance_curve: ClassVar[str] = "train_letter_loss"

    def __post_init__(self) -> None:
        one_of("reranker.init", self.init, ("pretrained", "scratch"))
        check_item_text(self.item_text)
        one_of("reranker.order", self.order, ("letters", "invariant"))
        one_of("reranker.loss", self.loss, ("letters", "vocabulary"))
        one_of("reranker.negatives", self.negatives, tuple(SHARE))
        one_of("reranker.calibration", self.calibration, ("none", "content_free"))
        for name, low, high in (
            ("max_history", 1, 10_000),
            ("max_item_length", 1, 10_000),
            ("max_length", 64, 1_000_000),
            ("training_candidates", 2, 10_000),
            ("rows_per_user", 1, 1000),
            ("permutations", 1, 1000),
        ):
            in_range(f"reranker.{name}", getattr(self, name), low, high)
        if not self.invariant:
            letters(self.training_candidates)
        elif self.loss == "vocabulary" or self.calibration != "none" or self.permutations > 1:
            raise UserError(
                "reranker.order=invariant has no letters: it needs reranker.loss=letters (a softmax over the "
                "candidates), reranker.calibration=none and reranker.permutations=1"
            )

    @property
    def folders(self) -> list[Path]:
        return [Path(self.model)] if self.init == "pretrained" and Path(self.model).is_dir() else []

    @property
    def mines_first_stage(self) -> bool:  # type: ignore[override]
        return self.negatives != "random"

    @property
    def invariant(self) -> bool:
        return self.order == "invariant"

    @property
    def order_sensitive(self) -> bool:  # type: ignore[override]
        return not self.invariant

    @property
    def line_loss(self) -> float:
        """Weight of the loss at each candidate's line; see `trainer.py`."""
        lines = self.init == "scratch" and self.loss == "letters" and not self.invariant
        return self.scratch.line_loss if lines else 0.0

    def copying_share(self, epoch: int) -> float:
        """Of the rows of an epoch: those that ask for an item of the history; see `trainer.py`."""
        lessons = self.scratch.copying_epochs if self.init == "scratch" and self.redraws else 0
        return 1.0 if epoch < lessons else self.scratch.copying_share if lessons else 0.0

    @property
    def untrained(self) -> bool:
        return self.trainer.num_train_epochs == 0

    def check(self, requests: Requests) -> None:
        if not self.invariant:
            letters(requests.width)

    def labels(self, requests: Requests) -> list[str]:
        how = {"scratch": ["model from nothing, all weights trained"], "pretrained": []}[self.init]
        if self.untrained:
            how = ["untrained" if self.init == "scratch" else "zero-shot"]
        many = [f"mean of {self.permutations} permutations"] if self.permutations > 1 else []
        return [*how, *many, *(["content-free calibration"] if self.calibration != "none" else [])]

    def build(self, dataset: Dataset, split: Split) -> None:
        seed_everything(self.seed)
        if self.init == "scratch":
            texts = item_texts(dataset.catalog, self.item_text)
            asked = [] if split.train.queries is None else list(split.train.queries)
            self.tokenizer = self.scratch.tokenizer([*texts, *asked], instructions())
            self.network = self.scratch.model(len(self.tokenizer), self.max_length)
            add_answer_head(self.network)
        else:
            self._load_base()
            if not self.untrained:
                self.network = self.lora.wrap(self.network)
        self._open(dataset.catalog)
        negatives = split.negatives(dataset.catalog, SHARE[self.negatives])
        self.rows = LetterRows(split.train, negatives, self)
        longest = np.argsort(-split.train.histories.lengths[self.rows.users], kind="stable")  # the fewest negatives
        cut = [prompt.shortened for prompt in self.rows.prompts(self.rows.draw(longest[:256].tolist()))]
        if any(cut):
            log_.info(
                "%.0f %% of the longest prompts are shortened: reranker.max_item_length=%d, reranker.max_length=%d",
                100 * np.mean(cut), self.max_item_length, self.max_length,
            )  # fmt: skip

    def _load_base(self) -> None:
        self.tokenizer = load_tokenizer(self.model)
        self.network = load_model(self.model, self.load_in_4bit).requires_grad_(False)
        self.base_sha256 = fingerprint(self.network)
        add_answer_head(self.network)

    def _open(self, catalog: Catalog) -> None:
        """Prompts and labels for a catalogue; the labels' tokens are checked before anything is trained."""
        self.catalog = catalog
        self.prompts = Prompts(
            self.tokenizer,
            item_texts(catalog, self.item_text),
            self.max_length,
            self.max_item_length,
            self.invariant,
        )
        if self.invariant and self.network.config._attn_implementation != "sdpa":  # others read the mask otherwise
            raise UserError("reranker.order=invariant needs sdpa attention; choose another reranker.model")
        self._ids: dict[int, np.ndarray] = {}
        tokens = self.answer_tokens(self.training_candidates)
        some = self.prompts.render(np.zeros(1, dtype=np.int64), np.zeros(2, dtype=np.int64))
        self.network.eval()
        verify_answer_head(self.network, torch.from_numpy(some.ids).to(device()), tokens)

    def _read(self, catalog: Catalog) -> None:
        """Another catalogue than the last: its texts take the place of the old ones."""
        if catalog is not self.catalog:
            self.catalog = catalog
            self.prompts.read(item_texts(catalog, self.item_text))

    def answer_ids(self, n: int) -> np.ndarray:
        """Token ids of the answers to a prompt with n candidates: [n] of letters, or [2] of Yes and No."""
        if n not in self._ids:
            answers = ["Yes", "No"] if self.invariant else letters(n)
            prompt = self.prompts.frame("history", self.prompts.instruction(n))
            self._ids[n] = label_ids(self.tokenizer, prompt, answers)
        return self._ids[n]

    def answer_tokens(self, n: int) -> torch.Tensor:
        return torch.from_numpy(self.answer_ids(n)).to(device())

    def fit(self, dataset: Dataset, split: Split, validate: Validate | None, log: Log) -> None:
        self.build(dataset, split)
        if not self.untrained:
            self.weight_change = train_letters(self, validate, log)
            self.network.eval()

    @torch.inference_mode()
    def score(self, requests: Requests) -> np.ndarray:
        """Logits, or mean log-probabilities over the permutations."""
        self.check(requests)
        self._read(requests.catalog)
        self.network.eval()
        asking = Asking(self)
        scores = np.zeros((len(requests), requests.width), dtype=np.float32)
        for start in bar(range(0, len(requests), REQUESTS), "asking the model"):
            rows = slice(start, start + REQUESTS)
            part = requests.take(rows)
            for turn in range(self.permutations):
                scores[rows] += asking.scores(part, turn) / self.permutations
        if requests.candidates is not None:
            scores[requests.candidates < 0] = WORST
        return scores

    def save(self, folder: Path) -> None:
        """Adapters alone, with the fingerprint of the base they belong to; a model from nothing, whole."""
        if self.init == "scratch":
            self.network.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            return
        if not self.untrained:
            self.network.save_pretrained(folder)
        write_json(folder / "base.json", {"model": self.model, "sha256": self.base_sha256})

    def load(self, folder: Path, requests: Requests) -> None:
        if self.init == "scratch":
            self.tokenizer = load_tokenizer(str(folder))
            self.network = load_model(str(folder), dtype=torch.float32)  # as it was trained
            add_answer_head(self.network)
        else:
            self._load_base()
            base = folder / "base.json"  # zero-shot there may be none: the folder is the model itself
            if (base.exists() or not self.untrained) and self.base_sha256 != read_json(base)["sha256"]:
                raise UserError(f"reranker.model={self.model} is not the model that {folder} was trained on")
            if not self.untrained:
                self.network = load_adapter(self.network, str(folder))
        self._open(requests.catalog)

    def chance_loss(self, requests: Requests) -> float | None:
        """ln of the number of candidates."""
        return math.log(self.training_candidates)

    def inputs(self, requests: Requests) -> list[str]:
        return [self.tokenizer.decode(prompt.ids) for prompt in Asking(self).prompts(requests)]

    def facts(self, requests: Requests) -> dict[str, np.ndarray]:
        prompts = Asking(self).prompts(requests)
        labels = {} if self.invariant else {"label_ids": self.answer_ids(requests.width)}
        return training_facts(self, self.network) | {
            **labels,
            "prompt_lengths": np.array([len(prompt.ids) for prompt in prompts]),
            "shortened": np.array([prompt.shortened for prompt in prompts]),
            **(self._of_training_rows() if hasattr(self, "rows") else {}),
        }

    def _of_training_rows(self) -> dict[str, np.ndarray]:
        """Where the targets stand, and hashes of prompts as the training batch holds them and as scoring has them."""
        columns = self.rows.draw(list(range(min(512, len(self.rows))))).target
        rows = list(range(min(8, len(self.rows))))
        batch = self.rows([{"row": row} for row in rows])
        drawn = self.rows.draw(rows)
        asked = Requests(
            self.catalog, np.arange(len(rows)), drawn.histories, queries=drawn.queries, candidates=drawn.candidates
        )
        last = batch["positions"][:, -1 if self.invariant else 0] + 1
        trained = [ids[:end].numpy() for ids, end in zip(batch["input_ids"], last, strict=True)]
        scored = [prompt.ids for prompt in Asking(self).prompts(asked)]
        digest = [[int(sha256(ids)[:15], 16) for ids in prompts] for prompts in (trained, scored)]
        prompts = {"trained_prompt": np.array(digest[0]), "scored_prompt": np.array(digest[1])}
        widths = np.full(len(columns), self.training_candidates)
        return {"target_columns": columns, "target_widths": widths, **prompts}
