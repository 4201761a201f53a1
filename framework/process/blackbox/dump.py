"""The stack dumps of a tree: each process writes to a file in memory of its slot, which no reader can block.

A hanging process writes its dump inside a signal handler of C code, also while it holds the interpreter: a full pipe
would block it without end. So it writes into the file of its slot, and the supervisor reads it: for SIGUSR1 it copies
the dump to standard error as far as there is room, under a title with slot and pid; before a kill it keeps the dump.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from framework.process.nameless import nameless_file
from framework.process.outlet import PIPE_BUF, Outlet
from framework.process.signals import BLACK_BOX

MOST = 1 << 20  # bytes of a slot that may wait for a reader
MOST_READ = 256 << 10  # bytes that are read of one dump
WITHIN = 0.010  # seconds in which processes that are about to be killed must have written their stacks
_LOOK, _STEADY = 0.0002, 0.003  # seconds between looks, and without growth after which a dump counts as complete
_BIT = 1 << (BLACK_BOX - 1)


class Stacks:
    """The files with the stacks, and how much of each was copied.

    Args:
        slots: names of the slots.
        supervisor: the name of the process that reads.

    Attributes:
        descriptors: one for each slot, and a last one for the supervisor; writes go to the end of the file.
    """

    def __init__(self, slots: Sequence[str] = ()) -> None:
        self._names = [*slots, "supervisor"]
        self.descriptors = [nameless_file("worker-stacks") for _ in self._names]
        for fd in self.descriptors:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
        self._copied = [0 for _ in self._names]
        self._titled = [False for _ in self._names]
        self._asked: dict[int, int] = {}  # by slot, where the dump of a process begins that is about to be killed
        self._outlet = Outlet(2)

    def dump(self) -> None:
        """Write the stacks of this process."""
        faulthandler.dump_traceback(file=self.descriptors[-1], all_threads=True)

    def copy(self, pid_of: Callable[[int], int]) -> int:
        """Copy what has come since the last call. Return the bytes that were dropped because their reader stands
        still.

        Args:
            pid_of: returns the pid of the process in a slot.
        """
        return sum(self._copy(index, pid_of) for index in range(len(self.descriptors)))

    def _copy(self, index: int, pid_of: Callable[[int], int]) -> int:
        fd = self.descriptors[index]
        size = self._asked.get(index, os.fstat(fd).st_size)  # what a process was asked for is not copied
        if self._copied[index] >= size:
            self._titled[index] = False
            return 0
        if not self._titled[index]:
            pid = os.getpid() if index == len(self._names) - 1 else pid_of(index)
            if not self._outlet.write(f"\nStacks of {self._names[index]}, pid {pid}\n".encode()):
                return self._give_up(index, size) if size - self._copied[index] > MOST else 0
            self._titled[index] = True
        while self._copied[index] < size:
            data = os.pread(fd, PIPE_BUF, self._copied[index])
            data = data[: data.rfind(b"\n") + 1] or data  # whole lines only: others also write to standard error
            if not self._outlet.write(data):
                return self._give_up(index, size) if size - self._copied[index] > MOST else 0
            self._copied[index] += len(data)
        if size > MOST:
            self._give_up(index, size)
        return 0

    def _give_up(self, index: int, size: int) -> int:
        left = size - self._copied[index]
        os.ftruncate(self.descriptors[index], 0)
        self._copied[index] = 0
        return left

    # --- before a kill ----------------------------------------------------------------------------------------------

    def ask(self, index: int, pid: int) -> None:
        """Make a process write its stacks for `take`, unless it was asked already."""
        if index not in self._asked and self._is_ours(index, pid):
            self._asked[index] = os.fstat(self.descriptors[index]).st_size
            with suppress(ProcessLookupError):
                os.kill(pid, BLACK_BOX)

    def wait(self, processes: Sequence[tuple[int, int]], within: float = WITHIN) -> None:
        """Wait for the stacks of processes that were asked, given as (slot, pid): for all together at most `within`
        seconds."""
        end = time.monotonic() + within
        waiting = {index: (pid, self._asked[index], end) for index, pid in processes if index in self._asked}
        while waiting and time.monotonic() < end:
            for index, (pid, size, since) in list(waiting.items()):
                now, found = time.monotonic(), os.fstat(self.descriptors[index]).st_size
                if found > self._asked[index] and (_has_answered(pid) or (found == size and now - since > _STEADY)):
                    del waiting[index]
                elif found != size:
                    waiting[index] = (pid, found, now)
            if waiting:
                time.sleep(_LOOK)

    def _is_ours(self, index: int, pid: int) -> bool:
        """Return whether a process still has the file under its number and would write to it: a job may have closed
        all descriptors, and opened something else. The signal would end a program that was executed in its place."""
        fd = self.descriptors[index]
        try:
            ours = os.path.samestat(os.stat(f"/proc/{pid}/fd/{fd}"), os.fstat(fd))
        except OSError:
            return False
        return ours and _mask(pid, "SigCgt") & _BIT != 0

    def take(self, index: int) -> str:
        """Return the dump that a slot's process was asked for, which is then not copied; empty: there is none."""
        start = self._asked.pop(index, None)
        if start is None:
            return ""
        data = os.pread(self.descriptors[index], MOST_READ, start)
        if self._copied[index] >= start:
            self._copied[index] = start + len(data)
        return data.decode("utf-8", "replace")

    def close(self) -> None:
        for fd in self.descriptors:
            os.close(fd)


def _has_answered(pid: int) -> bool:
    """Return whether the main thread has had the signal and has come back from its handler, which blocks the signal."""
    return (_mask(pid, "ShdPnd") | _mask(pid, "SigPnd") | _mask(pid, "SigBlk")) & _BIT == 0


def _mask(pid: int, field: str) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1], 16)
    except (OSError, ValueError):
        pass
    return 0


_own = 2  # the descriptor of this process's dumps


def install(number: int, fd: int | None = None) -> None:
    """Write the stacks of this process to a descriptor whenever a signal comes, in C code, whatever the process does.

    Args:
        fd: the descriptor; None: the one that was given before.
    """
    global _own
    _own = _own if fd is None else fd
    faulthandler.register(number, file=_own, all_threads=True)
