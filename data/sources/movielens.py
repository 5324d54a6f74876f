"""MovieLens-100K from GroupLens' raw files: 100,000 ratings of 943 users for 1,682 films.

python train.py dataset=ml_100k                           # downloads ml-100k.zip once
python train.py dataset=ml_100k dataset.path=/my/ml-100k  # a folder with u.data and u.item
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.errors import UserError
from data.files import download, existing, file_sha256, read_rows, write_atomically
from data.progress import download_bar
from data.sources.source import Raw, Source

GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western"
).split()
FILES = ("u.data", "u.item")


@dataclass
class MovieLens100K(Source):
    url: str = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"

    def read(self, data_dir: Path) -> Raw:
        folder = existing(Path(self.path), "dataset.path") if self.path else self._download(data_dir / "ml-100k")
        for name in FILES:
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder} has no file {name}; dataset.path must hold MovieLens' raw {' and '.join(FILES)}"
                )
        removed: list[str] = []
        events = read_rows(
            folder / "u.data",
            sep="\t",
            columns={"user": "str", "item": "str", "rating": "float64", "timestamp": "int64"},
            on_bad_row=self.on_bad_row,
            removed=removed,
        )
        film = {"item": "str", "title": "str", "date": "any", "video": "any", "url": "any"}
        columns = film | dict.fromkeys(GENRES, "int64")
        items = read_rows(folder / "u.item", "|", columns, self.on_bad_row, removed, encoding="latin-1").set_index(
            "item"
        )
        flags = items[GENRES].to_numpy() > 0
        items["categories"] = [tuple(g for g, on in zip(GENRES, row, strict=True) if on) for row in flags]
        return Raw(
            interactions=events,
            items=pd.DataFrame(items[["title", "categories"]]),
            source="https://grouplens.org/datasets/movielens/100k/",
            licence="GroupLens research licence: no redistribution, no commercial use",
            files={name: file_sha256(folder / name) for name in FILES},
            removed=removed,
        )

    def _download(self, folder: Path) -> Path:
        if not all((folder / name).exists() for name in FILES):
            archive = download(self.url, folder / "ml-100k.zip", download_bar)
            try:
                with zipfile.ZipFile(archive) as content:
                    for name in FILES:  # two known members only, so no path of the archive is ever followed
                        write_atomically(folder / name, content.read(f"ml-100k/{name}"))
            except (zipfile.BadZipFile, KeyError) as error:
                raise UserError(f"{archive} is not MovieLens' archive ({error}); delete it and run again") from None
        return folder
