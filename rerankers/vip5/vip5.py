"""VIP5: T5 with visual tokens of CLIP, trained on many prompts at once, ranks by the likelihood of an item's number.

    python train.py reranker=vip5 reranker.model=google-t5/t5-small dataset=ml_100k dataset.images=/my/posters

After Geng et al. (arXiv 2305.14302), built anew: `templates.py` what is asked, `prompts.py` its tokens, `network.py`
T5 and what is added to it, `rows.py` the training mixture, `scoring.py` the scorers, `item_numbers.py` the ids.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from data.candidates import subset
from data.dataset import Catalog, Dataset, Requests
from data.errors import UserError
from data.files import read_json, write_json
from data.image_features import image_features
from data.progress import bar
from data.splits import Split
from data.texts import item_texts
from rerankers.base import Log, Validate
from rerankers.training import device, seed_everything, training_facts
from rerankers.vip5.backbone import fingerprint, load_t5
from rerankers.vip5.checkpoint import load_checkpoint
from rerankers.vip5.explanations import held_out_reviews, training_reviews
from rerankers.vip5.id_trie import IdTrie
from rerankers.vip5.item_numbers import LEAKS, number
from rerankers.vip5.network import Vip5Network, add_adapters, freeze_backbone
from rerankers.vip5.prompts import PLACEHOLDER, WHOLE_WORDS, Prompts
from rerankers.vip5.rows import Vip5Rows
from rerankers.vip5.scoring import Scoring, loss
from rerankers.vip5.settings import NEGATIVE_LOSS, Vip5Settings
from rerankers.vip5.templates import TEMPLATES
from rerankers.vip5.trainer import train_vip5
from rerankers.vip5.writing import explained
from rerankers.weights import read_weights

log_ = logging.getLogger(__name__)
REQUESTS = 256  # scored at a time
PICTURES = 64  # encoded at a time
VALIDATED = 2000  # requests of validation=loss, at most
SCRATCH_TABLES = 0.1  # beside embeddings of scale 1
WORST = float(np.finfo(np.float32).min)  # score of padding


class Vip5(Vip5Settings):
    def build(self, dataset: Dataset, split: Split) -> None:
        seed_everything(self.seed)
        numbers = number(self.id_scheme, dataset, split, self.seed)
        self.item_number = dict(zip(dataset.catalog.id, numbers.item.tolist(), strict=True))
        self.user_number = dict(zip(dataset.user_id, numbers.user.tolist(), strict=True))
        self.reviews = training_reviews(dataset, split.train)
        if self.init == "scratch":
            numbered = [str(n) for n in sorted(self.item_number.values())] if self.scratch.whole_numbers else []
            always = [*(t.text for t in TEMPLATES.values()), "yes no , -> user_ shopper_ item_ 0123456789", *numbered]
            self.tokenizer = self.scratch.tokenizer(always, [*item_texts(dataset.catalog), *self.reviews.sentence])
        self._assemble(dataset.catalog)
        self.rows = Vip5Rows(dataset, split, self.reviews, self)

    def _assemble(self, catalog: Catalog) -> None:
        """The network as training begins with it, and what belongs to the catalogue."""
        if self.init == "scratch":
            t5 = self.scratch.model(self.tokenizer)
        else:
            self.tokenizer, t5 = load_t5(self.model)
        adapted = self.init == "pretrained" and self.tuning == "adapters"
        if adapted:
            add_adapters(t5, self.reduction_factor, self.adapters_in_cross_attention)
        placeholder = int(self.tokenizer.convert_tokens_to_ids(PLACEHOLDER))
        features = self._features(catalog)
        new = self.init == "scratch"
        scale = SCRATCH_TABLES if new else 1.0
        self.network = Vip5Network(
            t5, placeholder, self.visual_tokens, features, WHOLE_WORDS, self.visual_norm, scale, standardized=new
        )
        if self.checkpoint:
            self.loaded = load_checkpoint(self.network, Path(self.checkpoint))  # type: ignore[misc]
            log_.info(self.loaded.summary)
        self.base_sha256 = fingerprint(t5)
        if adapted:
            freeze_backbone(self.network, self.train_layer_norms, self.train_whole_words, self.train_categories)
        self.network.to(device())
        self._read(catalog)

    def _features(self, catalog: Catalog) -> torch.Tensor:
        """[I, F] float32, NaN where an item has no picture."""
        if not self.visual_tokens:
            return torch.zeros(len(catalog), 1)
        features = catalog.image_features
        if features is None:
            try:
                features = image_features(catalog, self.encoder, PICTURES, self.cache)
            except UserError as error:  # which knows the key of `experiments.enrich`
                raise UserError(str(error).replace("model=", "reranker.image_encoder=", 1)) from None
        if self.pictures == "shuffled":
            features = features[np.random.default_rng(self.seed).permutation(len(features))]
        return torch.from_numpy(features)

    def _read(self, catalog: Catalog) -> None:
        """Numbers and prompts of the catalogue's items; those that training did not know get the next numbers."""
        self.catalog = catalog
        new = max(self.item_number.values()) + 1
        for item in catalog.id:
            if item not in self.item_number:
                self.item_number[item], new = new, new + 1
        numbers = np.array([self.item_number[item] for item in catalog.id])
        self.prompts = Prompts(
            self.tokenizer, numbers, item_texts(catalog), self.visual_tokens, self.max_length, self.max_title_length
        )
        self.trie = IdTrie.of(self.prompts.answers, self.network.t5.config.decoder_start_token_id, self.prompts.end)
        if self.id_scheme in LEAKS:
            log_.warning("%s", LEAKS[self.id_scheme])

    def words_of(self, user: Any) -> dict[str, str]:
        """How prompts call a user, by the source's own id; 0 is one of another dataset."""
        n = self.user_number.get(user, 0)
        return {"user": f"user_{n}", "name": f"shopper_{n}"}

    def fit(self, dataset: Dataset, split: Split, validate: Validate | None, log: Log) -> None:
        self.build(dataset, split)
        if self.untrained:
            return
        if validate is not None and self.validation == "loss":
            validate = self._validation_loss(dataset, split)
        self.weight_change = train_vip5(self, validate, log)
        self.network.eval()
        if self.explanations and len(self.reviews) and self.tasks.explanation and self.redraws:
            held_out = held_out_reviews(dataset, split.train, self.reviews)
            self.explained = explained(
                self.network,
                self.prompts,
                held_out,
                self.reviews,
                lambda user: self.words_of(dataset.user_id[user]),
                limit=self.explanations,
                max_new_tokens=self.max_answer_length,
                batch_size=self.trainer.per_device_eval_batch_size,
            )
            for name, told in self.explained.items():
                if "bleu_4" in told:
                    log_.info("explanations, %s: BLEU-4 %.2f, ROUGE-L %.2f", name, told["bleu_4"], told["rouge_l"])

    def _validation_loss(self, dataset: Dataset, split: Split) -> Callable[[Any], dict[str, float]]:
        """In the place of the ranking: teacher-forced likelihood of the first relevant item of validation requests,
        the same at most `VALIDATED` of any model."""
        asked = subset(split.validation, VALIDATED, seed=0)
        targets = asked.relevant.values[asked.relevant.offsets[:-1]][:, None]
        names = dataset.user_id[asked.ids]
        requests = Requests(dataset.catalog, asked.ids, asked.histories, names=names, candidates=targets)
        return lambda score: {NEGATIVE_LOSS: -torch.inference_mode()(loss)(self, requests)}

    @torch.inference_mode()
    def score(self, requests: Requests) -> np.ndarray:
        self.check(requests)
        if requests.catalog is not self.catalog:
            self.network.read(self._features(requests.catalog))
            self._read(requests.catalog)
        self.network.eval()
        scores = np.zeros((len(requests), requests.width), dtype=np.float32)
        for start in bar(range(0, len(requests), REQUESTS), "scoring"):
            rows = slice(start, start + REQUESTS)
            for turn in range(self.permutations):
                scoring = Scoring(self, requests.take(rows), self.scorer, self.scored_by, turn)
                scores[rows] += scoring.scores() / self.permutations
        if requests.candidates is not None:
            scores[requests.candidates < 0] = WORST
        return scores

    def save(self, folder: Path) -> None:
        """All weights but a frozen backbone's, whose fingerprint is kept; the numbers of items and users."""
        weights = {name: w.contiguous().cpu() for name, w in self.network.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        write_json(folder / "numbers.json", {"items": self.item_number, "users": self.user_number})
        if self.init == "scratch":
            self.tokenizer.save_pretrained(folder)
        else:
            write_json(folder / "base.json", {"model": self.model, "sha256": self.base_sha256})

    def load(self, folder: Path, requests: Requests) -> None:
        numbers = read_json(folder / "numbers.json")
        self.item_number, self.user_number = numbers["items"], numbers["users"]
        if self.init == "scratch":
            self.tokenizer = self.scratch.load_tokenizer(folder)
        weights = read_weights(folder, load_file)
        self._assemble(requests.catalog)
        if self.init == "pretrained" and self.base_sha256 != read_json(folder / "base.json")["sha256"]:
            raise UserError(f"reranker.model={self.model} is not the model that {folder} was trained on")
        here = self.network.state_dict()
        for name in sorted((weights.keys() | here.keys()) - {"no_picture"}):
            shapes = [tuple(state[name].shape) if name in state else None for state in (weights, here)]
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"{folder} was trained with other settings of the model or another image encoder: its {name} has "
                    f"the shape {shapes[0]}, here it would be {shapes[1]}"
                )
        if "no_picture" in weights:  # though all items here have one
            self.network.no_picture = torch.nn.Parameter(weights["no_picture"].to(device()))
        self.network.load_state_dict(weights, strict=False)
        self.network.eval()

    def reports(self) -> dict[str, dict]:
        explained = {"explanations.json": self.explained} if hasattr(self, "explained") else {}
        return explained | ({"checkpoint.json": asdict(self.loaded)} if self.loaded else {})

    def chance_loss(self, requests: Requests | None) -> float | None:
        """Of the sequential family, nats a token: a number that is any of the items', and yes or no."""
        asked = [t.answer for t in self.trained_templates if t.family == "sequential"]
        if not asked or not self.tasks.sequential:
            return None
        tokens = self.prompts.answers.lengths + 1
        of = {"item": float(np.mean(math.log(len(tokens)) / tokens)), "yes_no": math.log(2) / 2}
        return float(np.mean([of[answer] for answer in asked]))

    def inputs(self, requests: Requests) -> list[str]:
        prompts = Scoring(self, requests, self.scorer, self.scored_by).prompts()
        return [self.tokenizer.decode(prompt.ids) for prompt in prompts]

    def facts(self, requests: Requests) -> dict[str, np.ndarray]:
        prompts = Scoring(self, requests, self.scorer, self.scored_by).prompts()
        return training_facts(self, self.network) | {
            "prompt_lengths": np.array([len(prompt.ids) for prompt in prompts]),
            "shortened": np.array([prompt.shortened for prompt in prompts]),
        }
