"""Programs beside the one that is tested, such as servers: started, waited for, ended; and ports for them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
READY, END = 60.0, 45.0  # seconds
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know our loopback


class NotInTime(Exception):
    """Something did not come about; says what."""


def wait_for(look: Callable[[], T], what: str, patience: float = READY) -> T:
    """The first true value of `look`, which is asked five times a second. Raises NotInTime."""
    end = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > end:
            raise NotInTime(f"waited {patience:.0f} s for {what}")
        time.sleep(0.2)
    return found


def get(url: str, **parameters: Any) -> Any:
    """The JSON (or text) of a GET. Raises urllib.error.HTTPError with the server's words in `msg`."""
    query = urllib.parse.urlencode(parameters, doseq=True)
    try:
        with _direct.open(f"{url}?{query}" if query else url, timeout=30) as answer:
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        error.msg = error.read().decode(errors="replace")[:500]
        raise
    try:
        return json.loads(text)
    except ValueError:
        return text


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        get(url)
    except OSError:
        return False
    return True


def listens(port: int) -> bool:
    """Return whether somebody listens at a port of the loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that are free now; they are held together, so they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def free_port() -> int:
    """Return one."""
    return free_ports(1)[0]


class Process:
    """One process in a group of its own, its output in a file.

    Args:
        cwd: None = where we are.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], environ: Mapping[str, str], log: Path, cwd: Path | None = None
    ) -> None:
        self.name, self.log = name, log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, env=dict(environ), cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                process_group=0,
            )  # fmt: skip
        self.pid = self._process.pid

    def check(self) -> bool:
        """True while it runs. Raises NotInTime with its last lines once it has ended."""
        if self._process.poll() is None:
            return True
        raise NotInTime(f"{self.name} ended with {self._process.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])

    def wait(self, patience: float) -> int:
        """Its exit code. Raises NotInTime."""
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            raise NotInTime(f"{self.name} has not ended in {patience:.0f} s:\n{self.tail()}") from None

    def stop(self) -> int:
        """SIGTERM, and SIGKILL to its group where that does not end it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(END)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            return self._process.wait()


def plain_environ() -> dict[str, str]:
    """Ours without what would configure telemetry, the framework or the example."""
    ours = ("OTEL_", "WORKER_", "RELAY_", "RECEIVER_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
