"""The log of a `worker run`, as events, up to what its processes have written by the moment of the look."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterable
from typing import Any

from tests.support.processes import readable
from tests.support.warm import Running

Event = dict[str, Any]
NOT_JSON = "raw"  # the name of an event for a line that is no event


class Output:
    """Reads a process' standard output: in a thread, so that the pipe never fills, and at each look.

    Args:
        events: what was read is appended there.
        changed: its lock guards `events`; it is notified when one has come.
        keep: is called with each event; those for which it returns False are not appended.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes] | Running,
        events: list[Event],
        changed: threading.Condition,
        keep: Callable[[Event], bool],
    ) -> None:
        assert process.stdout is not None
        self._stream = process.stdout  # kept open for what outlives the process
        self._events, self._changed, self._keep = events, changed, keep
        self._rest = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while readable(self._stream.fileno(), None):
            with self._changed:
                if not self.take():
                    return

    def take(self) -> bool:
        """Take what was written by now; the lock must be held. Return False at the end of the stream."""
        while readable(self._stream.fileno(), 0):
            chunk = os.read(self._stream.fileno(), 1 << 16)
            if not chunk:
                self._add(filter(None, [self._rest]))
                self._rest = b""
                return False
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._add(lines)
            self._changed.notify_all()
        return True

    def _add(self, lines: Iterable[bytes]) -> None:
        self._events.extend(filter(self._keep, map(_event, lines)))


def _event(line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    return event if isinstance(event, dict) else {"event": NOT_JSON, "text": line.decode(errors="replace") + "\n"}
