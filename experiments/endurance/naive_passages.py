"""What files of passages and queries hold, read in the plainest way, and what a reader made of it beside that."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

from data.dataset import Dataset
from experiments.endurance.naive_files import Unclear, filled, lines_of, number_of, plain, text_of
from experiments.endurance.naive_tables import Row, column, id_of, ids_of, table_of, words_of

IDS = ("id", "_id", "doc_id", "docid", "passage_id", "pid", "corpus-id", "corpus_id", "stt")
TEXTS = ("text", "passage", "content", "contents", "document", "body", "văn bản")
QUERY_IDS = ("id", "_id", "query_id", "query-id", "qid", "question_id")
QUERIES = ("query", "question", "text")
RELEVANT = ("relevant", "relevant_ids", "positives", "positive_ids", "doc_ids", "ground truth document")


@dataclass
class Held:
    """What the files hold: of an id that comes again the first counts."""

    passages: dict[str, str] = field(default_factory=dict)
    queries: dict[str, tuple[str, list[str]]] = field(default_factory=dict)  # id -> text, what is relevant
    unanswered: int = 0
    named: set[str] = field(default_factory=set)  # passages, those without a text too
    bad: dict[str, int] = field(default_factory=dict)  # file -> rows


def same(dataset: Dataset, held: Held) -> None:
    catalog, events = dataset.catalog, dataset.interactions
    assert dict(zip(catalog.id, catalog.description, strict=True)) == held.passages, "a passage is not the file's"
    assert dataset.queries is not None
    relevant: dict[str, list[str]] = {name: [] for name in dataset.user_id}
    for user, item in zip(events.user, events.item, strict=True):
        relevant[dataset.user_id[user]].append(catalog.id[item])
    found = {name: (text, relevant[name]) for name, text in zip(dataset.user_id, dataset.queries, strict=True)}
    assert found == held.queries, "a query, or what is relevant to it, is not the file's"
    notes = [re.match(r"([\d,]+) bad rows of (\S+) were left out", note) for note in dataset.provenance.notes]
    counted = {note[2]: int(note[1].replace(",", "")) for note in notes if note}
    assert counted == {name: bad for name, bad in held.bad.items() if bad}, f"{held.bad} are bad, {counted} counted"
    (*said,) = (note for note in dataset.provenance.notes if "queries without a relevant passage" in note)
    assert [note.split()[0] for note in said] == [f"{held.unanswered:,}"] * (held.unanswered > 0), "queries are lost"


def titled(title: str, text: str) -> str:
    if not title or text.startswith(title):
        return text
    return f"{title}{'' if title[-1] in '.!?:' else '.'} {text}" if text else title


def passages_of(path: Path, held: Held) -> None:
    rows, held.bad[path.name] = table_of(path)
    ids, texts = column(rows, IDS), column(rows, TEXTS)
    for row in rows:
        name, text, heading = (
            id_of(row[str(ids)]),
            words_of(row[str(texts)]),
            words_of(row.get("title")),
        )
        if name is None or text is None or heading is None:
            held.bad[path.name] += 1
            continue
        name, text = plain(name), titled(plain(heading), plain(text))
        held.named.add(name)
        if name and text and name not in held.passages:
            held.passages[name] = text
        else:
            held.bad[path.name] += 1


def queries_of(path: Path, held: Held, qrels: dict[str, list[str]] | None = None) -> None:
    """`qrels`: query -> what is relevant, where it is no column."""
    rows, held.bad[path.name] = table_of(path)
    texts = column(rows, QUERIES)
    ids, answers = column(rows, tuple(name for name in QUERY_IDS if name != texts)), column(rows, RELEVANT)
    for number, row in enumerate(rows, start=1):
        name, text = id_of(row[ids]) if ids else str(number), words_of(row[str(texts)])
        found = ids_of(row[str(answers)]) if qrels is None else []
        if name is None or text is None or found is None:
            held.bad[path.name] += 1
        else:
            found = found if qrels is None else qrels.get(plain(name), [])
            ask(held, path.name, plain(name), plain(text), found)


def ask(held: Held, file: str, name: str, text: str, found: list[str]) -> None:
    relevant = list(dict.fromkeys(known(plain(each), held.passages) for each in found))
    if not text or not name or name in held.queries or not held.passages.keys() >= set(relevant):
        held.bad[file] += 1
    elif relevant:
        held.queries[name] = text, relevant
    else:
        held.unanswered += 1


def known(name: str, passages: Container[str]) -> str:
    """5.0 is the passage 5, where there is no passage 5.0."""
    whole = re.fullmatch(r"(.*)\.0", name, re.DOTALL)
    return whole[1] if whole and name not in passages and whole[1] in passages else name


# judgements in files of their own


def of_folder(folder: Path, corpus: str, queries: str, judgements: Path | None = None) -> Held:
    """`judgements`: a file, or the folder of BEIR's; None: a column of the queries."""
    held = Held()
    passages_of(folder / corpus, held)
    if judgements is None:
        queries_of(folder / queries, held)
        return held
    rows, _ = table_of(folder / queries)
    texts = column(rows, QUERIES)
    ids = column(rows, tuple(name for name in QUERY_IDS if name != texts))
    asked = {plain(id_of(row[str(ids)]) or "") for row in rows if words_of(row[str(texts)]) is not None}
    files = sorted(judgements.iterdir()) if judgements.is_dir() else [judgements]
    tables = [judged(path, held, asked) for path in files]
    if len(tables) > 1 and (set(tables[0]) & set(tables[1]) or texts_twice(rows)):
        raise Unclear("a query of two parts")
    queries_of(folder / queries, held, {query: found for table in tables for query, found in table.items()})
    return held


def texts_twice(rows: list[Row]) -> bool:
    texts = [" ".join(plain(words_of(row.get(str(column(rows, QUERIES)))) or "").split()).casefold() for row in rows]
    return len(set(texts)) < len(texts)


def judged(path: Path, held: Held, asked: set[str]) -> dict[str, list[str]]:
    """query -> what is relevant, of BEIR's three columns with their header or TREC's four without."""
    lines = filled(lines_of(path.read_bytes()))
    beir = path.suffix == ".tsv"
    mark = "\t" if beir else None
    if not beir and (any(sign in lines[0] for sign in "\t,") or len(lines[0].split()) != 4 or "query" in lines[0]):
        raise Unclear("no TREC")
    if beir and [name.strip() for name in lines[0].strip().split("\t")] != ["query-id", "corpus-id", "score"]:
        raise Unclear("another header")
    held.bad[path.name] = 0
    out: dict[str, list[str]] = {}
    for line in lines[beir:]:
        cells = [cell.strip() for cell in line.strip().split(mark)]
        grade = number_of(cells[-1])
        if len(cells) == 3 + (not beir) and grade is None and re.search(r"\d|inf|nan", cells[-1].casefold()):
            raise Unclear("a grade that may be a number")
        query, passage = (plain(cells[0]), known(plain(cells[-2]), held.named)) if len(cells) > 2 else ("", "")
        if len(cells) != 3 + (not beir) or grade is None:
            held.bad[path.name] += 1
        elif grade > 0 and query in asked and passage in held.named:
            out.setdefault(query, []).append(passage)
        elif grade > 0:
            held.bad[path.name] += 1
    return out


# SQuAD


def squad(path: Path) -> tuple[Held, int]:
    """And how many questions are marked as impossible."""
    held, names, impossible = Held(bad={path.name: 0}), {}, 0
    asked = []
    for a, article in enumerate(json.loads(text_of(path))["data"]):
        for p, paragraph in enumerate(article["paragraphs"]):
            context = paragraph.get("context")
            text = plain(context) if isinstance(context, str) else ""
            if not text:
                held.bad[path.name] += 1
                continue
            if text not in names:
                names[text] = f"{a}-{p}"
                held.passages[f"{a}-{p}"] = text
            for question in paragraph["qas"]:
                words = question.get("question") if isinstance(question, dict) else None
                if not isinstance(words, str) or not isinstance(question.get("id"), str | int):
                    held.bad[path.name] += 1
                elif question.get("is_impossible") is True:
                    impossible += 1
                else:
                    asked.append((plain(str(question["id"])), plain(words), names[text]))
    for name, words, passage in asked:
        ask(held, path.name, name, words, [passage])
    return held, impossible


# texts to rank


def texts_of(path: Path) -> list[tuple[str, str]]:
    """Id and text; the number of its line or row is the id where the file gives none."""
    if path.suffix == ".txt":
        lines = enumerate(map(plain, lines_of(path.read_bytes())), start=1)
        return [(str(number), line) for number, line in lines if line]
    rows, bad = table_of(path)
    assert not bad, "a row of more cells than the header"
    texts = column(rows, TEXTS)
    ids = column(rows, tuple(name for name in IDS if name != texts))
    out = []
    for number, row in enumerate(rows, start=1):
        title, text = (plain(words_of(row.get(name)) or "") for name in ("title", str(texts)))
        out.append(((id_of(row[ids]) if ids else "") or str(number), titled(title, text)))
    return out
