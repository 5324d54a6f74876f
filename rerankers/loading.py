"""A reranker of texts by name: a run folder, its name in <root>/runs, a folder of weights, a name of the hub.

A run says itself which class with which settings it is (`config.yaml`); of weights alone the architectures in their
config.json decide between a cross-encoder and a causal language model, asked for letters as it is.
"""

from __future__ import annotations

import importlib
import re
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Ragged, Requests
from data.errors import UserError, in_one_line
from data.files import read_json, read_yaml
from data.model_files import refuse_code
from rerankers.base import Reranker, TrainerConfig
from rerankers.ranking import TextRanker, catalog_of

ROOT = Path(__file__).resolve().parent.parent  # of the project, as in its commands
WEIGHTS = ("config.json", "adapter_config.json")
HUB = r"[\w.-]+(/[\w.-]+)?"
LETTERS_LENGTH, PASSAGE_LENGTH = 4096, 128  # tokens of a prompt and of a passage in it, of a model without a run


def load_reranker(name: str | Path, root: str | Path | None = None, **settings: Any) -> TextRanker:
    """`name`: a finished run's folder, its name in `<root>/runs` (by default the project's), a folder of weights
    (`<run>/checkpoint-500`) or a name of the Hugging Face hub.

    `settings` are keys of the reranker's YAML that scoring reads, such as `dtype="bfloat16"` or `max_length=1024`.
    Whatever cannot be loaded, and a reranker that reads no text, is a UserError of one sentence.
    """
    run, weights = find(str(name), Path(root or ROOT).expanduser())
    if isinstance(weights, Path):
        refuse_code(weights, "model")
    reranker = as_it_is(str(weights), settings) if run is None else of_run(run, settings)
    nothing = Requests(catalog_of([]), np.zeros(0, dtype=np.int64), Ragged.empty(0))
    reranker.load(Path(weights), nothing)
    reranker.serve()
    return TextRanker(reranker, str(name))


def find(name: str, root: Path) -> tuple[Path | None, Path | str]:
    """The run that knows the settings, None without one, and where the weights are."""
    places = (Path(name).expanduser(), root / "runs" / name)
    for folder in places:
        if (folder / "config.yaml").is_file():
            return folder, weights_of(folder)
        if any((folder / file).is_file() for file in WEIGHTS):
            return (folder.parent if (folder.parent / "config.yaml").is_file() else None), folder
    if found := next((folder for folder in places if folder.is_dir()), None):
        raise UserError(f"{found} is neither a run (config.yaml) nor a folder of weights (config.json); name another")
    if not re.fullmatch(HUB, name):
        raise UserError(f"{name} is no folder, no run in {root / 'runs'} and no name of the hub; name one of these")
    return None, name


def weights_of(run: Path) -> Path:
    if not (run / "manifest.json").is_file():
        raise UserError(f"{run} is not a finished run; repeat its train.py command to continue it")
    if folds := read_json(run / "manifest.json").get("folds"):
        raise UserError(
            f"{run} pools {len(folds)} folds and has no model of its own; load one of {', '.join(map(str, folds))}"
        )
    if not (run / "model").is_dir():
        raise UserError(f"{run} has no model/; repeat its train.py command with force=true")
    return run / "model"


def of_run(run: Path, settings: dict[str, Any]) -> Reranker:
    """As it was trained, but for `settings`. A passage is all that is read: `item_text`, which adds to it, is off."""
    config = config_of(run)
    node, trainer = dict(config["reranker"]), config["trainer"]
    cls = own_class(str(node.pop("_target_")), run)
    if not reads_text(cls):
        by = "ranks items by their ids" if "interactions" in cls.requires else "has scores for its own items alone"
        raise UserError(
            f"{run.name} is a run of reranker={node.get('name')}, which {by} and reads no text; load a run of "
            "reranker=viranker or qwen_letter"
        )
    node |= {"item_text": "text_only"} if "item_text" in node else {}
    return made(cls, node | settings, trainer=made(TrainerConfig, trainer), seed=int(config.get("seed", 0)))


def config_of(run: Path) -> dict[str, Any]:
    config: Any = read_yaml(run / "config.yaml")
    try:
        if config["reranker"]["_target_"] and config["trainer"]:
            return config
    except (KeyError, TypeError):
        pass
    raise UserError(f"{run / 'config.yaml'} describes no reranker; name another run")


def reads_text(cls: type[Reranker]) -> bool:
    return set(cls.requires) == {"text"}


def own_class(target: str, run: Path) -> type[Reranker]:
    module, _, name = target.rpartition(".")
    if not module.startswith("rerankers."):
        raise UserError(f"{run / 'config.yaml'}: reranker._target_={target} is not a class of this project")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{run / 'config.yaml'}: reranker._target_={target} cannot be imported ({error})") from None
    if not (isinstance(cls, type) and issubclass(cls, Reranker)):
        raise UserError(f"{run / 'config.yaml'}: reranker._target_={target} is not a reranker")
    return cls


def made(cls: Any, node: dict[str, Any], **built: Any) -> Any:
    """A dataclass object from its keys, nested ones from theirs. The values were checked when the run began."""
    hints = typing.get_type_hints(cls)
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(node) - known):
        raise UserError(f"unknown key {unknown[0]} of {cls.__name__}; allowed: {', '.join(sorted(known))}")
    values = {
        key: made(hints[key], value) if is_dataclass(hints[key]) and isinstance(value, dict) else value
        for key, value in node.items()
    }
    try:
        return cls(**values, **built)
    except TypeError as error:
        raise UserError(f"{cls.__name__} cannot be made of these settings: {error}") from None


def as_it_is(model: str, settings: dict[str, Any]) -> Reranker:
    """Weights without a run."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise UserError(
            f"{model} is no run, and no model that can be loaded ({in_one_line(error)[:200]}); name a run, "
            "its folder, a folder of weights, or a model of the hub that this machine can reach"
        ) from None
    architectures = " ".join(config.architectures or [])
    untrained = {"trainer": TrainerConfig(num_train_epochs=0), "model": model}
    if "ForSequenceClassification" in architectures:
        from rerankers.cross_encoder.checks import positions
        from rerankers.cross_encoder.cross_encoder import CrossEncoderReranker

        length = min(positions(config), CrossEncoderReranker.max_length)
        return made(CrossEncoderReranker, {"name": "cross_encoder", "max_length": length} | settings, **untrained)
    if "ForCausalLM" in architectures:
        from rerankers.letter.letter import LetterReranker

        length = min(getattr(config, "max_position_embeddings", LETTERS_LENGTH), LETTERS_LENGTH)
        node = {"name": "letter", "max_length": length, "max_item_length": PASSAGE_LENGTH} | settings
        return made(LetterReranker, node, **untrained)
    raise UserError(
        f"{model} is a {architectures or 'model of unknown architecture'}, neither a cross-encoder "
        "(ForSequenceClassification) nor a causal language model; train it first, with reranker.model="
    )
