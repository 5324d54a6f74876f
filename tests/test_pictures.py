"""Pictures and files from a server on this machine: what is fetched, refused, retried and asked for only once."""

import contextlib
import email.message
import http.server
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_amazon import amazon

from data.errors import UserError
from data.pictures import PATIENCE, asked_wait, delay, fetch_pictures, file_name
from data.sources.amazon import AmazonReviews


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (300, 100), colour: Any = (200, 0, 0)) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, kind)
    return out.getvalue()


class Shop(http.server.BaseHTTPRequestHandler):
    answers: dict[str, list[tuple[int, bytes]]] = {}  # noqa: RUF012 path -> answers in order, the last one again
    asked: Counter[str] = Counter()  # noqa: RUF012

    def do_GET(self) -> None:
        queue = self.answers[self.path]
        status, body = queue[min(self.asked[self.path], len(queue) - 1)]
        self.asked[self.path] += 1
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + (self.path == "/cut")))
        if status == 302:
            self.send_header("Location", body.decode())
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has lost patience
            for part in [body[:10], body[10:20], body[20:]] if self.path == "/slow" else [body]:
                self.wfile.write(part)
                time.sleep(0.2 if self.path == "/slow" else 0)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def shop() -> Iterator[str]:
    Shop.answers, Shop.asked = {}, Counter()
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_pictures_are_fetched_checked_and_asked_for_once(shop: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded("PNG"))
    jpeg = encoded("JPEG")
    Shop.answers = {
        "/jpeg": [(200, jpeg)],
        "/alpha": [(200, encoded("PNG", "RGBA", (20, 20), (0, 0, 0, 0)))],
        "/small%20%C3%A9": [(200, encoded("GIF", "P", (5, 9), 0))],
        "/busy": [(503, b""), (429, b""), (200, jpeg)],
        "/gone": [(404, jpeg)],
        "/forbidden": [(403, jpeg)],
        "/html": [(200, b"<html>")],
        "/half": [(200, jpeg[: len(jpeg) // 2])],
        "/bomb": [(200, encoded("PNG", "1", (10_000, 3_000), 0))],
        "/pixel": [(200, encoded("GIF", "P", (1, 1), 0))],
        "/cut": [(200, jpeg)],
        "/down": [(500, b"")],
        "/file": [(302, secret.as_uri().encode())],
    }
    addresses: dict[str, str | None] = {path[1:]: shop + path for path in Shop.answers}
    addresses["small"] = shop + addresses.pop("small%20%C3%A9")[len(shop) :].replace("%20%C3%A9", " é")
    addresses |= {"none": None, "empty": "", "local": secret.as_uri(), "ftp": "ftp://127.0.0.1/x", "odd": "http://[x"}
    folder = tmp_path / "images"
    paths, note = fetch_pictures(addresses, folder, size=150, workers=4, retries=2, pause=0)
    assert note == (
        "4 of 18 items have a picture; 5 have no address, 2 were not found, 2 were refused, 3 were broken, "
        "2 did not come and will be asked for again"
    )
    opened = {item: Image.open(path) for item, path in paths.items()}
    assert {item: (image.format, image.mode, image.size) for item, image in opened.items()} == {
        "jpeg": ("JPEG", "RGB", (150, 50)),
        "busy": ("JPEG", "RGB", (150, 50)),
        "alpha": ("JPEG", "RGB", (20, 20)),
        "small": ("JPEG", "RGB", (5, 9)),
    }
    assert opened["alpha"].getpixel((3, 3)) == (255, 255, 255)
    assert abs(opened["jpeg"].getpixel((3, 3))[0] - 200) < 5  # type: ignore[index, operator]
    once = {"/jpeg", "/alpha", "/small%20%C3%A9", "/gone", "/forbidden", "/html", "/half", "/bomb", "/pixel", "/file"}
    assert Shop.asked == dict.fromkeys(once, 1) | dict.fromkeys(("/busy", "/cut", "/down"), 3)
    assert json.loads((folder / "missing.json").read_text())["gone"] == "were not found"
    assert not list(folder.glob("*.partial"))

    Shop.asked.clear()
    Shop.answers["/down"] = [(200, jpeg)]
    again, note = fetch_pictures(addresses, folder, size=150, retries=0, pause=0)
    assert Shop.asked == {"/cut": 1, "/down": 1}, "only what may come yet is asked for"
    assert set(again) == {*paths, "down"} and note.startswith(
        "5 of 18 items have a picture; 5 have no address, 2 were"
    )
    with pytest.raises(UserError, match="were made to fit 150 pixels, not 99"):
        fetch_pictures(addresses, folder, size=99)


def test_a_server_that_drips_is_not_waited_for(shop: str, tmp_path: Path) -> None:
    """Each part comes before a socket's timeout, the whole does not."""
    Shop.answers = {"/slow": [(200, encoded("JPEG"))]}
    paths, note = fetch_pictures({"slow": shop + "/slow"}, tmp_path, retries=1, timeout=0.3, pause=0)
    assert not paths and note == "0 of 1 items have a picture; 1 did not come and will be asked for again"
    assert Shop.asked["/slow"] == 2
    assert json.loads((tmp_path / "missing.json").read_text()) == {}


def test_a_network_that_is_down_ends_the_work(shop: str, tmp_path: Path) -> None:
    Shop.answers = {"/jpeg": [(200, encoded("JPEG"))], "/gone": [(404, b"")]}
    fetch_pictures({"good": shop + "/jpeg"}, tmp_path)
    closed = http.server.HTTPServer(("127.0.0.1", 0), Shop)
    closed.server_close()
    nowhere = f"http://127.0.0.1:{closed.server_port}/x"
    addresses = {"good": nowhere, "gone": shop + "/gone"} | {str(n): nowhere for n in range(500)}
    with pytest.raises(UserError, match=r"20 pictures in a row could not be fetched .*run again, what is in .* stays"):
        fetch_pictures(addresses, tmp_path, retries=0, workers=1)
    assert (tmp_path / "good.jpg").exists()
    assert json.loads((tmp_path / "missing.json").read_text()) == {"gone": "were not found"}


def test_waits_before_a_retry() -> None:
    def headers(value: str) -> email.message.Message:
        message = email.message.Message()
        message["Retry-After"] = value
        return message

    assert asked_wait(headers("7")) == 7
    assert asked_wait(headers("Wed, 21 Oct 2015 07:28:00 GMT")) == 0
    assert asked_wait(headers("Fri, 21 Oct 2101 07:28:00 GMT")) > 10**9  # type: ignore[operator]
    assert asked_wait(headers("soon")) is None and asked_wait(email.message.Message()) is None
    assert delay(0, 1, 7) == 7 and delay(0, 1, 3600) == PATIENCE
    assert 4 <= delay(2, 1, None) <= 6 and delay(20, 1, None) == PATIENCE


def test_file_names_stay_in_their_folder() -> None:
    assert file_name("B00ABC123X") == "B00ABC123X.jpg"
    names = [file_name(item) for item in ("../x", "..", "a/b", "a%2Fb", "a\0b", "C:\\x", "é" * 300, "é" * 301)]
    assert len(set(names)) == len(names)
    assert all("/" not in name and "\\" not in name and "\0" not in name and len(name) < 255 for name in names)


def test_pictures_of_a_dataset_are_those_of_the_items_that_are_left(shop: str, tmp_path: Path) -> None:
    Shop.answers = {"/a1": [(200, encoded("PNG"))], "/a3": [(200, encoded("PNG"))]}
    meta = [
        {"asin": "A1", "title": "One", "imUrl": shop + "/a1"},
        {"asin": "A2", "title": "Two"},
        {"asin": "A3", "imUrl": shop + "/a3"},
    ]
    dataset = amazon(tmp_path / "raw", meta=meta, fetch_images=True, image_size=64).load(tmp_path / "store")
    rows = dataset.catalog.row_of_id
    assert dataset.catalog.image[rows["A1"]] == str(tmp_path / "store/x/images/A1.jpg")
    assert dataset.catalog.image[rows["A2"]] is None
    assert dataset.provenance.notes[-1] == "1 of 2 items have a picture; 1 have no address"
    assert set(Shop.asked) == {"/a1"}
    assert dataset.sha256


def test_both_files_are_downloaded_once(shop: str, tmp_path: Path) -> None:
    amazon(tmp_path / "raw")
    names = ("reviews_X_5.json.gz", "meta_X.json.gz")
    Shop.answers = {f"/{name}": [(200, (tmp_path / "raw" / name).read_bytes())] for name in names}
    source = AmazonReviews(name="x", reviews_url=f"{shop}/{names[0]}", metadata_url=f"{shop}/{names[1]}")
    for _ in range(2):
        assert len(source.load(tmp_path / "store").interactions) == 3
    assert Shop.asked == {f"/{name}": 1 for name in names}
    assert (tmp_path / "store/x" / names[0]).exists()
