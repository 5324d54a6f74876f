"""Readers, filters, enrichment, numbering, splits and downloads."""

import http.server
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.dataset import Dataset, Ragged
from data.download import download
from data.errors import UserError
from data.files import file_sha256, read_text
from data.filters import drop_duplicates, drop_ratings_below, k_core
from data.rows import read_rows
from data.sources.demo import Demo
from data.sources.movielens import MovieLens100K
from data.splits import LeaveOneOut, Split, Temporal

ROW = "{}|Film {} (1995)|01-Jan-1995||http://x|" + "|".join(["0", "1"] + ["0"] * 17)


def movielens(folder: Path, ratings: list[str], items: int = 6) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "u.data").write_text("\n".join(ratings) + "\n")
    (folder / "u.item").write_bytes("\n".join(ROW.format(i, f"é{i}") for i in range(1, items + 1)).encode("latin-1"))
    return folder


def ratings(users: int = 4, items: int = 6) -> list[str]:
    return [f"{u}\t{i}\t{1 + (u + i) % 5}\t{1000 * i}" for u in range(1, users + 1) for i in range(1, items + 1)]


@given(st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=6), st.integers(1, 8))
def test_ragged(rows: list[list[int]], width: int) -> None:
    ragged = Ragged.from_rows(rows)
    assert [ragged.row(r).tolist() for r in range(len(ragged))] == rows
    assert [ragged.take(np.arange(len(rows))[::-1]).row(r).tolist() for r in range(len(rows))] == rows[::-1]
    for row, last in zip(rows, ragged.last(width), strict=True):
        assert last.tolist() == [-1] * (width - len(row)) + row[-width:]


def test_movielens_files(tmp_path: Path) -> None:
    dataset = MovieLens100K(name="m", path=str(movielens(tmp_path, ratings()))).load(tmp_path)
    assert len(dataset.interactions) == 24
    assert sorted(dataset.catalog.title) == [f"Film é{i} (1995)" for i in range(1, 7)]
    assert set(dataset.catalog.categories) == {("Action",)}
    assert set(dataset.provenance.files) == {"u.data", "u.item"}
    sequence = dataset.catalog.id[dataset.sequences.row(0)]
    assert sequence.tolist() == [str(i) for i in range(1, 7)]  # oldest first


def test_real_movielens(shared_data: Path) -> None:
    dataset = MovieLens100K(
        name="ml_100k",
        path=str(shared_data / "ml-100k"),
        item_fields=[
            {"path": str(shared_data / "ml-100k/items_extended.jsonl"), "fields": {"plot": "caption"}},
            {
                "path": str(shared_data / "ml-100k/movie_wiki.csv"),
                "on": "title",
                "key": "movie_title",
                "fields": {"wiki_summary": "semantic_summary"},
            },
        ],
        images=str(shared_data / "ml-100k/posters"),
    ).load(Path())
    assert (len(dataset.user_id), len(dataset.catalog), len(dataset.interactions)) == (943, 1682, 100_000)
    captions = sum(c != "" for c in dataset.catalog.caption)
    assert f"items_extended.jsonl gave caption to {captions:,} of 1,682 items" in dataset.provenance.notes
    assert 1_600 < captions < 1_682
    assert sum(c != "" for c in dataset.catalog.semantic_summary) > 1_400
    assert sum(image is not None for image in dataset.catalog.image) == 1_445
    toy_story = dataset.catalog.row_of_id["1"]
    assert dataset.catalog.title[toy_story] == "Toy Story (1995)"
    assert "cowboy" in dataset.catalog.caption[toy_story]
    assert any("415 of 943 users" in note for note in LeaveOneOut().split(dataset).notes)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("1\t2", "line 25: 2 fields where 4 are needed"),
        ("1\t2\tfive\t7", "line 25: rating is 'five', not a finite number"),
        ("1\t2\tnan\t7", "line 25: rating is 'nan', not a finite number"),
        ("1\t2\t5\t7.5", "line 25: timestamp is '7.5', not a whole number"),
        ("1\t\t5\t7", "line 25: item is '', not a text that is not empty"),
        ("1\t2\t5\t99999999999999999999", "line 25: timestamp is"),
    ],
)
def test_bad_row_is_named_by_its_line_or_counted(tmp_path: Path, bad: str, says: str) -> None:
    folder = movielens(tmp_path, [*ratings(), bad])
    with pytest.raises(UserError, match=says.replace("(", r"\(")):
        MovieLens100K(name="m", path=str(folder)).load(tmp_path)
    dataset = MovieLens100K(name="m", path=str(folder), on_bad_row="skip").load(tmp_path)
    assert len(dataset.interactions) == 24
    assert any("1 bad rows of u.data" in sentence for sentence in dataset.provenance.notes)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_give_rows_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "u.data"
    path.write_bytes(content)
    try:
        read_rows(path, "\t", {"user": "str", "item": "str", "rating": "float64", "timestamp": "int64"}, "skip", [])
    except UserError as error:
        assert str(path) in str(error)


def table(rows: list[tuple[str, str, int, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index(["user", "item", "timestamp", "rating"]))


def test_filters_keep_the_right_rows_and_say_what_went() -> None:
    notes: list[str] = []
    events = table([("a", "x", 9, 5), ("a", "x", 3, 1), ("a", "y", 4, 4), ("b", "x", 5, 5), ("b", "z", 5, 3)])
    unique = drop_duplicates(events, notes)
    assert unique["timestamp"].tolist() == [3, 4, 5, 5]  # the earliest of (a, x) stays
    assert drop_ratings_below(events, 4, notes)["rating"].tolist() == [5, 4, 5]
    assert notes == [
        "1 of 5 interactions that repeat a user-item pair were left out",
        "2 of 5 interactions rated below 4 were left out",
    ]


def test_k_core_repeats_until_nothing_changes() -> None:
    chain = table(
        [("a", "x", 0, 1), ("a", "y", 1, 1), ("b", "x", 2, 1), ("b", "y", 3, 1), ("c", "y", 4, 1), ("c", "z", 5, 1)]
    )
    notes: list[str] = []
    kept = k_core(chain, 2, notes)  # z falls, then c with one left
    assert set(kept["user"]) == {"a", "b"}
    assert notes == ["the 2-core left out 2 of 6 interactions"]


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no interactions left"):
        MovieLens100K(name="m", path=str(movielens(tmp_path, ratings())), k_core=99).load(tmp_path)


def test_item_fields_and_images(tmp_path: Path) -> None:
    folder = movielens(tmp_path / "m", ratings())
    extra = tmp_path / "extra.jsonl"
    extra.write_text("\n".join(json.dumps({"item_id": i, "plot": f"plot {i}"}) for i in (1, 2)))
    wiki = tmp_path / "wiki.csv"
    wiki.write_text('name,text\n"film  É3 (1995)",about three\n', encoding="utf-8")
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "4.JPG").touch()
    fields = [
        {"path": str(extra), "fields": {"plot": "caption"}},
        {"path": str(wiki), "on": "title", "key": "name", "fields": {"text": "semantic_summary"}},
    ]
    source = MovieLens100K(name="m", path=str(folder), item_fields=fields, images=str(tmp_path / "pics"))
    dataset = source.load(tmp_path)
    assert dataset.sha256
    rows = dataset.catalog.row_of_id
    assert dataset.catalog.caption[rows["2"]] == "plot 2"
    assert dataset.catalog.semantic_summary[rows["3"]] == "about three"
    assert dataset.catalog.image[rows["4"]].endswith("4.JPG")
    assert dataset.catalog.image[rows["1"]] is None
    (tmp_path / "pics").rename(tmp_path / "moved")
    source.images = str(tmp_path / "moved")
    assert source.load(tmp_path).sha256 == dataset.sha256, "the place of a file changes no number"
    (tmp_path / "moved" / "4.JPG").write_bytes(b"another picture")
    assert source.load(tmp_path).sha256 != dataset.sha256


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nowhere.jsonl", "does not exist"),
        (5, "give a file"),
        ({"path": "extra.jsonl", "fields": "caption"}, "must map names"),
        (".", "is a folder"),
        ({"path": "extra.jsonl", "fields": {"plott": "caption"}}, "has no field plott"),
        ({"path": "extra.jsonl", "fields": {"plot": "captoin"}}, "captoin, which no item has"),
        ({"path": "extra.jsonl", "on": "asin"}, "choose id or title"),
        ({"path": "extra.jsonl", "onn": "id"}, "unknown key onn"),
        ({"path": "extra.jsonl", "on": "title", "key": "plot", "fields": {"plot": "caption"}}, "matches none"),
    ],
)
def test_item_fields_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: object, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "extra.jsonl").write_text('{"item_id": 1, "plot": "p"}\n')
    with pytest.raises(UserError, match=says):
        MovieLens100K(name="m", path=str(movielens(tmp_path / "m", ratings())), item_fields=spec).load(tmp_path)


def test_row_numbers_are_a_seeded_permutation(tmp_path: Path) -> None:
    folder = str(movielens(tmp_path, ratings(items=40), items=40))
    ids = [MovieLens100K(name="m", path=folder, seed=seed).load(tmp_path).catalog.id.tolist() for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    assert sorted(ids[0]) == sorted(ids[2]) != ids[0]


def test_leave_one_out_cuts_before_the_target(demo: Dataset, split: Split) -> None:
    for r, user in enumerate(split.test.ids):
        sequence = demo.sequences.row(int(user)).tolist()
        assert split.test.histories.row(r).tolist() == sequence[:-1]
        assert split.test.relevant.row(r).tolist() == sequence[-1:]
        assert split.validation.histories.row(r).tolist() == sequence[:-2]
        assert split.validation.relevant.row(r).tolist() == sequence[-2:-1]
    for user, row in enumerate(map(split.train.histories.row, range(len(split.train.ids)))):
        assert row.tolist() == demo.sequences.row(user).tolist()[:-2]
    refit = split.with_validation_in_train().train.histories
    assert [refit.row(u).tolist() for u in split.test.ids] == [
        split.test.histories.row(r).tolist() for r in range(len(split.test.ids))
    ]


def test_users_with_two_interactions_are_only_trained_on(tmp_path: Path) -> None:
    rows = [*ratings(), "9\t1\t5\t10", "9\t2\t5\t20"]
    dataset = MovieLens100K(name="m", path=str(movielens(tmp_path, rows))).load(tmp_path)
    split = LeaveOneOut().split(dataset)
    nine = dataset.user_id.tolist().index("9")
    assert nine not in split.test.ids
    assert len(split.train.histories.row(nine)) == 2


@pytest.mark.parametrize("target", ["first", "all"])
def test_temporal_split_never_looks_ahead(demo: Dataset, target: str) -> None:
    split = Temporal(target=target).split(demo)
    time = {}
    events = demo.interactions
    for user, item, when in zip(events.user, events.item, events.timestamp, strict=True):
        time[int(user), int(item)] = int(when)

    def times(phase_ids: np.ndarray, rows: Ragged) -> list[int]:
        return [time[int(u), int(i)] for r, u in enumerate(phase_ids) for i in rows.row(r)]

    last_trained = max(times(split.train.ids, split.train.histories))
    first_validated = min(times(split.validation.ids, split.validation.relevant))
    first_tested = min(times(split.test.ids, split.test.relevant))
    assert last_trained < first_validated <= max(times(split.validation.ids, split.validation.relevant)) < first_tested
    assert max(times(split.test.ids, split.test.histories)) < first_tested
    lengths = split.test.relevant.lengths
    assert (lengths == 1).all() if target == "first" else lengths.max() > 1


def test_demo_is_the_same_for_a_seed_and_knows_its_ceiling() -> None:
    a, b, c = (Demo(name="demo", seed=seed, n_users=60, n_items=60).load(Path()) for seed in (0, 0, 1))
    assert a.sha256 == b.sha256 != c.sha256
    assert a.planted is not None and a.provenance.synthetic
    assert a.catalog.has("title") and a.catalog.has("image") and a.interactions.review is not None
    assert a.catalog.image[0].shape == (32, 32, 3)


class Server(http.server.BaseHTTPRequestHandler):
    content = bytes(range(256)) * 1000
    cut = 0  # bytes after which the first answer breaks off
    ranges: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        body = self.content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: type(self).cut] if type(self).cut else body)
        type(self).cut = 0

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    Server.cut, Server.ranges, Server.content = 0, [], bytes(range(256)) * 1000
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/file.zip"
    running.shutdown()


def test_download_resumes_records_its_hash_and_checks_it(server: str, tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    Server.cut = 100_000
    with pytest.raises(UserError, match=r"again to continue|broke off"):
        download(server, path, lambda chunks, total: chunks)
    assert not path.exists()
    download(server, path, lambda chunks, total: chunks)
    assert path.read_bytes() == Server.content
    assert Server.ranges[0] is None and Server.ranges[1] is not None and Server.ranges[1] != "bytes=0-"
    assert (tmp_path / "file.zip.sha256").read_text().strip() == file_sha256(path)
    path.unlink()
    Server.content = b"something else"
    with pytest.raises(UserError, match="differs from what was first downloaded"):
        download(server, path, lambda chunks, total: chunks)
    assert not path.exists()


def test_movielens_is_downloaded_and_unpacked_once(server: str, tmp_path: Path) -> None:
    raw = movielens(tmp_path / "raw", ratings())
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for name in ("u.data", "u.item"):
            out.write(raw / name, f"ml-100k/{name}")
    Server.content = archive.read_bytes()
    for _ in range(2):
        dataset = MovieLens100K(name="m", url=server).load(tmp_path / "store")
        assert len(dataset.interactions) == 24
    assert len(Server.ranges) == 1
    (tmp_path / "store/ml-100k/u.data").write_text("\n".join(ratings()[:12]))
    with pytest.raises(UserError, match="has changed since it was downloaded"):
        MovieLens100K(name="m", url=server).load(tmp_path / "store")


def test_a_text_in_utf_16_is_called_so(tmp_path: Path) -> None:
    (path := tmp_path / "u.data").write_text("1\t2\t3\t4\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"line 1: a text in UTF-16; save the file as utf-8"):
        read_text(path)
