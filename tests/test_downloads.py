"""Downloads whose bytes are not those that were asked for, or not those of the first part, are refused."""

import http.server
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from data.download import download
from data.errors import UserError

CONTENT = bytes(range(256)) * 1000
GOOD = sha256(CONTENT).hexdigest()


class Changing(http.server.BaseHTTPRequestHandler):
    content = CONTENT
    tag = "one"
    cut = 0  # bytes after which the next answer breaks off

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start >= len(self.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = self.content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.tag)
        self.end_headers()
        self.wfile.write(body[: type(self).cut or None])
        type(self).cut = 0

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    Changing.content, Changing.tag, Changing.cut = CONTENT, "one", 0
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Changing)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/file.gz"
    running.shutdown()


def fetch(url: str, path: Path) -> Path:
    return download(url, path, lambda chunks, total: chunks)


@pytest.mark.parametrize("pinned", [GOOD, GOOD.upper()])
def test_a_hash_in_the_url_is_checked_at_the_first_download_and_after(
    pinned: str, server: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.gz"
    assert fetch(f"{server}#sha256={pinned}", path).read_bytes() == CONTENT
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".lock") == ["file.gz", "file.gz.sha256"]
    path.write_bytes(b"other bytes")
    with pytest.raises(UserError, match="has changed since it was downloaded"):
        fetch(f"{server}#sha256={pinned}", path)


def test_other_bytes_than_the_pinned_ones_leave_nothing(server: str, tmp_path: Path) -> None:
    Changing.content = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match=r"differs from what #sha256= asks for: its sha256 is [0-9a-f]{64}; mend"):
        fetch(f"{server}#sha256={GOOD}", tmp_path / "file.gz")
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"], "neither the file nor a hash that would vouch for it"


@pytest.mark.parametrize("same_length", [True, False])
def test_a_file_that_changes_between_two_parts_is_never_put_together(
    same_length: bool, server: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.gz"
    Changing.cut = 100_000
    with pytest.raises(UserError, match=r"again to continue|broke off"):
        fetch(server, path)
    Changing.content = CONTENT[::-1] if same_length else CONTENT + b"more"
    Changing.tag = "two" if same_length else "one"
    with pytest.raises(UserError, match="has changed since its download began; run again"):
        fetch(server, path)
    assert not path.exists() and not (tmp_path / "file.gz.sha256").exists()
    assert fetch(server, path).read_bytes() == Changing.content, "the same command again fetches it anew"


def test_a_partial_file_is_whole_only_at_the_servers_length(server: str, tmp_path: Path) -> None:
    """A server has nothing behind its end then, nor behind that of a file that was longer and is shorter now."""
    path, partial = tmp_path / "file.gz", tmp_path / "file.gz.partial"
    partial.write_bytes(CONTENT + b"more")
    with pytest.raises(UserError, match="has changed since its download began; run again to fetch it anew"):
        fetch(server, path)
    assert not partial.exists() and not path.exists() and not (tmp_path / "file.gz.sha256").exists()
    partial.write_bytes(CONTENT)
    assert fetch(server, path).read_bytes() == CONTENT, "what is whole is not fetched again"
