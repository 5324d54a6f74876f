"""A tiny random CLIP in the hub's layout, whole or its vision tower alone."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIZE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def clip(folder: Path, seed: int = 0, whole: bool = True, pixels: int = 32) -> Path:
    """`pixels`: of the pictures that the processor makes; the model wants 32."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(**SIZE, image_size=32, patch_size=16, projection_dim=16)
    if whole:
        text = CLIPTextConfig(**SIZE, vocab_size=40, max_position_embeddings=8)
        given = vision.to_dict() | {"projection_dim": 512}  # as a CLIPModel has it, which does not read it
        CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=given, projection_dim=16)).save_pretrained(
            folder
        )
    else:
        CLIPVisionModelWithProjection(vision).save_pretrained(folder)
    size: Any = {"height": pixels, "width": pixels}
    CLIPImageProcessorPil(size={"shortest_edge": pixels}, crop_size=size).save_pretrained(folder)
    return folder
