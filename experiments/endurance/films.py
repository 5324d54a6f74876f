"""A made-up archive in the form of MovieLens-100K, and a picture of each film."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

USERS, FILMS, EVENTS = 120, 60, 1500
PADDING = 400_000  # bytes that are not read, so that the download takes several parts


def write_films(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """The archive, and the folder of pictures."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    pairs = rng.permutation(USERS * FILMS)[:EVENTS]
    rows = [(pair // FILMS, pair % FILMS, rng.integers(1, 6), 880_000_000 + n) for n, pair in enumerate(pairs)]
    data = "".join(f"{user + 1}\t{film + 1}\t{rating}\t{when}\n" for user, film, rating, when in rows)
    genres = rng.integers(0, 2, (FILMS, 19))
    films = [[film + 1, f"Film number {film} (1995)", "01-Jan-1995", "", "", *genres[film]] for film in range(FILMS)]
    items = "".join("|".join(map(str, film)) + "\n" for film in films)
    archive, pictures = folder / "ml-100k.zip", folder / "pictures"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("ml-100k/u.data", data)
        content.writestr("ml-100k/u.item", items)
        content.writestr("ml-100k/padding", rng.bytes(PADDING))
    pictures.mkdir()
    for film in range(FILMS):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(pictures / f"{film + 1}.jpg")
    return archive, pictures
