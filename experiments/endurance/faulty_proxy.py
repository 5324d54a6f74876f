"""A real MLflow server, and a proxy in front of it that does to requests what networks and servers do."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from experiments.endurance import leash, small

STORES = ("runs/create", "log-batch", "runs/update", "set-tag", "mlflow-artifacts")
DROPPED = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class Proxy:
    """`fault`: pass; 500, 429, 503; hang, mute (the server does what is asked, but the answer hangs) and cut, all
    after `left` requests; drip; slow (each answer after 3 s); late (the request reaches the server when `release` is
    called, whoever waits then); unanswered (of what changes something the answer is lost); lossy (of every third
    request)."""

    def __init__(self, server: int) -> None:
        self.server = server
        self.fault, self.left, self.seen = "pass", 0, 0
        self.released, self.hanging = threading.Event(), threading.Event()  # whether it lets go, whether anyone hangs
        self.listening: ThreadingHTTPServer | None = None

    def __enter__(self) -> Proxy:
        """A socket that does not listen keeps the port while connections are refused."""
        self.kept = socket.socket()
        self.kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.kept.bind(("127.0.0.1", 0))
        self.port = self.kept.getsockname()[1]
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.kept.close()

    def start(self) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy.handle(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            allow_reuse_port = True

            def handle_error(self, *_: Any) -> None: ...  # clients that have gone

        self.released.clear()
        self.listening = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.listening.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """From now on connections are refused."""
        self.release()
        if self.listening:
            self.listening.shutdown()
            self.listening.server_close()
            self.listening = None

    def become(self, fault: str, left: int = 0) -> None:
        self.fault, self.left, self.seen = fault, left, 0
        self.hanging.clear()

    def release(self) -> None:
        """Lets go whoever hangs."""
        self.released.set()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        fault = self.fault
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        self.seen += 1
        seen = self.seen
        if fault in ("hang", "mute", "cut") and seen <= self.left:
            fault = "pass"
        if fault.isdigit():
            return answer(request, int(fault), [("Retry-After", "60")], b"out of order")
        if fault in ("hang", "late"):
            self.hanging.set()
            self.released.wait()
        if fault == "drip":
            for letter in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"." * 1000:
                if self.released.wait(1):
                    break
                request.wfile.write(bytes([letter]))
        if fault in ("hang", "drip", "cut"):
            request.close_connection = True
            return None
        if fault == "slow":
            time.sleep(3)
        status, headers, content = self._forward(request, body)
        if fault == "mute":
            self.hanging.set()
            self.released.wait()
        stores = request.command != "GET" and any(word in request.path for word in STORES)
        if fault == "mute" or (fault == "unanswered" and stores) or (fault == "lossy" and seen % 3 == 0):
            request.close_connection = True
            return None
        return answer(request, status, headers, content)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server, timeout=60)
        with contextlib.closing(connection):
            headers = {name: value for name, value in request.headers.items() if name.lower() not in DROPPED}
            connection.request(request.command, request.path, body, headers | {"Content-Length": str(len(body))})
            got = connection.getresponse()
            return got.status, got.getheaders(), got.read()


def answer(request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
    request.send_response(status)
    for name, value in headers:
        if name.lower() not in DROPPED:
            request.send_header(name, value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


@contextlib.contextmanager
def server(scratch: Path) -> Iterator[int]:
    """A real one, on a database of its own; its port, which the system chooses."""
    where = ["--backend-store-uri", f"sqlite:///{scratch / 'server.db'}", "--artifacts-destination", scratch / "files"]
    words = ["-m", "mlflow", "server", *map(str, where), "--host", "127.0.0.1", "--port", "0", "--workers", "1"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (path := scratch / "server.log").open("w") as log:
        process = leash.start(small.command(*words), out=log, **quiet)
    try:
        yield port_of(process, path)
    finally:
        leash.kill(process)


def port_of(process: subprocess.Popen[str], log: Path) -> int:
    """Once it answers."""
    deadline = time.monotonic() + 180
    while not (found := re.search(r"running on http://127\.0\.0\.1:(\d+)", log.read_text())):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the MLflow server did not start: {log.read_text()[-600:]}")
        time.sleep(0.1)
    return int(found[1])
