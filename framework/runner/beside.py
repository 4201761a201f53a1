"""A supervisor as the child of another process, such as a web server: one container, one command.

The supervisor looks at its parent at each turn, so it drains within a second when that dies, however it dies.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from framework.model.backoff import doubled
from framework.model.errors import UsageError, WorkerError
from framework.service.app import WorkerApp
from framework.service.settings import Settings, load_settings

log = logging.getLogger("framework")

FIRST, MOST = 1.0, 30.0  # seconds before a supervisor that has ended by itself is started again
GRACE = 10.0  # seconds beyond the drain after which a supervisor that has not ended is killed
LOOK = 0.2  # seconds between looks at a supervisor that is starting


class EndsWith:
    """The watch of a supervisor over the process that has started it. When that is gone, the supervisor drains."""

    def __init__(self, parent: int | None) -> None:
        self._parent = parent

    def look(self) -> None:
        """Send this process SIGTERM, once, if its parent has ended."""
        if self._parent is not None and os.getppid() != self._parent:
            self._parent = None
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def running(app: type[WorkerApp], settings: Settings | None) -> Generator[None, None, None]:
    """Run the app's workers beside this process, from their readiness on; drain them at the end.

    Raises:
        UsageError: the app cannot be imported by another process. WorkerError: the workers do not start.
    """
    beside = Beside(app, (settings or load_settings()).drain_seconds)
    beside.start()
    try:
        yield
    finally:
        beside.stop()


class Beside:
    """The supervisor of an app in a process of its own, started again when it ends by itself."""

    def __init__(self, app: type[WorkerApp], drain: float | None) -> None:
        if app.__module__ == "__main__" or "<locals>" in app.__qualname__:
            raise UsageError(f"{app.__qualname__} of {app.__module__} cannot run beside: put it into a module")
        self._target, self._drain = f"{app.__module__}:{app.__qualname__}", drain
        self._stopping, self._lock = threading.Event(), threading.Lock()
        self._supervisor: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start the supervisor and wait until its workers are ready. Raises WorkerError: it ends before."""
        with tempfile.TemporaryDirectory(prefix="worker-") as directory:
            address = Path(directory, "ready")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.bind(str(address))
                channel.settimeout(LOOK)
                self._supervisor = self._launch({"NOTIFY_SOCKET": str(address)})
                try:
                    self._wait_until_ready(channel)
                except BaseException:  # also Ctrl-C
                    self.stop()
                    raise
        threading.Thread(target=self._watch, name="workers-beside", daemon=True).start()

    def _wait_until_ready(self, channel: socket.socket) -> None:
        while not _is_ready(channel):
            code = self._supervisor.poll()
            if code is not None:
                raise WorkerError(f"the workers of {self._target} ended with exit code {code}")

    def stop(self) -> None:
        """Drain the workers and wait for their end."""
        with self._lock:  # from now on none is started
            self._stopping.set()
            process = self._supervisor
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(None if self._drain is None else self._drain + GRACE)
        except subprocess.TimeoutExpired:
            process.kill()

    def _watch(self) -> None:
        failures = 0
        while True:
            began, code = time.monotonic(), self._supervisor.wait()
            if self._stopping.is_set():
                return
            failures = 1 if time.monotonic() - began > MOST else failures + 1
            delay = doubled(FIRST, failures - 1, MOST)
            log.error("the workers of %s ended with exit code %s: again in %g s", self._target, code, delay)
            self._stopping.wait(delay)
            with self._lock:
                if self._stopping.is_set():
                    return
                self._supervisor = self._launch({})

    def _launch(self, more: dict[str, str]) -> subprocess.Popen[bytes]:
        environ = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
        environ["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)  # it finds what we find
        # A group of its own: Ctrl-C in a terminal would drain it, and our SIGTERM would then be the second signal.
        return subprocess.Popen(
            command("run", self._target, "--parent", str(os.getpid())),
            env=environ | more,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )


def command(*arguments: str) -> list[str]:
    """Return a `worker` command of this interpreter, which no package in the working directory can hide."""
    return [sys.executable, "-P", "-m", "continuum_worker", *arguments]


def _is_ready(channel: socket.socket) -> bool:
    try:
        return b"READY=1" in channel.recv(4096).split(b"\n")
    except TimeoutError:
        return False
