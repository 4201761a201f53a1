"""The demo's processes: started in groups of their own, read line by line, and none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LAST_LINES = 20  # shown when a process fails
IMPATIENT = 5.0  # seconds after a second Ctrl-C


class ChildFailed(Exception):
    """A process did not start, or ended when it should not have; says which, how and its last lines."""


class Child:
    """One process with its output in a file, each line also passed to `line`.

    A group of its own, so that Ctrl-C on the terminal reaches the demo alone, which then ends the others in order.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        log: Path,
        line: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.name, self.log = name, log
        self._line = line
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._process = subprocess.Popen(
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        self._first = threading.Event()
        self._reader = threading.Thread(target=self._read, name=f"{name} output", daemon=True)
        self._reader.start()

    def first_line(self, timeout: float) -> str:
        """The first line that it prints. Raises ChildFailed after `timeout` seconds, or when it ended without one."""
        if not self._first.wait(timeout) or not self._last:
            raise self.failure("printed nothing")
        return self._last[0]

    def check(self) -> None:
        """Raises ChildFailed if it has ended."""
        if self._process.poll() is not None:
            self._reader.join(1)
            raise self.failure(f"ended with exit code {self._process.returncode}")

    def stop(self, timeout: float) -> int:
        """SIGTERM, and SIGKILL to its group after `timeout` seconds; returns the exit code, negative for a signal.

        Ctrl-C meanwhile repeats the SIGTERM, which tells a supervisor to kill its own at once.
        """
        try:
            code = self._end(timeout)
        except KeyboardInterrupt:
            self._end(IMPATIENT)
            raise
        self._reader.join(5)  # the last lines count, too
        return code

    def _end(self, timeout: float) -> int:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """SIGKILL to the group. The children of a killed supervisor end by themselves: they watch it."""
        if self._process.poll() is None:  # unreaped, so the number is still its own
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def failure(self, what: str) -> ChildFailed:
        """The error that says so, with the process's last words."""
        last = "\n".join(f"  {text}" for text in self._last)
        return ChildFailed(f"{self.name} {what} (all of its output: {self.log})\n{last}".rstrip())

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe, self.log.open("wb", buffering=0) as log:
            for raw in pipe:
                log.write(raw)
                text = raw.decode(errors="replace").rstrip("\n")
                self._last.append(text)
                self._first.set()
                self._line(text)
        self._first.set()
