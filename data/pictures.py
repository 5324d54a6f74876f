"""Pictures of items from the web into a folder of <item>.jpg: many at once, checked, shrunk, each asked for only once.

A second run fetches what is not there yet. Items whose picture cannot be had stand in `missing.json` with the reason
and are not asked for again; delete that file to ask again. What failed for the moment is not recorded.
"""

from __future__ import annotations

import email.message
import email.utils
import hashlib
import http.client
import io
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from PIL import Image

from data.errors import UserError
from data.files import read_json, write_atomically, write_json
from data.progress import bar

AGENT = "Mozilla/5.0 (compatible; reranker-experiments; research)"
FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
LARGEST = 25_000_000  # pixels; more is taken for a decompression bomb
HEAVIEST = 20 << 20  # bytes of one picture
PATIENCE = 60.0  # seconds, the longest wait before a retry
HOPELESS = 20  # items in a row that failed after all retries
NO_ADDRESS, NOT_FOUND, REFUSED, BROKEN = "have no address", "were not found", "were refused", "were broken"
LATER = "did not come and will be asked for again"


class Unavailable(Exception):
    """The item has no picture to be had; the reason is one of the constants above."""


class Transient(Exception):
    """May succeed later; `wait` are the seconds that the server asked for."""

    def __init__(self, reason: object, wait: float | None = None) -> None:
        super().__init__(str(reason))
        self.wait = wait


def fetch_pictures(
    addresses: Mapping[str, str | None],
    folder: Path,
    size: int = 224,
    workers: int = 16,
    retries: int = 3,
    timeout: float = 20.0,
    pause: float = 1.0,
) -> tuple[dict[str, str], str]:
    """Item -> path of its JPEG, which fits into size x size pixels, and a sentence of what came and what did not.

    `timeout` is seconds for a whole picture, `pause` seconds before the first retry; each further wait is twice as
    long. A network that is down is a UserError after HOPELESS items; what was fetched stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_size(folder / "size.json", size)
    record = folder / "missing.json"
    missing: dict[str, str] = read_json(record) if record.exists() else {}
    paths = {item: folder / file_name(item) for item in addresses}
    asked = [item for item, path in paths.items() if not path.exists() and item not in missing and addresses[item]]
    later: dict[str, str] = {}
    fetcher = Fetcher(size, retries, timeout, pause)
    pool = ThreadPoolExecutor(workers)
    work: dict[Future[None], str] = {}
    in_a_row = 0
    try:
        work |= {pool.submit(fetcher.fetch, str(addresses[item]), paths[item]): item for item in asked}
        for done in bar(as_completed(work), "fetching pictures", total=len(work)):
            try:
                done.result()
                in_a_row = 0
            except Unavailable:
                in_a_row = 0
            except Transient as problem:
                later[work[done]] = LATER
                in_a_row += 1
                if in_a_row == HOPELESS:
                    raise UserError(
                        f"{HOPELESS} pictures in a row could not be fetched (the last: {problem}); check the network "
                        f"and run again, what is in {folder} stays"
                    ) from None
    finally:
        fetcher.stopped.set()
        pool.shutdown(cancel_futures=True)
        answers = {work[done]: done.exception() for done in work if not done.cancelled()}  # those nobody looked at too
        missing |= {item: str(reason) for item, reason in answers.items() if isinstance(reason, Unavailable)}
        write_json(record, dict(sorted(missing.items())))
    found = {item: str(path) for item, path in paths.items() if path.exists()}
    reasons = Counter((later | missing).get(item, NO_ADDRESS) for item in addresses if item not in found)
    parts = [f"{reasons[why]:,} {why}" for why in (NO_ADDRESS, NOT_FOUND, REFUSED, BROKEN, LATER) if reasons[why]]
    note = f"{len(found):,} of {len(addresses):,} items have a picture"
    return found, "; ".join([note, *([", ".join(parts)] if parts else [])])


def file_name(item: str) -> str:
    """One file for one item, whatever characters the id has; ids of letters and digits are kept."""
    name = quote(item, safe="")
    return f"{name if len(name) <= 200 else hashlib.sha256(item.encode()).hexdigest()}.jpg"


def _check_size(path: Path, size: int) -> None:
    if not path.exists():
        write_json(path, {"size": size})
    elif (there := read_json(path)["size"]) != size:
        raise UserError(
            f"the pictures in {path.parent} were made to fit {there} pixels, not {size}; delete the folder"
        )


@dataclass
class Fetcher:
    """Fetches one picture a call, from several threads; `stopped` ends all waiting."""

    size: int
    retries: int
    timeout: float
    pause: float
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """An opener of http and https alone, so that no redirection leads to a file or to FTP."""
        self.opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler,
            urllib.request.HTTPHandler,
            urllib.request.HTTPSHandler,
            urllib.request.HTTPRedirectHandler,
            urllib.request.HTTPDefaultErrorHandler,
            urllib.request.HTTPErrorProcessor,
            urllib.request.UnknownHandler,
        ):
            self.opener.add_handler(handler())

    def fetch(self, address: str, path: Path) -> None:
        for attempt in range(self.retries + 1):
            try:
                write_atomically(path, to_jpeg(self._download(address), self.size))
                return
            except Transient as problem:
                if attempt == self.retries or self.stopped.wait(delay(attempt, self.pause, problem.wait)):
                    raise

    def _download(self, address: str) -> bytes:
        until = time.monotonic() + self.timeout
        try:
            parts = urlsplit(address)
            if (
                parts.scheme not in ("http", "https")
                or not re.fullmatch(r"[\w.:\[\]-]+", parts.netloc)
                or parts.port == 0
            ):
                raise Unavailable(NO_ADDRESS)
            request = urllib.request.Request(
                quote(address, safe="%/:=&?#+!$,;'@()*[]~"), headers={"User-Agent": AGENT}
            )
            with self.opener.open(request, timeout=self.timeout) as answer:
                length = answer.headers.get("Content-Length")
                content = bytearray()
                while chunk := answer.read1(1 << 16):
                    content += chunk
                    if len(content) > HEAVIEST:
                        raise Unavailable(BROKEN)
                    if time.monotonic() > until:
                        raise Transient(f"{address} took over {self.timeout:g} seconds")
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise Unavailable(NOT_FOUND) from None
            if error.code in (408, 429) or error.code >= 500:
                raise Transient(f"{address} answered {error.code}", asked_wait(error.headers)) from None
            raise Unavailable(REFUSED) from None
        except ValueError:  # no URL at all
            raise Unavailable(NO_ADDRESS) from None
        except (OSError, http.client.HTTPException) as error:  # timeouts and broken connections
            raise Transient(f"{address}: {error}") from None
        if length is not None and length.isdigit() and len(content) < int(length):
            raise Transient(f"{address} broke off")
        return bytes(content)


def delay(attempt: int, pause: float, asked: float | None) -> float:
    """Seconds before the next try: what the server asked for, or twice the last with up to half of it by chance."""
    return min(PATIENCE, pause * 2**attempt * random.uniform(1, 1.5) if asked is None else asked)


def asked_wait(headers: email.message.Message) -> float | None:
    """Seconds of a Retry-After, which is a number of seconds or a date."""
    value = headers.get("Retry-After") or ""
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def to_jpeg(content: bytes, size: int) -> bytes:
    out = io.BytesIO()
    read_picture(content, size).save(out, "JPEG", quality=90)
    return out.getvalue()


def read_picture(content: bytes, size: int) -> Image.Image:
    """RGB over white, within size x size pixels, never enlarged; what cannot be decoded raises Unavailable.

    A single pixel is what shops send in place of a picture they do not have.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as unread:
            pixels = unread.width * unread.height
            if pixels > LARGEST:
                raise ValueError("too large")
            unread.verify()
        picture: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        if picture.has_transparency_data:
            above = picture.convert("RGBA")
            picture = Image.new("RGB", above.size, "white")
            picture.paste(above, mask=above)
        elif picture.mode != "RGB":
            picture = picture.convert("RGB")
        picture.thumbnail((size, size))
        picture.load()  # a small one is not decoded before
    except Exception:  # Pillow's decoders raise whatever a broken file leads them to
        raise Unavailable(BROKEN) from None
    if pixels == 1:
        raise Unavailable(NOT_FOUND)
    return picture
