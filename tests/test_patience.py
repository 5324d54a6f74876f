"""Work that is given up while it still hangs, servers that hang, drip or answer 500, and what is left of it."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_runs import mirrored_run

from data.files import read_json
from experiments.launch import ROOT
from experiments.patience import TRAINING, Courier, GivenUpError, Patience, patiently, tell
from experiments.tracking import DOWN, MLflowTracker

AT_ONCE, SOON, LONG = Patience(0, 0, 1e9), Patience(0.2, 0, 1e9), Patience(60, 0, 1e9)
LIMIT = 60  # seconds after which a broken product fails instead of hanging


def test_a_step_that_hangs_is_given_up_and_writes_nothing_later(tmp_path: Path) -> None:
    entered, release = threading.Event(), threading.Event()
    ended: list[str] = []

    def step() -> None:
        entered.set()
        release.wait(LIMIT)
        try:
            courier.write(lambda: (tmp_path / "late").write_text("x"))
        except GivenUpError:
            ended.append("given up")
            raise
        ended.append("written")

    courier = Courier(AT_ONCE)
    courier.give(step)
    courier.give(lambda: ended.append("the step after it"))
    assert entered.wait(LIMIT)
    assert not courier.wait()
    assert courier.thread and courier.thread.is_alive() and courier.thread.daemon, "it hangs still, and may"
    release.set()
    courier.thread.join(LIMIT)
    assert ended == ["given up"] and not list(tmp_path.iterdir())


def test_steps_are_done_in_order_and_their_calls_are_waited_for() -> None:
    done: list[int] = []
    courier = Courier(LONG)
    for number in range(5):
        courier.give(lambda number=number: done.append(number))  # type: ignore[misc]
    assert courier.wait() and done == [0, 1, 2, 3, 4]
    assert Courier(LONG).wait(), "nothing was given"

    calls = Courier(Patience(0, 60, 1e9))
    calls.before_call(10**9)
    assert calls.credit == 61, "seconds for a call and for a file"
    release = threading.Event()
    calls.give(lambda: (release.wait(LIMIT), calls.before_call()))  # type: ignore[func-returns-value]
    assert not calls.wait(), "what earlier calls had is not left for the last"
    release.set()
    with pytest.raises(GivenUpError):
        calls.before_call()


def test_no_number_of_calls_makes_it_wait_longer_than_at_most() -> None:
    reached, release = threading.Event(), threading.Event()
    courier = Courier(Patience(0, 60, 1e9, at_most=0.5))

    def step() -> None:
        for _ in range(10):
            courier.before_call()
        reached.set()
        release.wait(LIMIT)

    courier.give(step)
    assert reached.wait(LIMIT) and not courier.wait() and not release.is_set()
    release.set()
    assert TRAINING.seconds <= TRAINING.at_most <= 8, "what the README says"


def test_the_hint_names_the_root_if_it_is_another(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    for root in (ROOT, tmp_path / "a b"):
        tell("http://there", root, ValueError("broken"), "nothing is lost")
    usual, other = (record.message.partition("send it later: ")[2] for record in caplog.records)
    assert usual == "python -m experiments.sync tracking.uri=http://there"
    assert other == f"{usual} 'paths.root={tmp_path}/a b'"


def test_patiently_says_what_went_wrong() -> None:
    release = threading.Event()
    error = patiently(AT_ONCE, lambda: release.wait(LIMIT))
    release.set()
    assert isinstance(error, TimeoutError) and "had not answered after 0 s" in str(error)
    broken = ValueError("broken")
    assert patiently(LONG, lambda: (_ for _ in ()).throw(broken).send(None)) is broken
    assert patiently(LONG, lambda: 1) is None


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> Iterator[tuple[str, threading.Event]]:
    """A server that answers each connection with a function (connection, end); its address and the end."""
    behave: Callable[[socket.socket, threading.Event], None] = request.param
    end = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=behave, args=(connection, end), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", end
        end.set()
        listening.shutdown(socket.SHUT_RDWR)


def hang(connection: socket.socket, end: threading.Event) -> None:
    with connection:
        end.wait(LIMIT)


def drip(connection: socket.socket, end: threading.Event) -> None:
    with connection:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Padding: ")
        while not end.wait(0.05):
            connection.sendall(b".")


def refuse(connection: socket.socket, end: threading.Event) -> None:
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 503 Gone\r\nRetry-After: 600\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("fake", [hang, drip, refuse], indirect=True)
def test_no_server_holds_up_a_run(
    fake: tuple[str, threading.Event],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("experiments.patience.TRAINING", SOON)
    monkeypatch.setenv(DOWN, "")  # and as it was, at the end
    monkeypatch.setattr("experiments.run_mirror.AT_ONCE", 0.0)
    uri, end = fake

    def warnings() -> int:
        return sum("send it later" in record.message for record in caplog.records)

    folder = mirrored_run(tmp_path, "bert4rec", 0, 0.5)
    tracker = MLflowTracker(uri)
    tracker.start(folder)
    for step in range(3):
        tracker.points([{"name": "train_loss", "step": step, "epoch": 0.0, "timestamp": 1, "value": 0.5}])
    tracker.finish()
    assert not end.is_set(), "the server was never let go"
    assert warnings() == 1
    state = read_json(folder / "mlflow.json")
    assert state["key"] and "run_id" not in state and not state["finished"]
    thread = tracker.mirror.courier.thread
    gave_up = tracker.mirror.courier.given_up
    assert thread and os.environ[DOWN] == (uri if gave_up else "")
    after = MLflowTracker(uri)
    after.start(mirrored_run(tmp_path, "bert4rec", 1, 0.5))
    after.finish()
    told = warnings()
    assert told == 2 - gave_up and (after.mirror.courier.thread is None) == gave_up, "no job waits in vain again"
    end.set()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert read_json(folder / "mlflow.json") == state
    assert warnings() == told, "nothing is told after the end"
