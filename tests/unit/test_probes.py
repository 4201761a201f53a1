"""Health over HTTP."""

from __future__ import annotations

import http.client
import socket
import threading
import time

import pytest

from framework.errors import SettingsError
from framework.maintenance import HealthServer
from framework.settings import load_settings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
