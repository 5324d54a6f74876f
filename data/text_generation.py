"""Models of `transformers` that write a text about an item: BLIP, vision-language and instruct language models.

What a model is, its config says, not its name. Decoding is greedy and rows of a batch do not see each other, so a text
is the same in any batch (in float32; bfloat16 rounds differently for another batch size).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BlipForConditionalGeneration,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available, logging

from data.dataset import sha256
from data.errors import UserError, in_one_line
from data.files import file_sha256
from data.model_files import refuse_code

BLIP, VISION, LANGUAGE = "blip", "vision-language model", "language model"
CLASSES: dict[str, Any] = {
    BLIP: BlipForConditionalGeneration,
    VISION: AutoModelForImageTextToText,
    LANGUAGE: AutoModelForCausalLM,
}
READ = (".json", ".jinja", ".txt", ".model", ".safetensors")  # the files of a folder that change what it writes
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}  # the penalty would count a row's padding
SIDE = 448  # pixels a picture fits into: at most 256 tokens of a Qwen-VL
LONGEST = 1024  # tokens of an item's text, or less where the model's context is shorter
MARGIN = 8  # tokens that a text cut in the middle of a word may gain


@dataclass(frozen=True)
class Checkpoint:
    """A model before its weights are read."""

    name: str  # a folder, or a name of the hub
    revision: str | None  # the hub's commit
    identity: str  # of all that its texts depend on
    config: Any

    @property
    def kind(self) -> str:
        model_type = self.config.model_type
        if model_type == BLIP:
            return BLIP
        if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            return VISION
        if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            return LANGUAGE
        raise UserError(
            f"model={self.name} is of type {model_type}, which writes no text; choose BLIP, an instruct language "
            "model or a vision-language model"
        )


def find_model(name: str, revision: str | None) -> Checkpoint:
    """A folder is known by the content of its files, wherever it lies; a model of the hub by its name and commit."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"model={name} has no config.json; give a folder that save_pretrained wrote")
        refuse_code(folder, "model")
        with loading(name):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        files = sorted(path for path in folder.iterdir() if path.suffix in READ)
        return Checkpoint(str(folder), None, sha256(*(path.name + file_sha256(path) for path in files)), config)
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise UserError(f"model={name} does not exist; give an existing folder or a name of the Hugging Face hub")
    with loading(name):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    cached = try_to_load_from_cache(name, "config.json", revision=revision)  # .../snapshots/<commit>/config.json
    commit = Path(cached).parent.name if isinstance(cached, str) else revision
    return Checkpoint(name, commit, f"{name}@{commit}", config)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """What transformers says of a model it cannot load, in one sentence."""
    try:
        yield
    except (OSError, ValueError, TypeError, ImportError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        said = in_one_line(error)[:300].rstrip(" .")
        raise UserError(
            f"model={name} could not be loaded ({said}); give a folder with config.json, the tokenizer or "
            "processor and *.safetensors, or a name of a hub that can be reached"
        ) from None


def dtype() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


class Writer:
    """Called with texts and pictures of a batch, either of which may be empty or None in all of it: [B] lines."""

    def __init__(self, checkpoint: Checkpoint, prompt: str | None, max_new_tokens: int) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.checkpoint, self.prompt, self.max_new_tokens = checkpoint, prompt, max_new_tokens
        with loading(checkpoint.name):
            self.reader = _reader(checkpoint)  # a processor, or the tokenizer of a language model
            model, info = CLASSES[checkpoint.kind].from_pretrained(
                checkpoint.name,
                revision=checkpoint.revision,
                trust_remote_code=False,
                dtype=dtype(),
                use_safetensors=True,
                output_loading_info=True,
            )
        if lacking := sorted(info["missing_keys"]):
            raise UserError(
                f"model={checkpoint.name} has no weights for {lacking[0]} and would write at random; give a complete "
                f"{checkpoint.kind}"
            )
        self.model = model.to(torch.accelerator.current_accelerator(check_available=True) or "cpu").eval()
        self.tokenizer = getattr(self.reader, "tokenizer", self.reader)
        self.tokenizer.padding_side = "left"  # BLIP's rows are equally long
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.generation_config.pad_token_id = self.tokenizer.pad_token_id
        if checkpoint.kind != BLIP and not self.reader.chat_template:
            raise UserError(f"model={checkpoint.name} has no chat template; choose an instruct (chat) model")
        self.room = {False: self._room(None)}  # by whether there is a picture
        if checkpoint.kind == VISION:
            self.room[True] = self._room(Image.new("RGB", (SIDE, SIDE)))  # the largest

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], pictures: Sequence[Image.Image | None]) -> list[str]:
        if self.checkpoint.kind == BLIP:  # the prompt is the beginning of its caption
            inputs = self.reader(images=pictures, text=self.prompt and [self.prompt] * len(texts), return_tensors="pt")
            first = 1  # after [DEC]
        else:
            rooms = [self.room[picture is not None] for picture in pictures]
            inputs = self._chat(list(map(self._cut, texts, rooms)), pictures)
            first = inputs["input_ids"].shape[1]
        moved = {
            name: tensor.to(self.model.device, self.model.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }
        try:
            tokens = self.model.generate(**moved, **GREEDY, max_new_tokens=self.max_new_tokens)
        except torch.OutOfMemoryError:
            raise UserError(
                f"batch_size={len(texts)} does not fit into the device's memory; choose a smaller one, what was "
                "made stays"
            ) from None
        return [one_line(text) for text in self.tokenizer.batch_decode(tokens[:, first:], skip_special_tokens=True)]

    def _chat(self, texts: Sequence[str], pictures: Sequence[Image.Image | None]) -> Any:
        """Token ids [B, T], padded on the left, and pixels; control tokens in an item's text are read as text."""
        conversations = []
        for text, picture in zip(texts, pictures, strict=True):
            message = f"{self.prompt}\n\n{text}" if text else self.prompt
            shown = [] if picture is None else [{"type": "image", "image": picture}]
            content = message if self.checkpoint.kind == LANGUAGE else [*shown, {"type": "text", "text": message}]
            conversations.append([{"role": "user", "content": content}])
        padding = {"padding": True} if self.checkpoint.kind == LANGUAGE else {"processor_kwargs": {"padding": True}}
        try:
            return self.reader.apply_chat_template(
                conversations,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
                sanitize_control_tokens=True,
                enable_thinking=False,
                **padding,
            )
        except TemplateError as error:  # its own, or the sandbox's, which lets it reach nothing but the messages
            said = in_one_line(error)[:200]
            raise UserError(f"the chat template of model={self.checkpoint.name} cannot be used ({said})") from None

    def _room(self, picture: Image.Image | None) -> int:
        """Tokens of an item's text that the context holds beside prompt, picture and answer."""
        context = getattr(self.checkpoint.config.get_text_config(), "max_position_embeddings", None)
        if context is None:
            return LONGEST
        if self.checkpoint.kind == BLIP:
            taken = len(self.tokenizer(self.prompt or "")["input_ids"])
        else:
            taken = self._chat([""], [picture])["input_ids"].shape[1]
        room = context - taken - self.max_new_tokens - MARGIN
        if room < 1:
            raise UserError(
                f"prompt= and max_new_tokens={self.max_new_tokens} leave no room in the {context} tokens of "
                f"model={self.checkpoint.name}; shorten them"
            )
        return min(LONGEST, room)

    def _cut(self, text: str, room: int) -> str:
        """The beginning of the text, at most `room` tokens."""
        ends = self.tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=True,
            max_length=room,
            return_offsets_mapping=True,
        )["offset_mapping"]
        return text[: max((end for _, end in ends), default=0)]


def _reader(checkpoint: Checkpoint) -> Any:
    name, revision = checkpoint.name, checkpoint.revision
    if checkpoint.kind == LANGUAGE:
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    own: Any = PROCESSOR_MAPPING.get(type(checkpoint.config), None)
    if is_torchvision_available() or own is None or "video_processor" not in own.get_attributes():
        return AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)

    class WithoutVideos(own):  # type: ignore[misc, valid-type]  # a Qwen-VL's needs torchvision, for videos alone
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> None:
            """Allows None for the video processor."""

    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    settings, _ = own.get_processor_dict(name, revision=revision, trust_remote_code=False)
    return WithoutVideos(
        image_processor=AutoImageProcessor.from_pretrained(name, revision=revision, trust_remote_code=False),
        tokenizer=tokenizer,
        video_processor=None,
        chat_template=settings.get("chat_template") or tokenizer.chat_template,
    )


def one_line(text: str) -> str:
    """Without a reasoning model's thoughts, finished or not."""
    return " ".join(re.sub(r"(?s)^.*</think>|<think>.*$", "", text).split())
