"""The trial of a service's constructor: what fails is one line, and nothing of it stays in this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from framework import WorkerApp
from framework.model.errors import WorkerError
from framework.runner.construct import construct, try_constructor


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raising(error: BaseException) -> Callable[[object], None]:
    def constructor(_: object) -> None:
        raise error

    return constructor


def app(constructor: Callable[[object], None]) -> type[WorkerApp]:
    return type("Service", (WorkerApp,), {"__init__": constructor})


@pytest.mark.parametrize(
    ("constructor", "says"),
    [
        (raising(KeyError("DSN")), "Service() fails: KeyError: 'DSN' ("),
        (raising(ValueError("two\nlines")), "Service() fails: ValueError: two lines ("),
        (raising(SystemExit(0)), "Service() fails: SystemExit: 0 ("),
        (raising(SystemExit("no licence")), "no licence"),
        (raising(GeneratorExit()), "GeneratorExit"),
        (raising(Broken()), "Broken (its __str__ failed)"),
        (lambda _: os._exit(0), "Service() ends its process"),
        (lambda _: os.kill(os.getpid(), signal.SIGKILL), "Service() ends its process"),
        (lambda _: time.sleep(600), "Service() did not return within 0.3 s"),
    ],
)
def test_a_constructor_that_fails_is_one_line(
    constructor: Callable[[object], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framework.runner.construct.threads", lambda: 1)  # pytest-xdist has some
    with pytest.raises(WorkerError) as raised:
        try_constructor(app(constructor), 0.3 if "0.3 s" in says else 30)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 1


def test_the_line_names_the_place_in_the_service() -> None:
    def constructor(_: object) -> None:
        os.environ["NOT_SET_ANYWHERE"]

    with pytest.raises(WorkerError, match=r"test_construct\.py:\d+"):
        try_constructor(app(constructor), 5.0)


def test_an_abstract_app_is_refused() -> None:
    from abc import ABC, abstractmethod

    class Abstract(WorkerApp, ABC):
        @abstractmethod
        def send(self) -> None: ...

    with pytest.raises(WorkerError, match=r"Abstract\(\) fails: TypeError: Can't instantiate abstract class"):
        construct(Abstract)


def test_what_a_constructor_starts_and_opens_is_not_here_afterwards() -> None:
    """In an interpreter without threads, as the supervisor is one."""
    code = """
import os, threading, time
from framework import WorkerApp
from framework.runner.construct import try_constructor
from framework.process.supervisor import threads
class Service(WorkerApp):
    def __init__(self):
        threading.Thread(target=time.sleep, args=(600,)).start()
        self.kept = open("/dev/null")
def open_now(): return sorted(os.listdir("/proc/self/fd"))
before = open_now()
try_constructor(Service, 5.0)
assert threads() == 1 and open_now() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_where_threads_run_it_is_constructed_here() -> None:
    made: list[int] = []
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        try_constructor(app(lambda _: made.append(os.getpid())), 5.0)
    finally:
        stop.set()
        thread.join()
    assert made == [os.getpid()]
