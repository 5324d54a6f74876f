"""Image features of items: the vector that a CLIP's vision tower and projection give of each picture.

    image_features(catalog, "openai/clip-vit-base-patch32", batch_size=32, cache=Path("cache"))    # [I, 512]
    image_features(catalog, "random", batch_size=32, cache=Path("cache"), seed=0)                  # [I, 128]

The vectors are those before CLIP divides them by their length, as VIP5 has them, in float32 on any device; another
batch size changes their last digits. They are cached by the content of picture and model, in
<cache>/enriched/image_features-<hash of the model>.npz, which is written anew after each CHUNK pictures: a kill loses
at most these. A picture that cannot be read is remembered as well.
"""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from filelock import FileLock
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from data.dataset import Catalog, sha256
from data.errors import UserError, in_range
from data.files import write_arrays
from data.item_content import Content
from data.pictures import Unavailable
from data.progress import bar
from data.text_generation import Checkpoint, find_model, loading

log = logging.getLogger(__name__)

RANDOM = "random"
# 0.3 M weights; pictures of 32 x 32 pixels, as the demo's are
SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SMALL |= {"image_size": 32, "patch_size": 8, "projection_dim": 128}
SAFE = {"openai/clip-vit-base-patch32": "refs/pr/15"}  # its main branch has no safetensors
CHUNK = 512  # pictures between two writes of the cache
SIDE = 10_000  # pixels: larger than any picture, as CLIP's processor does the shrinking
VERSION = 1  # raised when the same picture and model would give other features


@dataclass(frozen=True)
class Encoder:
    """A CLIP before its weights are read or, without a checkpoint, drawn."""

    checkpoint: Checkpoint | None
    config: CLIPVisionConfig
    seed: int = 0
    kind: ClassVar[str] = "CLIP"

    @property
    def name(self) -> str:
        return self.checkpoint.name if self.checkpoint else RANDOM

    @property
    def width(self) -> int:
        """F, features a picture."""
        return self.config.projection_dim

    @property
    def label(self) -> str:
        """What must stand beside every number that the features had a part in."""
        return f"CLIP {self.name}" if self.checkpoint else "random-weight CLIP"

    @property
    def settings(self) -> dict[str, Any]:
        """All that the features depend on but for the pictures."""
        drawn = {**SMALL, "seed": self.seed, "torch": torch.__version__, "transformers": transformers.__version__}
        model = self.checkpoint.identity if self.checkpoint else drawn
        return {"version": VERSION, "field": "image_features", "model": model}

    def load(self) -> tuple[Any, Any]:
        """The model and the processor of its pictures."""
        if self.checkpoint is None:
            size: Any = {"shortest_edge": self.config.image_size}
            crop: Any = {"height": self.config.image_size, "width": self.config.image_size}
            return _drawn(self.config, self.seed), CLIPImageProcessorPil(size=size, crop_size=crop)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        name = self.name
        revision = self.checkpoint.revision
        clip: Any = CLIPVisionModelWithProjection
        pixels: Any = CLIPImageProcessorPil
        with loading(name):
            processor = pixels.from_pretrained(name, revision=revision, trust_remote_code=False)
            model, info = clip.from_pretrained(
                name,
                revision=revision,
                trust_remote_code=False,
                config=self.config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
            )
        if lacking := sorted(info["missing_keys"]):
            raise UserError(
                f"model={name} has no weights for {lacking[0]} and would see at random; give a complete CLIP"
            )
        return model, processor


def identity(settings: dict[str, Any]) -> str:
    """Hash of all that a cached value depends on but for its content."""
    return sha256(json.dumps(settings, sort_keys=True))


def find_encoder(name: str, revision: str | None = None, seed: int = 0) -> Encoder:
    """A folder or a hub's name of a CLIP, with or without its text tower; `random` for weights drawn from `seed`."""
    if name == RANDOM:
        return Encoder(None, CLIPVisionConfig(**SMALL), seed)
    found = find_model(name, revision or SAFE.get(name))
    config = found.config
    if config.model_type not in ("clip", "clip_vision_model"):
        raise UserError(f"model={name} is of type {config.model_type}; image features are of a CLIP, or of random")
    if config.model_type == "clip":
        config.vision_config.projection_dim = config.projection_dim  # a CLIPModel reads its own alone
        config = config.vision_config
    return Encoder(found, config)


def _drawn(config: CLIPVisionConfig, seed: int) -> Any:
    """Random weights by CLIP's own rule, but for the class token, which begins as nothing.

    Otherwise it is nearly all of the output, and features of any two pictures correlate by .97.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPVisionModelWithProjection(config)
    embeddings = model.vision_model.embeddings
    with torch.no_grad():
        embeddings.class_embedding.zero_()
        embeddings.position_embedding.weight[0].zero_()
    return model


def image_features(catalog: Catalog, encoder: str, batch_size: int, cache: Path, seed: int = 0) -> np.ndarray:
    """float32 [I, F], not normalised; a row of NaN where an item has no picture, or none that can be read."""
    found = find_encoder(encoder, seed=seed)
    shown = {row: Content("", picture) for row, picture in enumerate(catalog.image) if picture is not None}
    keys = {row: content.key() for row, content in bar(shown.items(), "reading pictures", len(shown))}
    vectors, made = encode({keys[row]: content for row, content in shown.items()}, found, batch_size, cache)
    features = np.full((len(catalog), found.width), np.nan, dtype=np.float32)
    for row, key in keys.items():
        features[row] = vectors.get(key, np.nan)
    have = int(np.isfinite(features[:, 0]).sum())
    log.info(
        "%s of %s items have image features of %s; %s encoded now, %s pictures cannot be read",
        *(f"{have:,}", f"{len(catalog):,}", found.label, f"{made:,}", f"{len(shown) - have:,}"),
    )
    return features


def encode(
    contents: dict[str, Content], encoder: Encoder, batch_size: int, cache: Path
) -> tuple[dict[str, np.ndarray], int]:
    """Content key -> features [F], without those whose picture cannot be read, and how many were encoded now."""
    in_range("batch_size", batch_size, 1)
    path = cache / "enriched" / f"image_features-{identity(encoder.settings)[:16]}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        known = _read(path)
        new = {key: content for key, content in contents.items() if key not in known}
        if new:
            _encode(new, known, encoder, batch_size, path)
    vectors = {key: known[key] for key in contents if not np.isnan(known[key][0])}
    return vectors, sum(key in vectors for key in new)


def _encode(
    new: dict[str, Content], known: dict[str, np.ndarray], encoder: Encoder, batch_size: int, path: Path
) -> None:
    """Adds the features of `new` to `known`, and writes these to `path`."""
    model, processor = encoder.load()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model = model.to(device).eval()
    written, keys = len(known), list(new)
    for start in bar(range(0, len(keys), batch_size), "encoding pictures"):
        seen = {}
        for key in keys[start : start + batch_size]:
            known[key] = np.full(encoder.width, np.nan, dtype=np.float32)
            with suppress(Unavailable):
                seen[key] = new[key].open(SIDE)
        if seen:
            known.update(zip(seen, _vectors(model, processor, list(seen.values())), strict=True))
        if len(known) - written >= CHUNK or start + batch_size >= len(keys):
            write_arrays(path, key=np.array(list(known)), features=np.stack(list(known.values())))
            written = len(known)


@torch.inference_mode()
def _vectors(model: Any, processor: Any, pictures: list[Any]) -> np.ndarray:
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    try:
        return model(pixel_values=pixels.to(model.device)).image_embeds.cpu().numpy()
    except torch.OutOfMemoryError:
        raise UserError(
            f"batch_size={len(pictures)} does not fit into the device's memory; choose a smaller one, what was "
            "made stays"
        ) from None
    except ValueError as error:  # the model's own check of sizes
        raise UserError(f"the processor of model= makes pictures that its model refuses ({error})") from None


def _read(path: Path) -> dict[str, np.ndarray]:
    """Picture's key -> features, NaN of a picture that cannot be read."""
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(zip(arrays["key"].tolist(), arrays["features"], strict=True))
    except (ValueError, KeyError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and its features are made again") from None
