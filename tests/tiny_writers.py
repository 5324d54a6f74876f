"""Tiny random BLIP, Qwen2 and Qwen-VL in the hub's layout: config, weights, tokenizer, preprocessor_config.json."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from data.dataset import Dataset
from data.enrich import Enrichment, enrich
from experiments.endurance.tiny_blip import WIDE, WORDS, blip

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is not false %}<think>\n{% endif %}"
)
VISION = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def chat_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [" ".join(WORDS)] * 3, trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL,
        chat_template=CHAT,
    )


def _text_size(tokenizer: Any) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": SPECIAL.index("<|endoftext|>"),
        "eos_token_id": SPECIAL.index("<|im_end|>"),
    }


def qwen(folder: Path, context: int = 1024, chat: bool = True, real: Path | None = None) -> Path:
    """`real`: a folder with the tokenizer to use in place of a trained one."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(real, trust_remote_code=False) if real else chat_tokenizer()
    size = _text_size(tokenizer)
    model = Qwen2ForCausalLM(Qwen2Config(**size, max_position_embeddings=context, initializer_range=WIDE))
    model.generation_config.update(do_sample=True, temperature=0.7, top_p=0.8, repetition_penalty=1.5)  # as Qwen's own
    model.save_pretrained(folder)
    if not chat:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


def qwen_vl(folder: Path, family: str) -> Path:
    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = _text_size(tokenizer) | {"rope_parameters": rope, "initializer_range": WIDE}
    vision = {"depth": 2, "num_heads": 2, "hidden_size": 32, "patch_size": 14, "initializer_range": WIDE}
    vision |= {
        "qwen2_vl": {"embed_dim": 32, "mlp_ratio": 2},
        "qwen2_5_vl": {"intermediate_size": 64, "out_hidden_size": 32, "fullatt_block_indexes": [1]},
        "qwen3_vl": {"intermediate_size": 64, "out_hidden_size": 32, "deepstack_visual_indexes": [0]},
    }[family]
    parts = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    tokens = {f"{name}_token_id": SPECIAL.index(f"<|{written}|>") for name, written in parts.items()}
    config = AutoConfig.for_model(family, text_config=text, vision_config=vision, **tokens)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT}))
    kind = "Qwen2VLImageProcessor" + "Fast" * (family == "qwen3_vl")
    pictures = {"image_processor_type": kind, "processor_class": "Qwen2VLProcessor"}
    pictures |= {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "merge_size": 2}  # type: ignore[dict-item]
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return folder


def family_of_writers(folder: Path) -> dict[str, Path]:
    made = {"blip": blip(folder / "blip"), "qwen": qwen(folder / "qwen")}
    return made | {family: qwen_vl(folder / family, family=family) for family in VISION}


def run(root: Path, dataset: Dataset, model: Path, **settings: Any) -> tuple[list[dict[str, str]], str, Path]:
    task = Enrichment(**({"model": str(model), "max_new_tokens": 8} | settings))
    path, sentence = enrich(task, task.checkpoint(), dataset, root / "data", root / "cache")
    return [json.loads(line) for line in path.read_text().splitlines()], sentence, path
