"""MovieLens-100K from GroupLens' raw files: 100,000 ratings of 943 users for 1,682 films.

python train.py dataset=ml_100k                           # downloads ml-100k.zip once
python train.py dataset=ml_100k dataset.path=/my/ml-100k  # a folder with u.data and u.item
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.download import download
from data.errors import UserError
from data.files import existing_folder, file_sha256, read_json, write_atomically, write_json
from data.progress import download_bar
from data.rows import read_rows
from data.sources.source import Raw, Source

GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western"
).split()
FILES = ("u.data", "u.item")
LARGEST = 64 << 20  # bytes of a member; the larger one has 2 million
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, OSError, RuntimeError)  # as zipfile ends


@dataclass
class MovieLens100K(Source):
    url: str = (
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
        "#sha256=50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
    )

    def read(self, data_dir: Path) -> Raw:
        folder = (
            existing_folder(Path(self.path), "dataset.path") if self.path else self._download(data_dir / "ml-100k")
        )
        for name in FILES:
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder} has no file {name}; dataset.path must hold MovieLens' raw {' and '.join(FILES)}"
                )
        notes: list[str] = []
        events = read_rows(
            folder / "u.data",
            sep="\t",
            columns={"user": "str", "item": "str", "rating": "float64", "timestamp": "int64"},
            on_bad_row=self.on_bad_row,
            notes=notes,
        )
        film = {"item": "str", "title": "str", "date": "any", "video": "any", "url": "any"}
        columns = film | dict.fromkeys(GENRES, "int64")
        items = read_rows(folder / "u.item", "|", columns, self.on_bad_row, notes, encoding="latin-1").set_index(
            "item"
        )
        if items.empty:
            raise UserError(f"{folder / 'u.item'} has no film; is it MovieLens' raw file?")
        flags = items[GENRES].to_numpy() > 0
        items["categories"] = [tuple(g for g, on in zip(GENRES, row, strict=True) if on) for row in flags]
        return Raw(
            interactions=events,
            items=pd.DataFrame(items[["title", "categories"]]),
            source="https://grouplens.org/datasets/movielens/100k/",
            licence="GroupLens research licence: no redistribution, no commercial use",
            files={name: file_sha256(folder / name) for name in FILES},
            notes=notes,
        )

    def _download(self, folder: Path) -> Path:
        """Two known members of the archive only, so no path in it is ever followed; their hashes are checked."""
        recorded = folder / "sha256.json"
        if not recorded.exists():
            archive = download(self.url, folder / "ml-100k.zip", download_bar)
            try:
                with zipfile.ZipFile(archive) as content:
                    members = {name: member(content, f"ml-100k/{name}") for name in FILES}
            except UNREADABLE as error:
                raise UserError(f"{archive} is not MovieLens' archive ({error}); delete it and run again") from None
            for name, text in members.items():
                write_atomically(folder / name, text)
            write_json(recorded, {name: file_sha256(folder / name) for name in FILES})
        for name, wanted in read_json(recorded).items():
            if not (folder / name).exists() or file_sha256(folder / name) != wanted:
                raise UserError(
                    f"{folder / name} has changed since it was downloaded; delete {folder} to fetch it again"
                )
        return folder


def member(archive: zipfile.ZipFile, name: str) -> bytes:
    """No more of it than it may have, whatever size the archive says: a few bytes unpack to gigabytes of zeros."""
    with archive.open(name) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{name} unpacks to over {LARGEST:,} bytes")
    return content
