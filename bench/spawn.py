"""Processes of the harness: started in a session of their own, asked in JSON lines, ended by their id. Nothing waits
without a limit: a peer that hangs is reported, never waited for."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0  # seconds for an answer, unless said otherwise
_LEAVE = 15.0  # seconds from SIGTERM to SIGKILL
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """A system could not do what was asked; one line that says what and why."""


def module(name: str, *arguments: str) -> list[str]:
    """The command of a module under this interpreter."""
    return [sys.executable, "-m", name, *arguments]


def script(name: str, *arguments: str) -> list[str]:
    """The command of a script that was installed beside this interpreter. Raises Failed: it was not."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise Failed(f"{name} is not installed beside {sys.executable}: pip install '.[bench]'")
    return [str(path), *arguments]


def free_port() -> int:
    """Free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A child with its descendants; its output goes to a file that is shown when it fails.

    Args:
        command, environ: what runs; `environ` is added to a small environment of our own.
        log: where standard error goes (and standard output, unless it is `asked`).
        asked: it answers in JSON lines.
        user: run as this user; None = as we are.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        log: Path,
        asked: bool = False,
        user: str | None = None,
    ) -> None:
        self.log = log
        self.began = time.monotonic_ns()
        with open(log, "ab") as sink:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if asked else subprocess.DEVNULL,
                stdout=subprocess.PIPE if asked else sink,
                stderr=sink,
                env=_environ() | dict(environ),
                cwd=ROOT,
                start_new_session=True,
                user=user,
                preexec_fn=_end_with_parent,
            )
        self.pid = self._process.pid
        self._answers = b""

    def ask(self, order: Mapping[str, Any] | None, *, patience: float = PATIENCE) -> dict[str, Any]:
        """Sends an order (None: only listens) and gives the answer. Raises Failed."""
        assert self._process.stdin is not None
        if order is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(order).encode() + b"\n")
                self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line(patience))
        if "error" in answer:
            raise Failed(f"{(order or {}).get('verb', 'start')}: {answer['error'][:300]}")
        return answer

    def _line(self, patience: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = time.monotonic() + patience
        while b"\n" not in self._answers:
            if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
                raise Failed(f"no answer within {patience:g} s: {self.tail()}")
            data = os.read(descriptor, 65536)
            if not data:
                raise Failed(f"ended: {self.tail()}")
            self._answers += data
        line, _, self._answers = self._answers.partition(b"\n")
        return line

    def wait_until(self, happened: Callable[[], bool], what: str, *, patience: float = PATIENCE) -> None:
        """Looks every 2 ms. Raises Failed: it has not happened in time, or the process has ended."""
        end = time.monotonic() + patience
        while not happened():
            if self._process.poll() is not None:
                raise Failed(f"ended with {self._process.returncode} before {what}: {self.tail()}")
            if time.monotonic() > end:
                raise Failed(f"not within {patience:g} s: {what}: {self.tail()}")
            time.sleep(0.002)

    def tail(self) -> str:
        """The last line of its log that speaks of an error, or the last one."""
        lines = self.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        errors = [line for line in lines if "error" in line.lower()]
        return [*lines, *errors][-1][-400:]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Tells it to leave; after a while kills its session. Idempotent."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        elif self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(_LEAVE)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(_LEAVE)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _environ() -> dict[str, str]:
    """Without anybody's WORKER_*, OTEL_* and the like."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def _end_with_parent() -> None:
    """A harness that is killed leaves no server behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
