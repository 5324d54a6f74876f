"""A real MLflow server, and a proxy in front of it that does to requests what networks and servers do."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from experiments.endurance import small

STORES = ("runs/create", "log-batch", "runs/update", "set-tag", "mlflow-artifacts")
DROPPED = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class Proxy:
    """`fault`: pass; 500, 429, 503; hang, drip; slow (each answer after 3 s); late (the request reaches the server
    when `release` is called, whoever waits then); unanswered (of what changes something the answer is lost); lossy
    (of every third request); cut (after `left` requests)."""

    def __init__(self, server: int, port: int) -> None:
        self.server, self.port = server, port
        self.fault, self.left, self.seen = "pass", 0, 0
        self.released = threading.Event()
        self.listening: ThreadingHTTPServer | None = None

    def __enter__(self) -> Proxy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy.handle(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
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

    def release(self) -> None:
        """Lets go whoever hangs."""
        self.released.set()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        fault = self.fault
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        self.seen += 1
        seen = self.seen
        if fault.isdigit():
            return answer(request, int(fault), [("Retry-After", "60")], b"out of order")
        if fault in ("hang", "late"):
            self.released.wait()
        if fault == "drip":
            for letter in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"." * 1000:
                if self.released.wait(1):
                    break
                request.wfile.write(bytes([letter]))
        if fault in ("hang", "drip") or (fault == "cut" and seen > self.left):
            request.close_connection = True
            return None
        if fault == "slow":
            time.sleep(3)
        status, headers, content = self._forward(request, body)
        stores = request.command != "GET" and any(word in request.path for word in STORES)
        if (fault == "unanswered" and stores) or (fault == "lossy" and seen % 3 == 0):
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
    """A real one, on a database of its own; its port."""
    port = free_port()
    where = ["--backend-store-uri", f"sqlite:///{scratch / 'server.db'}", "--artifacts-destination", scratch / "files"]
    words = ["-m", "mlflow", "server", *map(str, where), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (scratch / "server.log").open("w") as log:
        process = subprocess.Popen(
            small.command(*words),
            env=small.environment(**quiet),
            stdout=log,
            stderr=log,
            cwd=scratch,
            start_new_session=True,
        )
        try:
            wait_for(port, process)
            yield port
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(port: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
    except OSError:
        return False


def wait_for(port: int, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 180
    while not answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the MLflow server did not start; see server.log in the case's folder")
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
