"""Log lines on their way out: one `write` per line, so that the lines of many processes never mix. It never raises.

No process of a tree waits for whoever reads its log: a held terminal or a log shipper that hangs would keep the
supervisor from a SIGTERM, maintenance from a rescue, and a worker from its drain, and would charge its jobs with a
timeout. So a line that finds no room is lost, and the next one that finds some says how many were. What handlers print
is another matter: it goes through Python's own streams, and waits like the output of any program.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from framework.process.outlet import PIPE_BUF, Outlet

PATIENCE = 0.2  # seconds that a reader may be late


class LineWriter:
    """Writes whole lines to a file descriptor. What cannot be written is dropped and counted; nothing raises.

    Args:
        fd: standard output.
        dropped: called for each line that was lost.
        patience: seconds that a reader who was there before may be late.

    Attributes:
        limit: bytes of a line, newline included, that are written undivided; None = any length (a file, a terminal).
        is_terminal: somebody may be reading.
        lost: lines since the last one that said so.
        notice: renders the line that says how many were lost.
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
        """Writes one line. A reader that has stopped reading costs the patience once, then nothing until it reads."""
        lost = self.lost
        both = self.notice(lost) + line if lost and self.notice is not None else line
        if self.limit is not None and len(both) > self.limit:
            both = line  # the notice waits for a shorter one
        if not self._put(both):
            self.lost += 1
            self._dropped()
        elif both is not line:
            self.lost -= lost

    def say_lost(self) -> None:
        """Says how many lines were lost, if any were and there is room again."""
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
        """The room that is seen may be another process's a moment later."""
        while (left := deadline - time.monotonic()) > 0 and self._outlet.wait(left):
            if self._outlet.write(line):
                return True
            if not self._outlet.full:
                return False
        return False
