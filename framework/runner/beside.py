"""A supervisor as the child of another process, such as a web server: one container, one command.

The supervisor looks at its parent at each turn, so it drains within a second when that dies, however it dies.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from framework.model.errors import UsageError, WorkerError
from framework.model.retry import doubled
from framework.service.app import WorkerApp
from framework.service.settings import PREFIX, RENAMED, Settings, load_settings

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
    environ = os.environ if settings is None else environment(settings, os.environ)
    beside = Beside(app, (settings or load_settings()).drain_seconds, environ)
    beside.start()
    try:
        yield
    finally:
        beside.stop()


class Beside:
    """The supervisor of an app in a process of its own, started again when it ends by itself."""

    def __init__(self, app: type[WorkerApp], drain: float | None, environ: Mapping[str, str]) -> None:
        if app.__module__ == "__main__" or "<locals>" in app.__qualname__:
            raise UsageError(f"{app.__qualname__} of {app.__module__} cannot run beside: put it into a module")
        self._target, self._drain = f"{app.__module__}:{app.__qualname__}", drain
        self._environ = environ
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
        while not self._stopping.is_set():
            began, code = time.monotonic(), self._supervisor.wait()
            failures = 0 if time.monotonic() - began > MOST else failures
            what = f"the workers of {self._target} ended with exit code {code}"
            while what and not self._stopping.is_set():
                failures += 1
                delay = doubled(FIRST, failures - 1, MOST)
                log.error("%s: again in %g s", what, delay)
                self._stopping.wait(delay)
                what = self._launch_again()

    def _launch_again(self) -> str:
        """Start the supervisor, unless this is to stop; return why it cannot start, or nothing."""
        with self._lock:
            if not self._stopping.is_set():
                try:
                    self._supervisor = self._launch({})
                except WorkerError as error:
                    return str(error)
        return ""

    def _launch(self, more: dict[str, str]) -> subprocess.Popen[bytes]:
        environ = {
            name: value for name, value in self._environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")
        }
        environ["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)  # it finds what we find
        # A group of its own: Ctrl-C in a terminal would drain it, and our SIGTERM would then be the second signal.
        try:
            return subprocess.Popen(
                command("run", self._target, "--parent", str(os.getpid())),
                env=environ | more,
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        except OSError as error:  # no processes, memory or descriptors are left, perhaps only for a while
            raise WorkerError(f"the workers of {self._target} cannot start: {error}") from error


def environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with these settings instead of those that it has."""
    given = settings.model_dump(mode="json", exclude_none=True)
    ours = {PREFIX + name.upper() for name in given} | RENAMED.keys()
    rest = {name: value for name, value in environ.items() if name.upper().partition("__")[0] not in ours}
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    return rest | {PREFIX + name.upper(): value for name, value in values.items()}


def command(*arguments: str) -> list[str]:
    """Return a `worker` command of this interpreter, which no package in the working directory can hide."""
    return [sys.executable, "-P", "-m", "continuum_worker", *arguments]


def _is_ready(channel: socket.socket) -> bool:
    try:
        return b"READY=1" in channel.recv(4096).split(b"\n")
    except TimeoutError:
        return False
