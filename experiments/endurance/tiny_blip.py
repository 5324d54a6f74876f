"""A tiny random BLIP in the hub's layout: config, weights, tokenizer, preprocessor_config.json."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = "a an the of in on with red blue green lamp chair mug scarf clock rustic modern small large white".split()
WIDE = 0.5  # spread of random weights; with the usual 0.02 every input gets the same text


def blip(folder: Path, seed: int = 0) -> Path:
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

    torch.manual_seed(seed)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder.with_suffix(".vocab")).write_text("\n".join(vocabulary))
    tokenizer = BertTokenizer(str(folder.with_suffix(".vocab")))
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    size["initializer_range"] = WIDE  # type: ignore[assignment]
    text = {"vocab_size": len(vocabulary) + 2, "bos_token_id": len(vocabulary), "eos_token_id": 3, "sep_token_id": 3}
    text |= {"pad_token_id": 0, "encoder_hidden_size": 32, "projection_dim": 16, "max_position_embeddings": 64}
    vision = {"image_size": 32, "patch_size": 16, "projection_dim": 16}
    config = BlipConfig(text_config=size | text, vision_config=size | vision, projection_dim=16)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pictures = {"image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures | {"size": {"height": 32, "width": 32}}))
    return folder
