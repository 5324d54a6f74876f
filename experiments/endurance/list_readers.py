"""The readers of what was made elsewhere, for the fuzzer: ranked lists, image features and pictures of items."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data.candidate_file import to_lists
from data.errors import UserError
from data.item_content import Content
from data.pictures import Unavailable, to_jpeg
from data.run_file import RunFile, read_run_file
from experiments.endurance.breaking import Files
from experiments.endurance.fuzzing import Reader
from experiments.endurance.naive_files import Unclear
from experiments.endurance.naive_lists import (
    Ranked,
    features_of,
    of_csv,
    of_parquet,
    of_trec,
    pixels_of,
    same_lists,
)  # fmt: skip
from experiments.endurance.read_datasets import BOM, Fixed, check_dataset, in_windows

SIDE = 10_000

# Ranked lists

LISTS = [("u", ["a", "b", "c"], [0.5, 0.25, -1e-3]), ("v", ["c", "a"], [2.0, 1.0])]
PAIRS = [(user, item, score) for user, items, scores in LISTS for item, score in zip(items, scores, strict=True)]


def check_run_file(path: Path) -> dict[str, RunFile]:
    found = read_run_file(path, "candidates.path")
    dataset = Fixed(name="fixed").load(path.parent)
    for phase, run in found.items():
        assert len(run.row) == len(run.item) == len(run.scores) > 0
        assert len(set(run.requests)) == len(run.requests) and len(set(run.items)) == len(run.items)
        assert all(isinstance(name, str) and name for name in (*run.requests, *run.items)), "an id is no text"
        assert (np.diff(run.row) >= 0).all() and set(run.row) == set(range(len(run.requests)))
        assert ((run.item >= 0) & (run.item < len(run.items))).all(), "an item is out of range"
        assert np.isfinite(run.scores).all(), "a score is not finite"
        assert len({*zip(run.row.tolist(), run.item.tolist(), strict=True)}) == len(run.row), "an item stands twice"
        (users,) = np.nonzero(np.isin(dataset.user_id, run.requests))
        items, scores = to_lists(run, dataset, users, phase, "error", own=False) if len(users) else (None, None)
        if items is not None and scores is not None:
            assert items.max() < len(dataset.catalog) and (np.isfinite(scores) == (items >= 0)).all()
    return found


def parquet(table: pa.Table, **how: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **how)
    return out.getvalue()


def run_parquet() -> list[Files]:
    users, items, scores = zip(*LISTS, strict=True)
    lists = pa.table({"request": users, "candidates": items, "first_stage_scores": scores, "phase": ["test", "test"]})
    request, candidate, score = zip(*PAIRS, strict=True)
    pairs = pa.table({"request": request, "candidate": candidate, "score": score, "rank": [1, 2, 3, 1, 2]})
    numbers = pa.table({"user_id": [7, 7, 8], "item_id": [1, 2, 3]})
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    return [
        {"lists.parquet": content}
        for content in (parquet(lists), parquet(lists, **plain), parquet(pairs, **plain), parquet(numbers))
    ]


def compared(path: Path, naive: Callable[[Path], Ranked]) -> bool:
    found = check_run_file(path)
    try:
        same_lists(found, naive(path))
    except Unclear:
        return False
    return True


def read_parquet(folder: Path, skip: bool) -> bool:
    return compared(folder / "lists.parquet", of_parquet)


def run_csv() -> list[Files]:
    pairs = "user_id,item_id,score\n" + "".join(f"{user},{item},{score}\n" for user, item, score in PAIRS)
    phases = "phase,user_id,item_id\ntest,u,a\nvalidation,u,b\ntest,v,c\n"
    lines = "".join(f"{user},{','.join(items)}\n" for user, items, _ in LISTS)
    forms = [pairs, phases, lines, f'user_id,item_ids\nu,"{" ".join(LISTS[0][1])}"\nü,c\n', f"user_id,a\n{lines}"]
    plain = [{"lists.csv": form.encode()} for form in forms]
    return [*plain, *(in_windows(files) for files in plain[:3])]


def read_csv(folder: Path, skip: bool) -> bool:
    return compared(folder / "lists.csv", of_csv)


def run_trec() -> list[Files]:
    lines = "".join(f"{user} Q0 {item} {rank} {score} ü\n" for rank, (user, item, score) in enumerate(PAIRS, start=1))
    plain = {"lists.trec": lines.encode()}
    return [plain, in_windows(plain), {"lists.trec": lines.replace(" ", "\t").encode()}]


def read_trec(folder: Path, skip: bool) -> bool:
    return compared(folder / "lists.trec", of_trec)


def structured_csv() -> Any:
    from hypothesis import strategies as st

    cell = st.sampled_from(["u", "v", "a", "b", "0.5", "1e39", '"', "test", ""]) | st.text(max_size=4)
    header = st.permutations(["user_id", "item_id", "score", "phase"]).map(lambda names: ",".join(names[:3]))
    rows = st.lists(st.lists(cell, min_size=1, max_size=4).map(",".join), max_size=5)
    return st.builds(lambda first, more: {"lists.csv": "\n".join([first, *more]).encode()}, header | st.just(""), rows)


def structured_parquet() -> Any:
    from hypothesis import strategies as st

    number = st.floats() | st.integers(-(2**40), 2**40).map(float)
    score = st.sampled_from([pa.float32(), pa.float64()])
    text, rows = st.text(max_size=3) | st.none(), st.integers(0, 4)
    kinds = [
        st.tuples(st.just(pa.string()), text),
        st.tuples(st.just(pa.list_(pa.string())), st.lists(text, max_size=3)),
        st.tuples(score, number | st.none()),
        st.tuples(score.map(pa.list_), st.lists(number, max_size=3)),
        st.tuples(st.just(pa.int64()), st.integers(-(2**63), 2**63 - 1) | st.none()),
        st.tuples(st.just(pa.binary()), st.binary(max_size=3)),
        st.tuples(st.just(pa.timestamp("s")), st.integers(0, 2**40)),
    ]
    names = ["request", "candidates", "first_stage_scores", "candidate", "score", "phase", "rank"]

    @st.composite
    def table(draw: Any) -> Files:
        length, columns = draw(rows), {}
        for name in [*draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True)), "request"]:
            kind, value = draw(st.one_of(kinds))
            value = value if isinstance(value, st.SearchStrategy) else st.just(value)
            columns[name] = pa.array([draw(value) for _ in range(length)], kind)
        return {"lists.parquet": parquet(pa.table(columns))}

    return table()


def structured_trec() -> Any:
    from hypothesis import strategies as st

    word = st.sampled_from(["u", "a", "0", "-1.5", "nan"]) | st.text(max_size=4)
    line = st.lists(word, min_size=5, max_size=7).map(" ".join)
    return st.lists(line, max_size=5).map(lambda lines: {"lists.trec": "\n".join(lines).encode()})


# Image features


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(array), allow_pickle=False)
    return out.getvalue()


def features() -> list[Files]:
    out = io.BytesIO()
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez(out, item_id=np.array(["a", "b", "x"]), features=rows)
    beside = json.dumps({"name": "CLIP"}).encode()
    folder = {f"features/{name}.npy": npy(row) for name, row in zip("abx", rows, strict=True)}
    return [
        {"features.npz": out.getvalue(), "features.json": beside},
        {"features.npy": npy(rows.astype(np.float16)), "features.items.txt": "a\nb\nü\n".encode()},
        {"features.npy": npy(rows.astype(">f8")), "features.items.txt": BOM + b"a\r\nb\r\nc\r\n"},
        folder,
    ]


def read_features(folder: Path, skip: bool) -> bool:
    (path,) = [path for path in folder.iterdir() if path.suffix in (".npz", ".npy", "")]
    dataset = Fixed(name="fixed", image_features=str(path)).load(folder)
    check_dataset(dataset)
    found = dataset.catalog.image_features
    assert found is not None and found.dtype == np.float32 and len(found) == 3
    lacking = np.isnan(found)
    assert (lacking.all(axis=1) == lacking.any(axis=1)).all() and not lacking.all() and not np.isinf(found).any()
    items = dataset.catalog.id.tolist()
    try:
        naive = features_of(path, items)
    except Unclear:
        return False
    have = {item: row.tolist() for item, row in zip(items, found, strict=True) if not np.isnan(row).any()}
    assert have == {item: row for item, row in naive.items() if item in items}, "a feature is not the file's"
    return True


# Pictures


def pictures() -> list[Files]:
    gradient = np.linspace(0, 255, 24 * 16 * 3).reshape(16, 24, 3).astype(np.uint8)
    picture = Image.fromarray(gradient)
    made = []
    modes = {"JPEG": "RGB", "PNG": "RGBA", "GIF": "P", "WEBP": "RGB"}
    for name, mode in [*modes.items(), ("PNG", "I;16"), ("JPEG", "CMYK"), ("PNG", "1"), ("PNG", "P")]:
        out = io.BytesIO()
        (picture.convert("L") if mode == "I;16" else picture).convert(mode).save(out, name)
        made.append({"a.png": out.getvalue()})
    return made


def read_picture(folder: Path, skip: bool) -> bool:
    path = folder / "a.png"
    try:
        picture = Content("", str(path)).open(SIDE)
        small = to_jpeg(path.read_bytes(), 8)
    except Unavailable as reason:
        raise UserError(f"{path} counts as a picture that cannot be read: {reason}") from None
    assert picture is not None and picture.mode == "RGB" and max(picture.size) <= SIDE
    assert np.asarray(picture).shape == (picture.height, picture.width, 3)
    with Image.open(io.BytesIO(small)) as again:
        assert again.format == "JPEG" and max(again.size) <= 8
    try:
        expected = pixels_of(path.read_bytes())
    except Unclear:
        return False
    assert picture.size == expected.shape[1::-1], "the picture has another size"
    assert np.abs(np.asarray(picture) - expected).max() <= 1, "a pixel is not the file's"
    return True


READERS = [
    Reader("lists as parquet", run_parquet, read_parquet, structured_parquet),
    Reader("lists as CSV", run_csv, read_csv, structured_csv),
    Reader("lists as TREC run", run_trec, read_trec, structured_trec),
    Reader("image features", features, read_features),
    Reader("pictures", pictures, read_picture),
]
