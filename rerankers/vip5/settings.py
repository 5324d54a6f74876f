"""The settings of a VIP5, and what follows from them before a model is there: templates, files, labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from data.dataset import Catalog, Requests
from data.errors import UserError
from data.image_features import RANDOM, find_encoder
from rerankers.base import Reranker
from rerankers.vip5.backbone import Scratch
from rerankers.vip5.checkpoint import Loaded
from rerankers.vip5.checks import check_settings
from rerankers.vip5.item_numbers import LEAKS
from rerankers.vip5.scoring import TEMPLATE_OF
from rerankers.vip5.templates import TEMPLATES, Template

CLIP = "openai/clip-vit-base-patch32"
NEGATIVE_LOSS = "negative_loss"
OTHER_NUMBERS = "item numbers are not those that the checkpoint was trained with"


@dataclass
class Tasks:
    """Rows of each user an epoch, as many as the reference draws; of explanations, of users who wrote a review.

    Targets are of any place in the sequence, after a random 1 to `max_history` items. (The reference's are among the
    last three of training, after nearly all that came before.)
    """

    sequential: int = 10
    direct: int = 10
    explanation: int = 4
    rerank: int = 0


@dataclass
class LossWeights:
    sequential: float = 1.0
    direct: float = 1.0
    explanation: float = 1.0
    rerank: float = 1.0


@dataclass(kw_only=True)
class Vip5Settings(Reranker):
    """The keys of conf/reranker/vip5.yaml, and what follows from them alone."""

    model: str = "google-t5/t5-small"
    checkpoint: str | None = None
    init: str = "pretrained"
    tuning: str = "adapters"
    reduction_factor: int = 8
    adapters_in_cross_attention: bool = True
    train_layer_norms: bool = True
    train_whole_words: bool = False
    train_categories: bool = False
    image_encoder: str | None = None
    visual_tokens: int = 2
    visual_norm: bool = True
    pictures: str = "own"
    id_scheme: str = "random"
    tasks: Tasks = field(default_factory=Tasks)
    templates: list[str] | None = None
    training_candidates: int = 50
    loss_weights: LossWeights = field(default_factory=LossWeights)
    loss_norm: str = "token_mean"
    validation: str = "ranking"
    validation_start_epoch: int = 4
    scorer: str = "likelihood"
    template: str | None = None
    permutations: int = 1
    beams: int = 20
    max_history: int = 20
    max_title_length: int = 32
    max_length: int = 1024
    max_answer_length: int = 64
    explanations: int = 200
    scratch: Scratch = field(default_factory=Scratch)

    requires: ClassVar[tuple[str, ...]] = ("interactions", "images")
    trains: ClassVar[bool] = True
    chance_curve: ClassVar[str] = "train_sequential_loss"
    loaded: ClassVar[Loaded | None] = None  # what the checkpoint gave

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.visual_tokens:
            self.requires = ("interactions",)  # type: ignore[misc]
        if self.validation == "loss":
            self.trainer = replace(self.trainer, metric_for_best_model=NEGATIVE_LOSS)

    @property
    def scored_by(self) -> Template:
        return TEMPLATES[self.template or TEMPLATE_OF[self.scorer]]

    @property
    def order_sensitive(self) -> bool:  # type: ignore[override]
        return self.scorer == "list"

    @property
    def trained_templates(self) -> list[Template]:
        """Those that are asked for; the dataset may lack what some of them need."""
        return [t for t in TEMPLATES.values() if (t.trained if self.templates is None else t.name in self.templates)]

    @property
    def encoder(self) -> str:
        return self.image_encoder or (CLIP if self.init == "pretrained" else RANDOM)

    def encoder_of(self, catalog: Catalog) -> str:
        """Of the catalogue's features, whoever made them; "" where that is not known."""
        return self.encoder if catalog.image_features is None else catalog.image_encoder

    @property
    def folders(self) -> list[Path]:
        given = [self.model if self.init == "pretrained" else None, self.checkpoint, self.image_encoder]
        return [Path(name) for name in given if name and Path(name).exists()]

    @property
    def untrained(self) -> bool:
        return self.trainer.num_train_epochs == 0

    def check(self, requests: Requests) -> None:
        if self.scorer in ("list", "yes_no") and requests.candidates is None:
            raise UserError(
                f"reranker.scorer={self.scorer} names candidates in its prompts; use another than candidates=full"
            )

    def labels(self, requests: Requests) -> list[str]:
        how = ["model from nothing, all weights trained"] if self.init == "scratch" else []
        if self.untrained:
            how = ["untrained"] if self.checkpoint is None else ["as loaded, not trained here", OTHER_NUMBERS]
            if self.loaded and self.loaded.missing:
                how.append(f"untrained: {len(self.loaded.missing)} weights that the checkpoint lacks")
        if not self.visual_tokens:
            how.append("no pictures")
        elif self.encoder_of(requests.catalog) == RANDOM:
            how.append(find_encoder(RANDOM).label)
        if self.pictures == "shuffled":
            how.append("ablation: each item has another's picture")
        if self.id_scheme in LEAKS:
            how.append(LEAKS[self.id_scheme])
        if self.scorer != "likelihood":
            how.append(f"scorer={self.scorer}")
        return [*how, *([f"mean of {self.permutations} permutations"] if self.permutations > 1 else [])]
