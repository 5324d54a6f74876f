"""ProPTIT: passages about a Vietnamese student club in a CSV, questions in a spreadsheet that lists what answers them.

python train.py protocol=query_folds dataset=proptit dataset.path=/my/proptit
python train.py protocol=query_files dataset=proptit dataset.path=/my/proptit dataset.test_queries=test.xlsx

Nothing but the names of files and columns belongs to ProPTIT: any two such tables work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.sources.passage_tables import QueryColumns, one_file, read_passages, read_queries
from data.sources.passages import PassageSource, RawPassages, folder_of, hashes
from data.tables import BadRows


@dataclass
class Proptit(PassageSource):
    corpus: str = "CLB_PROPTIT.csv"
    queries: str = "train_data_proptit.xlsx"
    test_queries: str | None = None  # a second file of queries; then the first is for training
    id_column: str = "STT"
    text_column: str = "Văn bản"
    query_column: str = "Query"
    relevant_column: str = "Ground truth document"

    def read(self, data_dir: Path, bad: BadRows) -> RawPassages:
        folder = folder_of(self, f"{self.corpus} and {self.queries}")
        corpus = one_file(folder, self.corpus, "dataset.corpus")
        asked = [one_file(folder, self.queries, "dataset.queries")]
        parts: list[str | None] = [None]
        if self.test_queries is not None:
            asked.append(one_file(folder, self.test_queries, "dataset.test_queries"))
            parts = ["train", "test"]
        columns = QueryColumns(None, self.query_column, self.relevant_column)
        queries = []
        for path, part in zip(asked, parts, strict=True):
            key = "dataset.test_queries" if part == "test" else "dataset.queries"
            numbered = f"{part}-" if part else ""
            queries += read_queries(path, key, bad, columns, part=part, numbered=numbered)
        return RawPassages(
            passages=read_passages(corpus, "dataset.corpus", bad, self.id_column, self.text_column),
            queries=queries,
            source="ProPTIT, the programming club of PTIT, Hanoi",
            licence="unknown: data of a student club; not redistributable",
            files=hashes(folder, [corpus, *asked]),
        )
