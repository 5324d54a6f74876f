"""Ranks the texts of a file for one query: python -m experiments.rank run=latest query=... passages=corpus.csv

`run` is whatever `rerankers.load_reranker` takes, an MLflow run id, or latest = the newest finished run of a reranker
that reads text. The query may hold any sign.
"""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig

from data.errors import UserError
from experiments.launch import job, launch

if TYPE_CHECKING:
    from data.text_lists import Text
    from rerankers import Ranking

VERBATIM = ("query", "passages", "column", "out", "run")  # keys whose values Hydra's grammar must not read
WIDEST, SHORTEST = 24, 20  # letters of an id, and of a passage
ENDINGS = (".csv", ".jsonl")


def rank(cfg: DictConfig) -> "Ranking":
    from data.errors import in_range
    from data.text_lists import read_texts
    from rerankers import load_reranker

    query, passages, root = str(cfg.query), Path(cfg.passages).expanduser(), Path(cfg.paths.root).expanduser()
    in_range("top_k", cfg.top_k, 1)
    out = None if cfg.out is None else Path(cfg.out).expanduser()
    if out is not None and out.suffix.lower() not in ENDINGS:
        raise UserError(f"out={out} has an unknown ending; use {' or '.join(ENDINGS)}")
    texts = read_texts(passages, "passages", cfg.column)
    reranker = load_reranker(found(str(cfg.run), root), root)
    ranking = reranker.rank(query, [text.text for text in texts], top_k=cfg.top_k, normalize=cfg.normalize)
    show(query, ranking, texts, f"the best {len(ranking)} of {len(texts):,}, by {Path(reranker.source).name}")
    if out is not None:
        write(out, ranking, texts)
        print(f"written to {out}")
    return ranking


def found(run: str, root: Path) -> str:
    """The folder of `latest` and of an MLflow run id; else what was given."""
    from experiments.find_run import find_run, finished, folds_of
    from rerankers.loading import config_of, own_class, reads_text

    if re.fullmatch("[0-9a-f]{32}", run):
        return str(find_run(root, run))
    if run != "latest":
        return run
    for folder in reversed(finished(root)):
        if not folds_of(folder) and reads_text(own_class(config_of(folder)["reranker"]["_target_"], folder)):
            return str(folder)
    raise UserError(
        f"run=latest: {root / 'runs'} has no finished run of a reranker that reads text; train one with python "
        "train.py reranker=viranker, or give run= a folder of weights or a name of the hub"
    )


def show(query: str, ranking: "Ranking", texts: "list[Text]", title: str) -> None:
    """A line a passage, as much of it as the terminal is wide."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text as Words

    chosen = [texts[place] for place in ranking.order]
    columns = {
        "rank": [str(number) for number in range(1, len(chosen) + 1)],
        "score": [f"{score:.4f}" for score in ranking.scores],
        "id": [text.id[:WIDEST] for text in chosen],
        "passage": [" ".join(text.text.split()) for text in chosen],
    }
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False, markup=False, emoji=False)
    others = sum(max(map(cell_len, [name, *cells])) + 3 for name, cells in columns.items() if name != "passage")
    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="right" if name in ("rank", "score") else "left", no_wrap=True)
    for *cells, words in zip(*columns.values(), strict=True):
        shortened = Words(words)
        shortened.truncate(max(SHORTEST, console.width - others - 4), overflow="ellipsis")
        table.add_row(*cells, shortened)
    console.print(f"Query: {query}")
    console.print(table)


def write(out: Path, ranking: "Ranking", texts: "list[Text]") -> None:
    import pandas as pd

    from data.files import write_atomically

    chosen = [texts[place] for place in ranking.order]
    table = pd.DataFrame(
        {
            "rank": range(1, len(chosen) + 1),
            "score": ranking.scores,
            "id": [text.id for text in chosen],
            "passage": [text.text for text in chosen],
        }
    )
    if out.suffix.lower() == ".csv":
        write_atomically(out, table.to_csv(index=False))
    else:
        write_atomically(out, table.to_json(orient="records", lines=True, force_ascii=False))


def verbatim(word: str) -> str:
    """`query=a, b = [c]?` with its value in quotes, so that Hydra takes it as it stands."""
    key, equals, value = word.partition("=")
    if key not in VERBATIM or not equals or value == "null":
        return word
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" and value[0] not in value[1:-1]:
        value = value[1:-1]  # quoted for Hydra already
    return f"{key}={QuotedString(value.replace('${', chr(92) + '${'), Quote.single).with_quotes()}"


def main() -> None:
    sys.argv[1:] = [verbatim(word) for word in sys.argv[1:]]
    hydra.main(version_base="1.3", config_path="../conf", config_name="rank")(job(rank))()


if __name__ == "__main__":
    launch(main)
