"""What a model makes of a dataset's items: captions, semantic summaries, image features. Cached by content, atomic.

What a model writes is appended batch by batch to <cache>/enriched/<field>-<hash of model, prompt, settings>.jsonl,
a line a content: the hash of the picture and the text that the model reads. So a kill loses at most a batch, what is
the same is written once, and another dataset with the same pictures finds them done. The result is a file that
`dataset.item_fields` joins, like any other made elsewhere. Image features, see data/image_features.py, become a .npz
that `dataset.image_features` joins.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from filelock import FileLock

from data.dataset import Catalog, Dataset, sha256
from data.errors import UserError, in_range, one_of
from data.files import read_records, write_arrays, write_atomically, write_json
from data.image_features import Encoder, encode, find_encoder, identity
from data.item_content import Content
from data.pictures import Unavailable
from data.progress import bar
from data.text_generation import BLIP, LANGUAGE, SIDE, Checkpoint, Writer, dtype, find_model

FEATURES = "image_features"
MODELS = {
    "caption": "Salesforce/blip-image-captioning-base",
    "semantic_summary": "Qwen/Qwen2.5-0.5B-Instruct",
    FEATURES: "openai/clip-vit-base-patch32",
}
PROMPTS = {
    "caption": "Describe the item in this picture in one sentence: what it is, its colours, material and style. "
    "Answer with the sentence alone.",
    "semantic_summary": "Summarize this item in one or two sentences: what it is, what sets it apart and who would "
    "like it. Use only what is given. Answer with the summary alone.",
}
VERSION = 1  # raised when the same settings would give other texts


@dataclass
class Enrichment:
    """One field of a dataset's items; `revision`, `prompt` and `model` are None for the defaults."""

    field: str = "caption"
    model: str | None = None
    revision: str | None = None
    batch_size: int = 16
    max_new_tokens: int = 64
    prompt: str | None = None
    limit: int | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        one_of("field", self.field, tuple(MODELS))
        for name in ("batch_size", "max_new_tokens", "limit"):
            in_range(name, getattr(self, name), 1)
        if self.output is not None and not self.output.endswith(self.ending):
            raise UserError(f"output={self.output} must end in {self.ending}, as dataset.{self.joined_by} reads it")
        if self.field == FEATURES and self.prompt is not None:
            raise UserError(f"prompt={self.prompt} is read by no CLIP; leave it out with field={FEATURES}")

    @property
    def ending(self) -> str:
        return ".npz" if self.field == FEATURES else ".jsonl"

    @property
    def of_pictures(self) -> bool:
        """Whether it is made of the picture alone."""
        return self.field != "semantic_summary"

    @property
    def joined_by(self) -> str:
        """The key of a dataset that takes the output."""
        return FEATURES if self.field == FEATURES else "item_fields"

    def checkpoint(self) -> Checkpoint | Encoder:
        """The model that is asked for, without its weights; one that cannot make the field is a UserError."""
        if self.field == FEATURES:
            return find_encoder(self.model or MODELS[FEATURES], self.revision)
        found = find_model(self.model or MODELS[self.field], self.revision)
        if self.field == "caption" and found.kind == LANGUAGE:
            raise UserError(f"model={found.name} is a language model and sees no pictures; choose BLIP or a Qwen-VL")
        if self.field != "caption" and found.kind == BLIP:
            raise UserError(f"model={found.name} is BLIP, which writes captions only; choose an instruct model")
        return found


def enrich(
    task: Enrichment, model: Checkpoint | Encoder, dataset: Dataset, data: Path, cache: Path
) -> tuple[Path, str]:
    """The file below `data` that a dataset can join, and a sentence of what is in it."""
    started = time.perf_counter()
    contents = _contents(task, model, dataset)
    bare = len(dataset.catalog) - len(contents)
    chosen = dict(list(contents.items())[: task.limit])
    keys = {item: content.key() for item, content in bar(chosen.items(), "reading items", len(chosen))}
    by_key = {key: chosen[item] for item, key in keys.items()}
    values: dict[str, Any]
    if isinstance(model, Encoder):
        settings = model.settings
        values, made = encode(by_key, model, task.batch_size, cache)
    else:
        settings = {
            "version": VERSION,
            "field": task.field,
            "model": model.identity,
            "prompt": task.prompt or (None if model.kind == BLIP else PROMPTS[task.field]),
            "max_new_tokens": task.max_new_tokens,
            "dtype": str(dtype()),
        }
        values, made = _texts(task, model, settings, by_key, cache)
    have = {item: values[key] for item, key in keys.items() if key in values}
    if not have:
        raise UserError(
            f"none of the {len(keys):,} pictures of dataset={dataset.name} can be read; mend dataset.images"
        )
    content = sha256(identity(settings), *map(str, keys), *keys.values())[:10]
    name = f"{dataset.name}-{task.field}-{content}{task.ending}"
    output = Path(task.output).expanduser().resolve() if task.output else data / "enriched" / name
    described = {"dataset": dataset.name, "name": model.name, **settings, "transformers": transformers.__version__}
    write_json(output.with_suffix(".json"), described)
    if isinstance(model, Encoder):
        write_arrays(output, item_id=np.array(list(map(str, have))), features=np.stack(list(have.values())))
    else:
        records = [{"item_id": str(item), task.field: text} for item, text in have.items()]
        write_atomically(output, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))

    broken = [item for item in keys if item not in have]
    empty = sum(isinstance(value, str) and not value for value in have.values())
    parts = [
        f"{made:,} made now",
        f"{len(have) - made:,} from the cache or equal to another",
        f"{empty:,} of them empty" if empty else "",
        f"{bare:,} items without {'a picture' if task.of_pictures else 'a text'}" if bare else "",
        f"{len(broken):,} whose picture cannot be read (the first: {broken[0]})" if broken else "",
        f"{len(contents) - len(chosen):,} left out by limit={task.limit}" if len(chosen) < len(contents) else "",
    ]
    took = time.perf_counter() - started
    return output, f"{task.field} of {len(have):,} items in {took:,.1f} s: {', '.join(filter(None, parts))}"


def _contents(task: Enrichment, model: Checkpoint | Encoder, dataset: Dataset) -> dict[Any, Content]:
    """Item id -> content, of the items that have any."""
    catalog = dataset.catalog
    contents = {}
    for row, item in enumerate(catalog.id):
        text = "" if task.of_pictures else item_text(catalog, row)
        picture = None if model.kind == LANGUAGE else catalog.image[row]
        if text or picture is not None:
            contents[item] = Content(text, picture)
    if not contents:
        lacking, key = ("pictures", "images") if task.of_pictures else ("item texts", "item_fields")
        raise UserError(
            f"field={task.field} needs {lacking}, which dataset={dataset.name} does not have; give dataset.{key}="
        )
    return contents


def _texts(
    task: Enrichment, checkpoint: Checkpoint, settings: dict[str, Any], contents: dict[str, Content], cache: Path
) -> tuple[dict[str, str], int]:
    """Content key -> text, without those whose picture cannot be read, and how many were written now."""
    path = cache / "enriched" / f"{task.field}-{identity(settings)[:16]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        texts = read_cache(path)
        new = {key: content for key, content in contents.items() if key not in texts}
        if new:
            writer = Writer(checkpoint, settings["prompt"], task.max_new_tokens)
            with path.open("a", encoding="utf-8") as file:
                for batch in bar(list(_batches(new, task.batch_size)), f"writing {task.field}"):
                    written = _write(writer, batch)
                    _append(file, written)
                    texts |= written
    return texts, sum(key in texts for key in new)


def _write(writer: Writer, batch: dict[str, Content]) -> dict[str, str]:
    """Content key -> text, without those whose picture cannot be read."""
    pictures = {}
    for key, content in batch.items():
        with suppress(Unavailable):
            pictures[key] = content.open(SIDE)
    if not pictures:
        return {}
    texts = writer([batch[key].text for key in pictures], list(pictures.values()))
    return dict(zip(pictures, texts, strict=True))


def item_text(catalog: Catalog, row: int) -> str:
    parts = {
        "Title": catalog.title[row],
        "Categories": ", ".join(catalog.categories[row]),
        "Description": catalog.description[row],
    }
    return "\n".join(f"{name}: {value}" for name, value in parts.items() if value)


def _batches(contents: dict[str, Content], size: int) -> Iterator[dict[str, Content]]:
    """Texts of similar length together, so that little is padded; with and without a picture never together."""
    for pictured in (False, True):
        alike = [(key, content) for key, content in contents.items() if (content.picture is not None) == pictured]
        alike.sort(key=lambda pair: len(pair[1].text))
        yield from (dict(alike[start : start + size]) for start in range(0, len(alike), size))


def read_cache(path: Path) -> dict[str, str]:
    """Content key -> text; a last line that a kill tore is cut off the file."""
    if not path.exists():
        return {}
    whole = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, whole)
    return {record["key"]: record["text"] for record in read_records(path)}


def _append(file: Any, texts: dict[str, str]) -> None:
    file.writelines(json.dumps({"key": key, "text": text}, ensure_ascii=False) + "\n" for key, text in texts.items())
    file.flush()
    os.fsync(file.fileno())
