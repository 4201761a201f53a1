"""Log lines on their way out: one `write` per line, so that the lines of many processes never mix. It never raises."""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable
from contextlib import suppress

# POSIX: a write of up to so many bytes to a pipe is atomic. Linux: a pipe that is writable has room for as many.
PIPE_BUF = getattr(select, "PIPE_BUF", 4096)
PATIENCE = 0.2


class LineWriter:
    """Writes whole lines to a file descriptor. What cannot be written is dropped and counted; nothing raises.

    Args:
        fd: standard output.
        dropped: called for each line that was lost.

    Attributes:
        limit: bytes of a line, newline included, that are written undivided; None = any length (a file, a terminal).
        is_terminal: somebody may be reading.
    """

    def __init__(self, fd: int = 1, *, dropped: Callable[[], None] = lambda: None) -> None:
        self._fd = fd
        self._dropped = dropped
        self._stalled = False
        self.is_terminal = False
        self.limit: int | None = None
        with suppress(OSError):  # closed: every line will be counted as lost
            self.is_terminal = os.isatty(fd)
            mode = os.fstat(fd).st_mode
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                self.limit = PIPE_BUF

    def write(self, line: bytes) -> None:
        """Writes one line. A reader that has stopped reading costs 0.2 s once, then nothing until it reads again.

        Between the question and the write another process may take the room; the write then waits for the reader.
        That is left so: the descriptor is shared, so we must not make it non-blocking.
        """
        try:
            if self.limit is not None and not self._has_room():
                self._dropped()
                return
            written = os.write(self._fd, line)
            while written < len(line):  # a file on a full disk, a terminal; a pipe takes all or nothing
                line = line[written:]
                written = os.write(self._fd, line)
        except (OSError, ValueError):  # nobody reads (EPIPE), would block (EAGAIN), full disk, closed
            self._dropped()

    def _has_room(self) -> bool:
        _, ready, _ = select.select((), (self._fd,), (), 0 if self._stalled else PATIENCE)
        self._stalled = not ready
        return bool(ready)
