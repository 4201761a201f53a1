"""Health over HTTP."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest

from framework.maintenance import HealthServer, health
from framework.maintenance.probes import probes
from framework.model.errors import SettingsError
from framework.service.settings import load_settings
from tests.support.programs import free_port


def get(port: int, path: str) -> tuple[int, str]:
    deadline = time.monotonic() + 30
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        finally:
            connection.close()


def test_probes() -> None:
    wrong = {"ready": "no worker is ready"}
    port = free_port()
    HealthServer(f"127.0.0.1:{port}", {"livez": lambda: "", "readyz": lambda: wrong["ready"]}, say=print)
    assert get(port, "/livez") == (200, "ok\n")
    assert get(port, "/readyz") == (503, "no worker is ready\n")
    wrong["ready"] = ""
    assert get(port, "/readyz?verbose=1") == (200, "ok\n")
    assert get(port, "/") == (404, "no such probe: /livez /readyz /startupz\n")


def test_an_address_still_in_use_is_bound_later() -> None:
    """The process that we replace may still hold it."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said: list[str] = []
        heard = threading.Event()

        def say(text: str) -> None:
            said.append(text)
            heard.set()

        HealthServer(f"127.0.0.1:{port}", {"livez": lambda: ""}, say=say)
        assert heard.wait(30)
    assert get(port, "/livez") == (200, "ok\n")
    assert len(said) == 1
    assert f"127.0.0.1:{port} yet" in said[0]


@pytest.mark.parametrize("address", ["localhost", "8080", ":8080", "localhost:", "x:http", "127.0.0.1:70000", "1:-1"])
def test_a_wrong_address_is_a_wrong_setting(address: str) -> None:
    """Found before anything starts: maintenance would die of it again and again."""
    with pytest.raises(SettingsError, match=r"WORKER_HEALTH=.* write it as host:port"):
        load_settings(health=address)


def test_livez_looks_again_where_maintenance_may_have_stood_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen with its whole container, it answers a probe before its loop has turned."""
    maintenance = SimpleNamespace(turned_at=time.monotonic() - 60)
    live = probes(maintenance, None)["livez"]  # type: ignore[arg-type]
    monkeypatch.setattr("framework.maintenance.probes.time.sleep", lambda _: None)
    assert live() == "maintenance has not turned for 60 s"
    monkeypatch.setattr(
        "framework.maintenance.probes.time.sleep", lambda _: setattr(maintenance, "turned_at", time.monotonic())
    )
    assert live() == ""


# --- clients that mean no good --------------------------------------------------------------------------------------


@pytest.fixture
def raw() -> Iterator[Callable[[bytes], socket.socket]]:
    """Sends bytes to a server of its own, over a connection of its own."""
    port = free_port()
    HealthServer(f"127.0.0.1:{port}", {"livez": lambda: "", "broken": lambda: str(1 // 0)}, say=print, longest=1.0)
    assert get(port, "/livez")[0] == 200
    opened: list[socket.socket] = []

    def send(data: bytes) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port), timeout=30)
        opened.append(client)
        client.sendall(data)
        return client

    yield send
    for client in opened:
        client.close()


def everything(client: socket.socket) -> bytes:
    """What a server sends until it closes."""
    answer = b""
    while data := client.recv(65536):
        answer += data
    return answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /livez HTTP/1.0\n\n", b"200"),
        (b"GET /livez/?x=1 HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /broken HTTP/1.1\r\n\r\n", b"503"),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /%2e\xff\xfe HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000, b"405"),
        (b"BREW /livez HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /livez HTTP/2.0\r\n\r\n", b"400"),
        (b"GET /livez\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 100_000, b"400"),
    ],
)
def test_odd_requests_are_answered(
    raw: Callable[[bytes], socket.socket], capfd: pytest.CaptureFixture[str], request_: bytes, status: bytes
) -> None:
    answer = everything(raw(request_))
    assert answer.startswith(b"HTTP/1.1 " + status + b" ")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (body == b"") == request_.startswith(b"HEAD")
    assert b"Connection: close" in head
    assert capfd.readouterr() == ("", "")


def test_a_request_in_pieces_and_one_that_never_ends(
    raw: Callable[[bytes], socket.socket], capfd: pytest.CaptureFixture[str]
) -> None:
    silent, slow, reset, pieces = raw(b""), raw(b"GET /livez HTTP/1.1\r\nX: "), raw(b"GET"), raw(b"GET /li")
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    reset.close()  # with a reset
    pieces.sendall(b"vez HTTP/1.1\r")
    pieces.sendall(b"\n\r\n")
    assert everything(pieces).startswith(b"HTTP/1.1 200 ")
    assert everything(silent) == b""
    with suppress(ConnectionError):
        for _ in range(600):  # a byte now and then does not buy more time
            slow.sendall(b"x")
            time.sleep(0.05)
        pytest.fail("the connection outlived its deadline")
    assert capfd.readouterr() == ("", "")


def test_more_connections_than_it_has_descriptors_for(
    raw: Callable[[bytes], socket.socket], capfd: pytest.CaptureFixture[str]
) -> None:
    """A thread and a descriptor for each would leave the engine of this process none."""
    threads, before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    idle = [raw(b"GET /livez HTTP/1.1\r\n") for _ in range(300)]
    assert everything(raw(b"GET /livez HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    ours = len(os.listdir("/proc/self/fd")) - before - len(idle)
    assert ours <= health.MOST + 1
    assert threading.active_count() == threads
    assert everything(idle[0]) == b"", "the oldest made room"
    assert capfd.readouterr() == ("", "")


def test_few_descriptors_are_left_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health.resource, "getrlimit", lambda _: (64, 64))
    server = HealthServer("127.0.0.1:0", {}, say=print)
    assert server._most == 8


def test_ipv6() -> None:
    port = free_port()
    HealthServer(f"[::1]:{port}", {"livez": lambda: ""}, say=print)
    deadline = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection(("::1", port), timeout=30) as client:
                client.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
                assert everything(client).startswith(b"HTTP/1.1 200 ")
                return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
