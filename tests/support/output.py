"""The log of a `worker run`, as events, up to what its processes have written by the moment of the look."""

from __future__ import annotations

import json
import os
import select
import subprocess
import threading
from typing import Any

from tests.support.warm import Running


class Output:
    """Reads a process' standard output: in a thread, so that the pipe never fills, and at each look.

    Args:
        events: what was read is appended there.
        changed: its lock guards `events`; it is notified when one has come.
    """

    def __init__(
        self, process: subprocess.Popen[bytes] | Running, events: list[dict[str, Any]], changed: threading.Condition
    ) -> None:
        assert process.stdout is not None
        self._stream = process.stdout  # kept open for what outlives the process
        self._events, self._changed = events, changed
        self._rest = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while self._readable(None):
            with self._changed:
                if not self.take():
                    return

    def take(self) -> bool:
        """Take what was written by now; the lock must be held. Return False at the end of the stream."""
        while self._readable(0):
            chunk = os.read(self._stream.fileno(), 1 << 16)
            if not chunk:
                self._events.extend(map(_event, filter(None, [self._rest])))
                self._rest = b""
                return False
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._events.extend(map(_event, lines))
            self._changed.notify_all()
        return True

    def _readable(self, seconds: float | None) -> bool:
        poll = select.poll()  # a test process has descriptors above select's 1,024
        poll.register(self._stream, select.POLLIN)
        return bool(poll.poll(seconds))


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    return event if isinstance(event, dict) else {"event": "raw", "text": line.decode(errors="replace") + "\n"}
