"""Files in the form of SQuAD and XQuAD: each distinct context is a passage, each question a query for its context.

python train.py protocol=query_folds dataset=xquad_vi dataset.path=/my/xquad
python train.py protocol=query_files dataset=squad dataset.path=/my dataset.file=train.json dataset.test_file=dev.json

Questions that SQuAD 2 marks as impossible have no answer in their context and are left out. Passages are named
`article-paragraph`, counted from 0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files import read_text
from data.sources.passage_tables import one_file
from data.sources.passages import Passage, PassageSource, Query, RawPassages, cleaned, folder_of, hashes
from data.tables import BadRows, Place


@dataclass
class Squad(PassageSource):
    file: str | None = None  # in the folder `path`; None: its one .json
    test_file: str | None = None  # then `file` is for training
    source: str = "a file in the form of SQuAD"
    licence: str = "unknown"

    def read(self, data_dir: Path, bad: BadRows) -> RawPassages:
        folder = folder_of(self, self.file or "a .json file in the form of SQuAD")
        file = one_file(folder, self.file or the_json_of(folder), "dataset.file")
        reading = Reading(bad)
        if self.test_file is None:
            files = [file]
            reading.add(file)
        else:
            files = [file, one_file(folder, self.test_file, "dataset.test_file")]
            reading.add(files[0], "train")
            reading.add(files[1], "test", "test-")
        notes = [f"{reading.impossible:,} questions marked as impossible were left out"] if reading.impossible else []
        return RawPassages(
            passages=list(reading.passages.values()),
            queries=reading.queries,
            source=self.source,
            licence=self.licence,
            files=hashes(folder, files),
            notes=notes,
        )


def the_json_of(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".json")
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise UserError(f"{folder} has not exactly one .json file: it has {found}; say which with dataset.file=")
    return names[0]


@dataclass
class Reading:
    """Contexts and questions of one file after another; equal contexts are one passage, named by the first."""

    bad: BadRows
    passages: dict[str, Passage] = field(default_factory=dict)  # by text
    queries: list[Query] = field(default_factory=list)
    impossible: int = 0

    def add(self, path: Path, part: str | None = None, prefix: str = "") -> None:
        for a, article in enumerate(entries(path, parsed(path), "data", "the file")):
            for p, paragraph in enumerate(entries(path, article, "paragraphs", f"article {a}")):
                place = Place(path, f"article {a}, paragraph {p}")
                questions = entries(path, paragraph, "qas", place.where)
                context = paragraph.get("context")
                if not isinstance(context, str) or not cleaned(context):
                    self.bad(place, "no context")
                    continue
                passage = self.passages.setdefault(cleaned(context), Passage(f"{prefix}{a}-{p}", context, place))
                for q, question in enumerate(questions):
                    self._ask(question, passage.id, Place(path, f"{place.where}, question {q}"), part)

    def _ask(self, question: Any, passage: str, place: Place, part: str | None) -> None:
        if not isinstance(question, dict) or not isinstance(question.get("question"), str):
            self.bad(place, "no text named question")
        elif not isinstance(question.get("id"), str | int):
            self.bad(place, "no id")
        elif question.get("is_impossible") is True:
            self.impossible += 1
        else:
            self.queries.append(Query(str(question["id"]), question["question"], [passage], place, part))


def parsed(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({str(error)[:80]}); give a file in the form of SQuAD") from None


def entries(path: Path, node: Any, name: str, where: str) -> list[Any]:
    """The list `name` of a node; SQuAD is three of them, one in another: data, paragraphs, qas."""
    found = node.get(name) if isinstance(node, dict) else None
    if not isinstance(found, list):
        raise UserError(
            f"{path} is not in the form of SQuAD: {where} has no list named {name}; it must be "
            "data[].paragraphs[].context and .qas[].question"
        )
    return found
