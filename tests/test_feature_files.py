"""Image features made elsewhere: three forms, joined by item id, their mistakes told."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.dataset import Dataset
from data.errors import UserError
from data.feature_files import read_features
from data.files import file_sha256
from data.sources.demo import Demo
from rerankers.base import missing
from rerankers.baselines import Random

FEATURES = np.arange(21, dtype=np.float64).reshape(7, 3)


def load(path: Path) -> Dataset:
    return Demo(name="demo", n_users=120, n_items=60, mean_length=12, image_features=str(path)).load(Path())


def written(folder: Path, form: str, ids: list[str], features: np.ndarray) -> Path:
    if form == "npz":
        np.savez(folder / "f.npz", item_id=np.array(ids), features=features)
    elif form == "npy":
        np.save(folder / "f.npy", features)
        (folder / "f.items.txt").write_text("\n".join(ids) + "\n")
    else:
        (folder / "f").mkdir()
        for item, vector in zip(ids, features, strict=True):
            np.save(folder / "f" / f"{item}.npy", vector)
    return folder / ("f" if form == "folder" else f"f.{form}")


@pytest.mark.parametrize("form", ["npz", "npy", "folder"])
def test_features_are_joined_by_id_and_change_the_hash(form: str, demo: Dataset, tmp_path: Path) -> None:
    rows = [50, 3, 17, 0, 41, 9]
    ids = [*demo.catalog.id[rows], "unknown"]
    path = written(tmp_path, form, ids, FEATURES)
    dataset = load(path)
    features = dataset.catalog.image_features
    assert features is not None and features.shape == (60, 3) and features.dtype == np.float32
    assert np.array_equal(features[rows], FEATURES[:6])
    assert np.isnan(np.delete(features, rows, axis=0)).all()
    assert "6 of 60 items have image features" in dataset.provenance.notes
    assert dataset.sha256 != demo.sha256 and dataset.interactions_sha256 == demo.interactions_sha256
    files = dataset.provenance.files
    if form == "folder":
        assert list(files) == [f"{tmp_path.name}/f"]
        np.save(path / f"{ids[2]}.npy", FEATURES[2] + 1)
    else:
        names = ["f.npz"] if form == "npz" else ["f.npy", "f.items.txt"]
        assert files == {f"{tmp_path.name}/{name}": file_sha256(tmp_path / name) for name in names}
        written(tmp_path, form, ids[::-1], FEATURES)
    other = load(path)
    assert other.sha256 != dataset.sha256 and other.provenance.files != files


def test_features_are_images(demo: Dataset, tmp_path: Path) -> None:
    class Sees(Random):
        requires = ("images",)

    bare = replace(demo, catalog=replace(demo.catalog, image=np.array([None] * 60)))
    assert missing(Sees(name="sees"), bare) == "images"
    featured = replace(bare, catalog=replace(bare.catalog, image_features=np.zeros((60, 3), np.float32)))
    assert missing(Sees(name="sees"), featured) is None


def test_a_batch_of_one_is_a_vector(demo: Dataset, tmp_path: Path) -> None:
    features = load(written(tmp_path, "folder", list(demo.catalog.id[:7]), FEATURES[:, None])).catalog.image_features
    assert features is not None and np.array_equal(features[:7], FEATURES)


def test_a_folder_of_many_files_is_read_in_seconds(tmp_path: Path) -> None:
    ids = np.array([f"A{n}" for n in range(12_000)], dtype=object)
    (tmp_path / "f").mkdir()
    np.save(tmp_path / "f/A0.npy", np.ones(512, dtype=np.float32))
    content = (tmp_path / "f/A0.npy").read_bytes()
    for item in ids[1:]:
        (tmp_path / "f" / f"{item}.npy").write_bytes(content)
    began = time.process_time()
    features, _ = read_features(ids, tmp_path / "f", [])
    assert (features == 1).all() and time.process_time() - began < 10


BROKEN: list[tuple[dict[str, Any], str]] = [
    (
        {"f.npz": {"item_id": ["{0}", "{1}"], "features": np.array([[1, 2], [3, np.inf]])}},
        "of item {1} are not all fin",
    ),
    ({"f.npz": {"item_id": ["{0}"], "features": np.array([[1e300]])}}, "features of item {0} are not all finite"),
    ({"f.npz": {"item_id": ["{0}", "{0}"], "features": FEATURES[:2]}}, "has item {0} twice"),
    ({"f.npz": {"item_id": ["{0}"], "features": FEATURES}}, "has 7 rows of features and 1 item ids"),
    ({"f.npz": {"item_id": ["{0}"] * 7, "features": FEATURES[0]}}, r"one row an item, \[n, F\], not of shape \(3,\)"),
    ({"f.npz": {"item_id": ["x", "y"], "features": FEATURES[:2]}}, "none of the 60 items; its first is of x, the"),
    ({"f.npz": {"item_id": np.ones(7), "features": FEATURES}}, "item_id must be a list of texts, not float64"),
    ({"f.npz": {"item_id": ["{0}"], "features": np.array([None])}}, "Object arrays cannot be loaded"),
    ({"f.npz": {"item_id": np.array(["a", None]), "features": FEATURES}}, "Object arrays cannot be loaded"),
    ({"f.npz": {"item_id": ["{0}"], "features": np.array([["a"]])}}, "its features are <U1"),
    ({"f.npz": {"item_id": ["{0}"]}}, "it must hold the arrays item_id and features"),
    ({"f.npz": b"PK\x03\x04"}, "could not be read"),
    ({"f.npz": b""}, "could not be read"),
    ({"f.npy": FEATURES}, "needs f.items.txt beside it"),
    ({"f.npy": b"\x93NUMPY\x01\x00v\x00{'descr'", "f.items.txt": b"{0}"}, "f.npy could not be read"),
    ({"f.npy": FEATURES, "f.items.txt": b"{0}\n{1}\n"}, "has 7 rows of features and 2 item ids"),
    ({"f.csv": b"1,2"}, "f.csv is not allowed; give a .npz, a .npy or a folder"),
    ({}, "dataset.image_features=.*f does not exist"),
    ({"f/x.npy": FEATURES[0]}, "has no <item id>.npy of any of the 60 items"),
    ({"f/{0}.npy": FEATURES}, r"features of item {0} must be a vector, not of shape \(7, 3\)"),
    ({"f/{0}.npy": FEATURES[0], "f/{1}.npy": FEATURES[0, :2]}, "item .* has . features, but item .* has ."),
    ({"f/{0}.npy": np.array([0, np.nan])}, "f: the features of item {0} are not all finite"),
    ({"f/{0}.npy": np.array([None])}, "{0}.npy could not be read .Object arrays"),
    ({"f/{0}.npy": FEATURES[0], "f/{1}.npy": b"\x93NUMPY"}, "{1}.npy could not be read"),
]


@pytest.mark.parametrize(("files", "says"), BROKEN, ids=range(len(BROKEN)))
def test_mistakes_are_one_sentence(files: dict[str, Any], says: str, demo: Dataset, tmp_path: Path) -> None:
    known = demo.catalog.id[:2]
    for name, content in files.items():
        path = tmp_path / name.format(*known)
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, dict):
            ids = content["item_id"]
            named = np.array([item.format(*known) for item in ids]) if isinstance(ids, list) else ids
            np.savez(path, **(content | {"item_id": named}))
        elif isinstance(content, bytes):
            path.write_bytes(content.replace(b"{0}", known[0].encode()).replace(b"{1}", known[1].encode()))
        else:
            np.save(path, content)
    path = tmp_path / (next(iter(files), "f").split("/")[0])
    with pytest.raises(UserError, match=says.format(*known)) as caught:
        load(path)
    assert "\n" not in str(caught.value)
