"""Item ids beside the weights of models that know items by number, so that they can score another catalogue."""

import json
import logging
from pathlib import Path

import numpy as np

from data.dataset import Catalog
from data.errors import UserError
from data.files import write_json

log = logging.getLogger(__name__)


def save_item_ids(folder: Path, ids: np.ndarray) -> None:
    write_json(folder / "item_ids.json", [str(item) for item in ids])


def load_item_ids(folder: Path) -> list[str]:
    return json.loads((folder / "item_ids.json").read_text(encoding="utf-8"))


def rows_in(saved: list[str], catalog: Catalog) -> np.ndarray:
    """[I] the saved model's row of each item of the catalogue, -1 where the model never knew it."""
    row_of_id = {item: row for row, item in enumerate(saved)}
    rows = np.array([row_of_id.get(str(item), -1) for item in catalog.id], dtype=np.int64)
    known = int((rows >= 0).sum())
    if known == 0:
        raise UserError(f"the model knows none of the {len(rows):,} items; it was trained on another catalogue")
    if known < len(rows):
        log.warning("the model knows %s of %s items; the others are ranked last", f"{known:,}", f"{len(rows):,}")
    return rows
