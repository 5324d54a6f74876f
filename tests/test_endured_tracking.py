"""What `endure cases=[tracking_down]` is made of: the measured wait, a proxy that fails, commands on a leash."""

import json
import socket
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from tiny_runs import mirrored_run

from experiments.endurance import leash
from experiments.endurance.faulty_proxy import Proxy
from experiments.endurance.held_up import COUNTED, NOT_COUNTED, Stopwatch
from experiments.endurance.killed import found
from experiments.endurance.mirrored_once import differences
from experiments.endurance.small import command
from experiments.tracking import MLflowTracker, send

LIMIT = 60  # seconds
SLEEP = "import time; print('here', flush=True); time.sleep(600)"


def test_only_the_main_thread_in_tracking_is_timed_and_no_import() -> None:
    now = 0.0

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    stopwatch = Stopwatch(lambda: now)
    product = SimpleNamespace(prepare=lambda: passes(100))
    product.wait = lambda: passes(1)
    product.start = lambda: (passes(10), product.prepare(), product.wait(), passes(10))
    for name, counted in (("start", True), ("prepare", False), ("wait", True)):
        stopwatch.around(product, name, counted)
    passes(1000)
    product.start()
    assert stopwatch.seconds == 21
    product.wait()
    passes(1000)
    product.prepare()
    assert stopwatch.seconds == 22
    other = threading.Thread(target=product.start)
    other.start()
    other.join(LIMIT)
    assert stopwatch.seconds == 22
    product.wait = lambda: (passes(3), 1 / 0)
    stopwatch.around(product, "wait", True)
    with pytest.raises(ZeroDivisionError):
        product.wait()
    passes(1000)
    assert stopwatch.seconds == 25 and stopwatch.running == [False]


def test_what_is_timed_exists() -> None:
    assert all(callable(getattr(*found(name))) for name in (*COUNTED, *NOT_COUNTED))


def test_a_command_is_timed_to_its_end(tmp_path: Path) -> None:
    """A request of its own, and a thread that the process's end waits for, of a server that never answers."""
    command_ = tmp_path / "asks.py"
    command_.write_text(
        "import sys, threading, time, requests\n"
        "threading.Thread(target=time.sleep, args=(0.5,)).start()\n"
        "try: requests.get(sys.argv[1], timeout=0.5)\n"
        "except requests.Timeout: pass\n"
        "sys.exit(3)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri, out = f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path / "seconds.json"
        line = command("-m", "experiments.endurance.held_up", str(out), str(command_), uri)
        done = leash.finish(leash.start(line), LIMIT)
    assert done.returncode == 3, done.stderr
    assert json.loads(out.read_text()) >= 0.5


class Answers(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"fine")

    def log_message(self, *_: object) -> None: ...


def test_the_proxy_keeps_its_port_and_hangs_where_it_is_told() -> None:
    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Answers,), {"asked": asked})) as real:
        threading.Thread(target=real.serve_forever, args=(0.05,), daemon=True).start()
        with Proxy(real.server_address[1]) as proxy:

            def ask(path: str) -> bytes:
                with urllib.request.urlopen(f"http://127.0.0.1:{proxy.port}/{path}", timeout=LIMIT) as answer:
                    return answer.read()

            assert ask("a") == b"fine"
            proxy.stop()
            with pytest.raises(urllib.error.URLError, match="refused"):
                ask("b")
            with pytest.raises(OSError, match="in use"), socket.socket() as other:
                other.bind(("127.0.0.1", proxy.port))

            def hangs(path: str) -> None:
                with pytest.raises(OSError, match="closed connection"):
                    ask(path)

            proxy.start()
            for kind, arrives in (("hang", False), ("mute", True)):
                proxy.become(kind, 1)
                assert ask("first") == b"fine" and not proxy.hanging.is_set()
                waiting = threading.Thread(target=hangs, args=(kind,), daemon=True)
                waiting.start()
                assert proxy.hanging.wait(LIMIT) and waiting.is_alive()
                assert (f"/{kind}" in asked) == arrives
                proxy.stop()
                waiting.join(LIMIT)
                assert not waiting.is_alive()
                proxy.start()
        real.shutdown()


def test_a_root_whose_name_another_begins_with_is_another(uri: str, tmp_path: Path) -> None:
    for name in ("root", "root-2"):
        assert send(mirrored_run(tmp_path / name, "bert4rec", 0, 0.5), MLflowTracker(uri))
    assert differences(uri, tmp_path / "root") == []
    assert differences(uri, tmp_path / "roo") == ["no finished run"]


def test_a_command_on_a_leash_dies_with_its_case() -> None:
    """Killed, the case can end nothing itself."""
    code = f"from experiments.endurance import leash; p = leash.start([{sys.executable!r}, '-c', {SLEEP!r}]); "
    code += "print(p.stdout.readline(), p.pid, flush=True); p.wait()"
    with subprocess.Popen(command("-c", code), stdout=subprocess.PIPE, text=True) as case:
        assert case.stdout and case.stdout.readline() == "here\n"
        held = psutil.Process(int(case.stdout.readline()))
        below = [held, *held.children(recursive=True)]
        assert len(below) == 2
        case.kill()
        assert psutil.wait_procs(below, LIMIT)[1] == []


def test_what_has_ended_is_not_killed_and_what_hangs_is() -> None:
    ended = leash.start(command("-c", "import sys; print('said'); sys.exit(7)"))
    done = leash.finish(ended, LIMIT)
    assert (done.returncode, done.stdout) == (7, "said\n") and not leash.kill(ended)
    hung = leash.start(command("-c", SLEEP))
    assert hung.stdout and hung.stdout.readline() == "here\n"
    below = psutil.Process(hung.pid).children(recursive=True)
    assert len(below) == 1 and leash.finish(hung, 0).returncode == -9
    assert psutil.wait_procs(below, LIMIT)[1] == []
