"""T5 that reads pictures: k visual tokens after each item, whole-word and category embeddings, serial adapters.

    embeddings of the prompt, those of placeholders replaced by visual tokens
    + whole-word embedding (pieces of one word share it) + category embedding (text or picture) -> T5's own encoder

Names, sizes and places are VIP5's (arXiv 2305.14302); T5 is transformers' own and stays loadable by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import T5ForConditionalGeneration
from transformers.activations import NewGELUActivation
from transformers.models.t5.modeling_t5 import T5LayerNorm

TEXT, PICTURE = 0, 1
CATEGORIES = 16  # rows of the table, two of which are used


class Adapter(nn.Module):
    """Down, GELU, up, and the input again (arXiv 1902.00751). It begins as the identity."""

    def __init__(self, width: int, reduction_factor: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, width // reduction_factor), nn.Linear(width // reduction_factor, width)
        self.act = NewGELUActivation()
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.up(self.act(self.down(hidden)))


class VisualProjector(nn.Module):
    """Picture features [n, F] -> visual tokens [n, k, d]; the norm is over all k * d values of an item."""

    def __init__(self, features: int, width: int, tokens: int, epsilon: float) -> None:
        super().__init__()
        self.tokens = tokens
        self.hidden, self.out = (
            nn.Linear(features, width * tokens // 2),
            nn.Linear(width * tokens // 2, width * tokens),
        )
        self.norm = T5LayerNorm(width * tokens, eps=epsilon)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.norm(self.out(torch.tanh(self.hidden(features)))).unflatten(-1, (self.tokens, -1))


class Vip5Network(nn.Module):
    """`forward` gives the losses of answers, `encode` the states of prompts, `decode` those of tokens after them.

    A batch of prompts: input_ids, whole_words [B, L] int64, attention_mask [B, L], pictures [M] int64, the item of
    each group of k placeholders, row after row.
    """

    _keys_to_ignore_on_save = None  # asked for by the Trainer when it loads a checkpoint
    features: torch.Tensor
    missing: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self,
        t5: T5ForConditionalGeneration,
        placeholder: int,
        visual_tokens: int,
        features: torch.Tensor,  # [I, F] float32, a row of NaN where an item has no picture
        words: int = 1024,  # rows of the whole-word table
        visual_norm: bool = True,
        table_scale: float = 1.0,  # standard deviation of whole words and categories at the start
        standardized: bool = False,  # features, by their mean and standard deviation over this catalogue
    ) -> None:
        super().__init__()
        width, epsilon = t5.config.d_model, t5.config.layer_norm_epsilon
        self.t5, self.placeholder, self.visual_tokens = t5, placeholder, visual_tokens
        self.whole_words, self.categories = nn.Embedding(words, width), nn.Embedding(CATEGORIES, width)
        for table in (self.whole_words, self.categories):
            nn.init.normal_(table.weight, std=table_scale)
        if visual_tokens:
            self.projector = VisualProjector(features.shape[1], width, visual_tokens, epsilon)
            if not visual_norm:
                self.projector.norm = nn.Identity()  # type: ignore[assignment]
            if features.isnan().any():  # in place of the features of an item without a picture
                self.no_picture = nn.Parameter(torch.zeros(features.shape[1]))
            if standardized:  # a small model learns late from tokens that are all alike, which biases make them
                for layer in (self.projector.hidden, self.projector.out):
                    nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                    nn.init.zeros_(layer.bias)
        known = features[~features.isnan().any(dim=1)]
        of_catalogue = standardized and len(known) > 1
        self.register_buffer("mean", known.mean(dim=0) if of_catalogue else torch.zeros(features.shape[1]))
        self.register_buffer("deviation", known.std(dim=0) + 1e-6 if of_catalogue else torch.ones(features.shape[1]))
        self.read(features)

    def read(self, features: torch.Tensor) -> None:
        """The features of a catalogue, in the place of the last one's."""
        place = self.whole_words.weight.device
        missing = features.isnan().any(dim=1)
        self.register_buffer("missing", missing.to(place), persistent=False)
        self.register_buffer("features", features.nan_to_num(nan=0.0).to(place), persistent=False)

    def visual(self, items: torch.Tensor) -> torch.Tensor:
        """Visual tokens [n, k, d] of catalogue rows [n]; an item that is named twice is projected once."""
        rows, place = items.unique(return_inverse=True)
        features = (self.features[rows] - self.mean) / self.deviation
        if hasattr(self, "no_picture"):
            features = torch.where(self.missing[rows, None], self.no_picture, features)
        return self.projector(features)[place]

    def embed(self, input_ids: torch.Tensor, whole_words: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
        embedded = self.t5.shared(input_ids)
        visible = input_ids == self.placeholder
        if len(pictures):
            visual = self.visual(pictures).to(embedded.dtype)
            embedded = embedded.masked_scatter(visible[..., None], visual)
        return embedded + self.whole_words(whole_words) + self.categories(visible.long())

    def encode(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[B, L, d]"""
        embedded = self.embed(batch["input_ids"], batch["whole_words"], batch["pictures"])
        return self.t5.encoder(inputs_embeds=embedded, attention_mask=batch["attention_mask"]).last_hidden_state

    def decode(
        self, tokens: torch.Tensor, encoded: torch.Tensor, encoded_mask: torch.Tensor, mask: Any = None
    ) -> torch.Tensor:
        """States [B, T, d] of decoder tokens [B, T], scaled as T5's head wants them; `mask` of the decoder's own
        attention, None: causal."""
        states = self.t5.decoder(
            input_ids=tokens,
            attention_mask=mask,
            encoder_hidden_states=encoded,
            encoder_attention_mask=encoded_mask,
            use_cache=False,
        ).last_hidden_state
        return states * self.t5.model_dim**-0.5 if self.t5.config.scale_decoder_outputs else states

    def forward(
        self,
        input_ids: torch.Tensor,
        whole_words: torch.Tensor,
        attention_mask: torch.Tensor,
        pictures: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Negative log-likelihood of each label [B, T], 0 where there is none (-100); only these meet the head."""
        batch = {"input_ids": input_ids, "whole_words": whole_words, "pictures": pictures}
        encoded = self.encode(batch | {"attention_mask": attention_mask})
        asked = labels != -100
        states = self.decode(self.t5._shift_right(labels), encoded, attention_mask)[asked]
        losses = nn.functional.cross_entropy(self.t5.lm_head(states).float(), labels[asked], reduction="none")
        return torch.zeros(labels.shape, device=losses.device).masked_scatter(asked, losses)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What the backbone's own files do not hold: all that is trained, and all that is not T5's. Tied once."""
        own = {name for name, p in self.named_parameters() if p.requires_grad or not name.startswith("t5.")}
        own |= {"mean", "deviation"}
        return {name: w for name, w in super().state_dict(*args, **kwargs).items() if name in own}

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        self.t5.gradient_checkpointing_enable(**kwargs)


class Adapted(nn.Module):
    """A module of T5 with an adapter after it."""

    def __init__(self, module: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.module, self.adapter = module, adapter

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.adapter(self.module(hidden))


def add_adapters(t5: T5ForConditionalGeneration, reduction_factor: int, cross_attention: bool = True) -> None:
    """After each attention and feed-forward, before the residual; `cross_attention`: also after the decoder's look
    at the prompt."""

    def adapted(module: nn.Module) -> Adapted:
        return Adapted(module, Adapter(t5.config.d_model, reduction_factor))

    for block in [*t5.encoder.block, *t5.decoder.block]:
        first, last = block.layer[0], block.layer[-1]
        first.SelfAttention.o = adapted(first.SelfAttention.o)
        last.DenseReluDense = adapted(last.DenseReluDense)
        if len(block.layer) == 3 and cross_attention:
            block.layer[1].EncDecAttention.o = adapted(block.layer[1].EncDecAttention.o)


def freeze_backbone(network: Vip5Network, layer_norms: bool, whole_words: bool, categories: bool) -> None:
    """Leaves adapters and projector to be trained, and by choice T5's norms and the two tables."""
    for name, p in network.named_parameters():
        p.requires_grad = not name.startswith("t5.") or ".adapter." in name
    for module in network.t5.modules():
        if isinstance(module, T5LayerNorm):
            module.requires_grad_(layer_norms)
    network.whole_words.requires_grad_(whole_words)
    network.categories.requires_grad_(categories)
