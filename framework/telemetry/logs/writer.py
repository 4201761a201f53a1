"""Output of log lines: one `write` per line, so that the lines of many processes never mix. It never raises.

No process of a tree waits for the reader of its log. A stopped terminal or a hanging log shipper would otherwise keep
the supervisor from handling SIGTERM, maintenance from a rescue and a worker from its drain, and would charge jobs with
a timeout. So a line that cannot be written is dropped, and the next one that can says how many were. The output of
handlers is different: it goes through Python's own streams, and waits like the output of any program.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from framework.process.outlet import PIPE_BUF, Outlet

PATIENCE = 0.2  # seconds that a line waits for a slow reader


class LineWriter:
    """A writer of whole lines to a file descriptor. What cannot be written is dropped and counted; nothing raises.

    Args:
        fd: standard output.
        dropped: called for each line that was dropped.
        patience: seconds that a line waits for a reader that was keeping up before.

    Attributes:
        limit: bytes of a line, newline included, that are written undivided; None = any length (a file, a terminal).
        is_terminal: whether the output is a terminal.
        lost: lines that were dropped and not reported yet.
        notice: renders the line that says how many were dropped.
    """

    def __init__(self, fd: int = 1, *, dropped: Callable[[], None] = lambda: None, patience: float = PATIENCE) -> None:
        self._dropped = dropped
        self._patience = patience
        self._outlet = Outlet(fd)
        self._stalled = False
        self.is_terminal = os.isatty(fd)
        self.limit = PIPE_BUF if self._outlet.is_stream else None
        self.lost = 0
        self.notice: Callable[[int], bytes] | None = None

    def write(self, line: bytes) -> None:
        """Write one line. A reader that stops costs `patience` once, then nothing until it reads again."""
        lost = self.lost
        both = self.notice(lost) + line if lost and self.notice is not None else line
        if self.limit is not None and len(both) > self.limit:
            both = line  # the notice waits for a shorter line
        if not self._put(both):
            self.lost += 1
            self._dropped()
        elif both is not line:
            self.lost -= lost

    def say_lost(self) -> None:
        """Write how many lines were dropped, if any were and there is room again."""
        lost = self.lost
        if lost and self.notice is not None and self._put(self.notice(lost)):
            self.lost -= lost

    def _put(self, line: bytes) -> bool:
        done = self._outlet.write(line)
        if not done and self._outlet.full and not self._stalled:
            done = self._put_late(line, time.monotonic() + self._patience)
        self._stalled = not done
        return done

    def _put_late(self, line: bytes, deadline: float) -> bool:
        """Retry until the deadline, because another process may take the room first."""
        while (left := deadline - time.monotonic()) > 0 and self._outlet.wait(left):
            if self._outlet.write(line):
                return True
            if not self._outlet.full:
                return False
        return False
