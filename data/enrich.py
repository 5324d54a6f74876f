"""Captions and semantic summaries of a dataset's items, written by a model: resumable, cached by content, atomic.

What the model writes is appended batch by batch to <cache>/enriched/<field>-<hash of model, prompt, settings>.jsonl,
a line a content: the hash of the picture and the text that the model reads. So a kill loses at most a batch, what is
the same is written once, and another dataset with the same pictures finds them done. The result is a file that
`dataset.item_fields` joins, like any other made elsewhere.
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

import transformers
from filelock import FileLock

from data.dataset import Catalog, Dataset, sha256
from data.errors import UserError, in_range, one_of
from data.files import read_records, write_atomically, write_json
from data.item_content import Content
from data.pictures import Unavailable
from data.progress import bar
from data.text_generation import BLIP, LANGUAGE, SIDE, Checkpoint, Writer, dtype, find_model

MODELS = {"caption": "Salesforce/blip-image-captioning-base", "semantic_summary": "Qwen/Qwen2.5-0.5B-Instruct"}
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
        if self.output is not None and not self.output.endswith(".jsonl"):
            raise UserError(f"output={self.output} must end in .jsonl, as dataset.item_fields reads it")

    def checkpoint(self) -> Checkpoint:
        """The model that is asked for, without its weights; one that cannot write the field is a UserError."""
        found = find_model(self.model or MODELS[self.field], self.revision)
        if self.field == "caption" and found.kind == LANGUAGE:
            raise UserError(f"model={found.name} is a language model and sees no pictures; choose BLIP or a Qwen-VL")
        if self.field != "caption" and found.kind == BLIP:
            raise UserError(f"model={found.name} is BLIP, which writes captions only; choose an instruct model")
        return found


def enrich(task: Enrichment, checkpoint: Checkpoint, dataset: Dataset, data: Path, cache: Path) -> tuple[Path, str]:
    """The file of records {"item_id": ..., <field>: ...} below `data`, and a sentence of what is in it."""
    started = time.perf_counter()
    contents = _contents(task, checkpoint, dataset)
    bare = len(dataset.catalog) - len(contents)
    chosen = dict(list(contents.items())[: task.limit])
    keys = {item: content.key() for item, content in bar(chosen.items(), "reading items", len(chosen))}
    prompt = task.prompt or (None if checkpoint.kind == BLIP else PROMPTS[task.field])
    settings = {
        "version": VERSION,
        "field": task.field,
        "model": checkpoint.identity,
        "prompt": prompt,
        "max_new_tokens": task.max_new_tokens,
        "dtype": str(dtype()),
    }
    made_by = sha256(json.dumps(settings, sort_keys=True))
    path = cache / "enriched" / f"{task.field}-{made_by[:16]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        texts = read_cache(path)
        new = {key: chosen[item] for item, key in keys.items() if key not in texts}
        if new:
            writer = Writer(checkpoint, prompt, task.max_new_tokens)
            with path.open("a", encoding="utf-8") as file:
                for batch in bar(list(_batches(new, task.batch_size)), f"writing {task.field}"):
                    written = _write(writer, batch)
                    _append(file, written)
                    texts |= written
    records = [{"item_id": str(item), task.field: texts[key]} for item, key in keys.items() if key in texts]
    if not records:
        raise UserError(
            f"none of the {len(keys):,} pictures of dataset={dataset.name} can be read; mend dataset.images"
        )
    name = f"{dataset.name}-{task.field}-{sha256(made_by, *map(str, keys), *keys.values())[:10]}.jsonl"
    output = Path(task.output).expanduser().resolve() if task.output else data / "enriched" / name
    described = {
        "dataset": dataset.name,
        "name": checkpoint.name,
        **settings,
        "transformers": transformers.__version__,
    }
    write_json(output.with_suffix(".json"), described)
    write_atomically(output, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))

    made = sum(key in texts for key in new)
    broken = [item for item, key in keys.items() if key not in texts]
    empty = sum(not record[task.field] for record in records)
    parts = [
        f"{made:,} made now",
        f"{len(records) - made:,} from the cache or equal to another",
        f"{empty:,} of them empty" if empty else "",
        f"{bare:,} items without {'a picture' if task.field == 'caption' else 'a text'}" if bare else "",
        f"{len(broken):,} whose picture cannot be read (the first: {broken[0]})" if broken else "",
        f"{len(contents) - len(chosen):,} left out by limit={task.limit}" if len(chosen) < len(contents) else "",
    ]
    took = time.perf_counter() - started
    return output, f"{task.field} of {len(records):,} items in {took:,.1f} s: {', '.join(filter(None, parts))}"


def _contents(task: Enrichment, checkpoint: Checkpoint, dataset: Dataset) -> dict[Any, Content]:
    """Item id -> content, of the items that have any; a caption is of the picture alone."""
    catalog = dataset.catalog
    contents = {}
    for row, item in enumerate(catalog.id):
        text = "" if task.field == "caption" else item_text(catalog, row)
        picture = None if checkpoint.kind == LANGUAGE else catalog.image[row]
        if text or picture is not None:
            contents[item] = Content(text, picture)
    if not contents:
        lacking, key = ("pictures", "images") if task.field == "caption" else ("item texts", "item_fields")
        raise UserError(
            f"field={task.field} needs {lacking}, which dataset={dataset.name} does not have; give dataset.{key}="
        )
    return contents


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
