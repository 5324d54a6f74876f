"""Passages of any origin: a file of passages, a file of queries, and what is relevant, in a column or in qrels.

python train.py protocol=query_folds dataset=passages dataset.corpus=corpus.csv dataset.queries=queries.xlsx
python train.py protocol=query_folds dataset=passages dataset.path=/my/data dataset.qrels=judged.trec
python train.py protocol=query_files dataset=passages dataset.path=/my/beir/scifact   # corpus, queries, qrels/*.tsv
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.files import existing_folder
from data.sources.passage_tables import QueryColumns, one_file, read_passages, read_queries
from data.sources.passages import Passage, PassageSource, Query, RawPassages, cleaned, hashes
from data.sources.qrels import read_qrels
from data.tables import ENDINGS, BadRows

BEIR = {"train": "train", "dev": "validation", "validation": "validation", "test": "test"}  # file of qrels/ -> part


@dataclass
class PassageFiles(PassageSource):
    corpus: str | None = None  # None: the file `corpus` of the folder `path`, whatever its ending
    queries: str | None = None  # None: the file `queries` of the folder
    test_queries: str | None = None  # a second file of queries; then the first is for training
    qrels: str | None = None  # a file, or a folder with train, dev and test; None: the folder's `qrels`, or a column
    id_column: str | None = None  # of columns, None: the first known name, see data/sources/passage_tables.py
    text_column: str | None = None
    title_column: str | None = None
    query_id_column: str | None = None
    query_column: str | None = None
    relevant_column: str | None = None
    source: str = "passages of unknown origin"
    licence: str = "unknown"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.qrels is not None and self.relevant_column is not None:
            raise UserError("dataset.qrels= and dataset.relevant_column= exclude each other; give one of them")

    def read(self, data_dir: Path, bad: BadRows) -> RawPassages:
        folder = None if self.path is None else existing_folder(Path(self.path), "dataset.path")
        corpus = self._file(folder, self.corpus, "corpus")
        asked = [self._file(folder, self.queries, "queries")]
        if self.test_queries is not None:
            asked.append(one_file(folder, self.test_queries, "dataset.test_queries"))
        qrels = self._qrels(folder)
        if len(asked) > 1 and len(qrels) > 1:
            raise UserError(
                f"dataset.test_queries={self.test_queries} and the qrels {', '.join(p.name for p in qrels)} both say "
                "what is for the test; give dataset.qrels= one file"
            )
        columns = QueryColumns(self.query_id_column, self.query_column, self.relevant_column)
        queries: list[Query] = []
        for number, path in enumerate(asked):
            key = "dataset.test_queries" if number else "dataset.queries"
            part = ("train", "test")[number] if len(asked) > 1 else None
            numbered = f"{part}-" if part else ""
            queries += read_queries(path, key, bad, columns, part, numbered, judged=bool(qrels))
        passages = read_passages(corpus, "dataset.corpus", bad, self.id_column, self.text_column, self.title_column)
        notes: list[str] = []
        return RawPassages(
            passages=passages,
            queries=judged(queries, qrels, passages, bad, notes) if qrels else queries,
            source=self.source,
            licence=self.licence,
            files=hashes(folder, [corpus, *asked, *qrels]),
            notes=notes,
        )

    def _file(self, folder: Path | None, given: str | None, name: str) -> Path:
        if given is not None:
            return one_file(folder, given, f"dataset.{name}")
        if folder is None:
            raise UserError(
                f"dataset={self.name} needs dataset.path, a folder with corpus.jsonl, queries.jsonl (or .csv, "
                ".tsv, .xlsx, .parquet) and qrels/test.tsv, or the files themselves: dataset.corpus=, "
                "dataset.queries= and, unless the queries have a column of relevant passages, dataset.qrels="
            )
        found = [folder / f"{name}{ending}" for ending in ENDINGS if (folder / f"{name}{ending}").is_file()]
        if len(found) != 1:
            which = ", ".join(path.name for path in found) or f"no {name} with one of {', '.join(ENDINGS)}"
            raise UserError(f"{folder} has {which}; say which file is meant with dataset.{name}=")
        return found[0]

    def _qrels(self, folder: Path | None) -> dict[Path, str | None]:
        """File -> the part that it stands for; none: the queries have a column."""
        if self.qrels is not None:
            path = Path(self.qrels) if folder is None else folder / self.qrels
            if not path.is_dir():
                return {one_file(folder, self.qrels, "dataset.qrels"): None}
        elif folder is None or self.relevant_column is not None or not (folder / "qrels").is_dir():
            return {}
        else:
            path = folder / "qrels"
        parts: dict[Path, str | None] = {
            file: BEIR[file.stem] for file in sorted(path.iterdir()) if file.is_file() and file.stem in BEIR
        }
        if not parts:
            raise UserError(f"{path} has no file of qrels; give it train.tsv, dev.tsv or test.tsv, or dataset.qrels=")
        return parts


def judged(
    queries: list[Query], qrels: dict[Path, str | None], passages: list[Passage], bad: BadRows, notes: list[str]
) -> list[Query]:
    """Each query with what the qrels say, once a file that judges it; as it is where none does."""
    ids = {cleaned(row.id) for row in queries}
    tables = [(read_qrels(path, passages, ids, bad, notes), part) for path, part in qrels.items()]
    rows = []
    for row in queries:
        name = cleaned(row.id)
        found = [row._replace(relevant=t[name], part=part or row.part) for t, part in tables if name in t]
        rows += found or [row]
    return rows
