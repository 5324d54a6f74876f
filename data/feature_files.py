"""Image features made elsewhere, joined by item id: dataset.image_features=<one of these>

features.npz            arrays item_id [n] and features [n, F], as experiments.enrich writes them
features.npy            [n, F], and beside it features.items.txt: whose rows they are, an item id a line
folder/<item id>.npy    a vector [F] each, as VIP5 publishes them

An item without features has a row of NaN. Features of items that the dataset does not have are ignored.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from data.errors import UserError, in_one_line
from data.files import existing_file, file_sha256, read_json, read_text

KEY = "dataset.image_features"


def read_features(item_id: np.ndarray, path: Path, notes: list[str]) -> tuple[np.ndarray, dict[str, str]]:
    """float32 [I, F] in the order of `item_id`, and the sha256 of each file; of a folder one for all that was read."""
    if path.is_dir():
        ids, rows, files = _of_folder(item_id, path)
    elif path.suffix in (".npz", ".npy") or not path.exists():
        ids, rows, files = _of_file(existing_file(path, KEY))
    else:
        raise UserError(f"{KEY}={path} is not allowed; give a .npz, a .npy or a folder of <item id>.npy")
    row_of_item = {str(item): row for row, item in enumerate(item_id)}
    place = np.array([row_of_item.get(item, -1) for item in ids], dtype=np.int64)
    known = place >= 0
    if not known.any():
        example = f"; its first is of {ids[0]}, the dataset has {item_id[0]}" if ids else ""
        raise UserError(f"{KEY}={path} has features of none of the {len(item_id):,} items{example}")
    features = np.full((len(item_id), rows.shape[1]), np.nan, dtype=np.float32)
    features[place[known]] = rows[known]
    notes.append(f"{known.sum():,} of {len(item_id):,} items have image features")
    return features, files


def encoder_of(path: Path) -> str:
    """The name that `experiments.enrich` wrote beside the features; "" of a file made elsewhere."""
    beside = path.with_suffix(".json")
    return str(read_json(beside).get("name", "")) if path.is_file() and beside.is_file() else ""


def _of_file(path: Path) -> tuple[list[str], np.ndarray, dict[str, str]]:
    read = [path]
    if path.suffix == ".npz":
        named, rows = _arrays(path.read_bytes(), path, "item_id", "features")
        if named.ndim != 1 or named.dtype.kind not in "Uiu":
            raise UserError(f"{path}: item_id must be a list of texts, not {named.dtype} of shape {named.shape}")
        if named.dtype.kind == "U" and (named.astype("=U").view(np.uint32) > sys.maxunicode).any():
            raise UserError(f"{path}: item_id holds characters that do not exist; write the file again")
        ids = [str(item) for item in named]
    else:
        read.append(path.with_suffix(".items.txt"))
        if not read[-1].is_file():
            raise UserError(f"{path} needs {read[-1].name} beside it, which gives the item id of each row, one a line")
        (rows,) = _arrays(path.read_bytes(), path)
        ids = [item.strip() for item in read_text(read[-1]).split("\n") if item.strip()]
    if rows.ndim != 2 or not rows.shape[1]:
        raise UserError(f"{path}: features must be one row an item, [n, F], not of shape {rows.shape}")
    if len(ids) != len(rows):
        raise UserError(f"{path} has {len(rows):,} rows of features and {len(ids):,} item ids; give one an item")
    if len(set(ids)) < len(ids):
        raise UserError(f"{path} has item {Counter(ids).most_common(1)[0][0]} twice; give the features of each once")
    return ids, _finite(rows, ids, path), {"/".join(file.parts[-2:]): file_sha256(file) for file in read}


def _of_folder(item_id: np.ndarray, folder: Path) -> tuple[list[str], np.ndarray, dict[str, str]]:
    there = {path.stem for path in folder.iterdir() if path.suffix == ".npy"}
    ids = sorted(there & set(map(str, item_id)))
    if not ids:
        raise UserError(f"{KEY}={folder} has no <item id>.npy of any of the {len(item_id):,} items")
    vectors: list[np.ndarray] = []
    digest = hashlib.sha256()
    for item in ids:
        path = folder / f"{item}.npy"
        content = path.read_bytes()
        digest.update(f"{item} {hashlib.sha256(content).hexdigest()}\n".encode())
        (vector,) = _arrays(content, path)
        if vector.ndim == 2 and len(vector) == 1:  # a batch of one
            vector = vector[0]
        if vector.ndim != 1 or not len(vector):
            raise UserError(f"{path}: the features of item {item} must be a vector, not of shape {vector.shape}")
        if vectors and len(vector) != len(vectors[0]):
            raise UserError(f"{path}: item {item} has {len(vector)} features, but item {ids[0]} has {len(vectors[0])}")
        vectors.append(vector)
    return ids, _finite(np.stack(vectors), ids, folder), {"/".join(folder.parts[-2:]): digest.hexdigest()}


def _arrays(content: bytes, path: Path, *names: str) -> list[np.ndarray]:
    """The named arrays of a .npz, or the one of a .npy; the last holds the features."""
    try:
        if names:
            check_sizes(content)
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        arrays = [loaded[name] for name in names] if names else [loaded]
        if unread := [name for name, array in zip(names, arrays, strict=False) if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{unread[0]} is no array")
        if arrays[-1].dtype.kind not in "fiu":
            raise ValueError(f"its features are {arrays[-1].dtype}")
    except Exception as error:  # numpy raises whatever a broken file leads it to
        said = in_one_line(error)[:100].rstrip(" .")
        wanted = f"the arrays {' and '.join(names)}" if names else "an array"
        raise UserError(f"{path} could not be read ({said}); it must hold {wanted}, features as numbers") from None
    return arrays


def check_sizes(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            if member.file_size > (64 << 20) + 200 * member.compress_size:
                raise ValueError(
                    f"{member.filename} unpacks to {member.file_size:,} bytes, over 64 MB and 200 times its size"
                )


def _finite(rows: np.ndarray, ids: list[str], path: Path) -> np.ndarray:
    with np.errstate(over="ignore"):
        numbers = rows.astype(np.float32)
    if not (good := np.isfinite(numbers).all(axis=1)).all():
        item = ids[int(np.argmin(good))]
        raise UserError(f"{path}: the features of item {item} are not all finite; mend them or leave the item out")
    return numbers
