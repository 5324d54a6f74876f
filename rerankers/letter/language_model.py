"""Loading a causal language model and its tokenizer: pretrained, in 4 bits, or small from nothing; LoRA on top."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from data.dataset import sha256
from data.errors import UserError, in_one_line, in_range, one_of
from rerankers.letter.labels import LETTERS
from rerankers.pretrained import load_pretrained, quiet
from rerankers.training import device, sample_of_weights
from rerankers.word_tokenizer import by_frequency, split_words

TEMPLATE = (  # of a model from nothing: Qwen's turns in fewer tokens
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|unknown|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


INITIALIZATIONS = ("gaussian", "orthogonal", "olora", "pissa")  # those that are the same when they are loaded


@dataclass
class Lora:
    """Names, meaning and ranges are those of peft's LoraConfig."""

    r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    target_modules: Any = "all-linear"
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: Any = True

    def __post_init__(self) -> None:
        in_range("reranker.lora.r", self.r, 1)
        in_range("reranker.lora.lora_alpha", self.lora_alpha, 1)
        in_range("reranker.lora.lora_dropout", self.lora_dropout, 0, 0.9)
        one_of("reranker.lora.bias", self.bias, ("none", "all", "lora_only"))
        if self.init_lora_weights not in (True, False):  # others change the base or are drawn at random: no reload
            one_of("reranker.lora.init_lora_weights", str(self.init_lora_weights), INITIALIZATIONS)

    def wrap(self, model: Any) -> Any:
        """The model with adapters; only they are trained."""
        names = [self.target_modules] if isinstance(self.target_modules, str) else list(self.target_modules)
        modules: Any = names[0] if names == ["all-linear"] else names
        try:
            settings: Any = {**vars(self), "target_modules": modules}
            with quiet():
                return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(f"reranker.lora: {in_one_line(error)}") from None


@dataclass
class Scratch:
    """A Qwen3 from nothing, small enough for a CPU; its tokenizer is trained on the dataset's texts."""

    hidden_size: int = 96
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    head_dim: int = 32  # narrower heads cannot look sharply: Qwen3 normalises queries and keys
    intermediate_size: int = 96
    initializer_range: float = 0.1  # .02, made for wide models, leaves a narrow one where it is for long
    vocab_size: int = 4096  # at most; whole words, the most frequent ones
    copying_epochs: int = 0  # first epochs, in which the answer is an item of the history, word for word
    copying_share: float = 0.2  # of the rows after them, so that it is not forgotten
    line_loss: float = 1.0  # weight of the same question asked at each candidate's line, one layer below the top

    def __post_init__(self) -> None:
        for name, low, high in (
            ("hidden_size", 8, 8192),
            ("num_hidden_layers", 1, 96),
            ("num_attention_heads", 1, 128),
            ("head_dim", 2, 512),
            ("intermediate_size", 8, 65_536),
            ("initializer_range", 1e-4, 1),
            ("vocab_size", 100, 200_000),
            ("copying_epochs", 0, 1000),
            ("copying_share", 0, 1),
            ("line_loss", 0, 100),
        ):
            in_range(f"reranker.scratch.{name}", getattr(self, name), low, high)

    def tokenizer(self, texts: Sequence[str], always: Sequence[str]) -> Any:
        """Words and signs as they stand in the texts, the most frequent first; the words of `always` are all known."""
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        normalizer = normalizers.NFC()
        splitter = pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), "removed", invert=True)
        frequent = by_frequency(split_words(texts, normalizer, splitter))
        known = dict.fromkeys([*SPECIAL, *split_words(always, normalizer, splitter), *frequent])
        vocabulary = {word: number for number, word in enumerate(list(known)[: self.vocab_size])}
        whole_words = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
        whole_words.normalizer, whole_words.pre_tokenizer = normalizer, splitter
        out = PreTrainedTokenizerFast(
            tokenizer_object=whole_words, pad_token="<|pad|>", unk_token="<|unknown|>", eos_token="<|end|>"
        )
        out.add_special_tokens({"additional_special_tokens": SPECIAL[3:]})
        out.chat_template = TEMPLATE
        return out

    def model(self, vocabulary: int, max_length: int) -> Any:
        config = Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_attention_heads,
            head_dim=self.head_dim,
            intermediate_size=self.intermediate_size,
            initializer_range=self.initializer_range,
            max_position_embeddings=max_length,
            tie_word_embeddings=True,
            pad_token_id=SPECIAL.index("<|pad|>"),
            eos_token_id=SPECIAL.index("<|end|>"),
        )
        model: Any = Qwen3ForCausalLM(config)
        torch.nn.init.constant_(model.base_model.norm.weight, 0.1)  # small logits: it begins at ln N, not above
        return model.to(device())


def load_tokenizer(name: str) -> Any:
    tokenizer = load_pretrained(
        "reranker.model", name, lambda: AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    )
    if len(tokenizer) < len(LETTERS):  # what is made of a folder without tokenizer files
        raise UserError(f"reranker.model={name} has no tokenizer; give a folder with tokenizer.json")
    return tokenizer


def load_model(name: str, four_bits: bool = False, dtype: torch.dtype | None = None) -> Any:
    """float32 on a CPU, bfloat16 where the GPU has it, unless `dtype` says so. Only safetensors are read."""
    on_gpu = device().type == "cuda"
    dtype = dtype or (torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported() else torch.float32)
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    if four_bits:
        if importlib.util.find_spec("bitsandbytes") is None or not on_gpu:
            raise UserError("reranker.load_in_4bit=true needs a GPU and bitsandbytes: pip install bitsandbytes")
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model, info = load_pretrained(
        "reranker.model",
        name,
        lambda: AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False, **options),
    )
    if lacking := sorted(info["missing_keys"]):
        raise UserError(f"reranker.model={name} lacks weights ({lacking[0]}), which would be random; give a whole one")
    return model if four_bits else model.to(device())


def load_adapter(model: Any, folder: str) -> Any:
    load: Any = lambda: PeftModel.from_pretrained(model, folder)  # noqa: E731
    return load_pretrained("reranker.model", folder, load).to(device())


def fingerprint(model: Any) -> str:
    """Of the first values of all tensors, the same in float32 and in bfloat16."""
    return sha256(sample_of_weights(model, trained=False).bfloat16().float().numpy())
