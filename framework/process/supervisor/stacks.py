"""The stack dumps for SIGUSR1: every process of a tree writes to a file in memory, which no reader can block.

A hanging process writes its dump inside a signal handler, holding the GIL: a full pipe would block it without end. So
each process writes into the file, and the supervisor copies it to standard error as far as there is room.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os

from framework.process.nameless import nameless_file
from framework.process.outlet import PIPE_BUF, Outlet

MOST = 1 << 20  # bytes that may wait for a reader


class Stacks:
    """The file with the stacks, and how much of it was copied.

    Attributes:
        fd: the descriptor that the whole tree shares; writes go to the end of the file.
    """

    def __init__(self) -> None:
        self.fd = nameless_file("worker-stacks")
        fcntl.fcntl(self.fd, fcntl.F_SETFL, fcntl.fcntl(self.fd, fcntl.F_GETFL) | os.O_APPEND)
        self._copied = 0
        self._outlet = Outlet(2)

    def dump(self) -> None:
        """Write the stacks of this process."""
        self.title("supervisor", os.getpid())
        faulthandler.dump_traceback(file=self.fd, all_threads=True)

    def title(self, process: str, pid: int) -> None:
        """Write whose stacks come next: a child's dump, made in a C signal handler, names no process."""
        os.write(self.fd, f"\nStacks of {process}, pid {pid}\n".encode())

    def copy(self) -> int:
        """Copy what has come since the last call. Return the bytes that were dropped because their reader stands
        still."""
        size = os.fstat(self.fd).st_size
        while self._copied < size:
            data = os.pread(self.fd, PIPE_BUF, self._copied)
            data = data[: data.rfind(b"\n") + 1] or data  # whole lines only: others also write to standard error
            if not self._outlet.write(data):
                return self._give_up(size) if size - self._copied > MOST else 0
            self._copied += len(data)
        if size > MOST:
            self._give_up(size)
        return 0

    def _give_up(self, size: int) -> int:
        left = size - self._copied
        os.ftruncate(self.fd, 0)
        self._copied = 0
        return left

    def close(self) -> None:
        os.close(self.fd)
