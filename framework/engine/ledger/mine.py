"""The ledger of this process: the worker writes it, and a rescuer reads it when the worker is dead.

The file is mapped: a store costs a tenth of a system call, and stored bytes outlive SIGKILL. The process holds its lock
until it ends; the mapping alone holds it too, so a handler that closes descriptors cannot release it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

from framework.engine import flocks
from framework.engine.ledger import files
from framework.engine.ledger.calls import Calls
from framework.engine.ledger.format import (
    COMMITTED,
    MOST_SLOTS,
    NO_OUTCOME,
    OUTCOME,
    OUTCOME_AT,
    PAGE,
    RUN,
    RUN_AT,
    RUN_SIZE,
    SUCCESS,
    TOLD,
    WORDS,
    commit_of,
    encode_head,
    encode_outcome,
    encode_run,
    pack_moment,
)
from framework.model.job import Lease, Run
from framework.model.outcome import SUCCEEDED, Outcome

_TRIES = 5  # attempts to make the file: a rescuer may remove a temp file as a dead process's


def size_of(slots: int) -> int:
    """Return the size of a ledger in bytes."""
    return PAGE * (1 + slots)


class Ledger:
    """The outstanding leases of one process. Each has a slot from its start until it is settled.

    One thread at a time may call `begin` and `restore`; any thread may call the other methods.

    Args:
        place: directory of the ledgers; it is made where it is missing, with its parents.
        incarnation: name of this run of the process, never reused.
        slots: usual number of leases that are outstanding at once; more slots are made when they are needed.
        boot: id of this boot, for a person who reads the file.
        about: what this process says of itself, for the telemetry of a rescuer.
        calls: the system calls, which tests replace.
        clock: returns the wall-clock time in seconds.

    Raises:
        OSError: there is no space, or no permission; nothing of the file stays.
        ValueError: the incarnation cannot be a file name.
    """

    def __init__(
        self,
        place: Path,
        incarnation: str,
        *,
        slots: int,
        boot: str = "",
        about: bytes = b"",
        calls: Calls | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._calls = calls or Calls()
        self._clock = clock
        self._place, self._name = place, files.name_of(incarnation)
        self._header = encode_head(incarnation, pid=os.getpid(), born=clock(), boot=boot, about=about)
        self._held: dict[int, int] = {}  # slots by the identity (`id`) of their lease
        self._free: list[int] = []
        self._fd = -1
        self._memory: mmap.mmap
        self._words: memoryview
        self._growing = threading.Lock()
        slots = min(MOST_SLOTS, max(1, slots))
        self._make(slots)
        self._free += reversed(range(slots))
        flocks.in_child(self)

    # --- the runs ---------------------------------------------------------------------------------------------------

    def begin(self, lease: Lease, run: Run) -> None:
        """Record a run: the attempt counts from now on. Raises OSError if no slot is free and no room for one more."""
        body = encode_run(lease, run)
        try:
            slot = self._free.pop()
        except IndexError:
            self._grow()
            slot = self._free.pop()
        at = slot * PAGE + PAGE
        # The slot is free: these bytes, the other words among them, have no effect before the last store commits them.
        self._memory[at + 8 : at + RUN_AT + RUN_SIZE] = NO_OUTCOME + body
        self._words[at >> 3] = COMMITTED | crc32(body)
        self._held[id(lease)] = slot

    def end(self, lease: Lease, outcome: Outcome, *, resolved: bool = False) -> None:
        """Record the outcome. A rescuer then does the same with the job and charges nothing more.

        Args:
            resolved: the attempt was that of a dead process, and this process has decided the outcome.
        """
        slot = self._held.get(id(lease))
        if slot is None:
            return
        now, word = self._clock(), slot * WORDS + WORDS
        body = (
            SUCCESS + pack_moment(now) if outcome is SUCCEEDED else encode_outcome(outcome, now, resolved=resolved)
        )  # mostly a success
        at = word * 8 + OUTCOME_AT
        with self._growing:  # `restore` may be copying the file: an outcome stored in the old one would be lost
            words = self._words
            words[word + OUTCOME] = 0  # an outcome may be replaced
            self._memory[at : at + len(body)] = body
            words[word + OUTCOME] = commit_of(body, words[word + RUN])

    def sent(self, lease: Lease) -> None:
        """Record that telemetry has the attempt."""
        slot = self._held.get(id(lease))
        if slot is not None:
            self._words[slot * WORDS + WORDS + TOLD] = 1

    def free(self, lease: Lease) -> None:
        """Free the slot: the engine has the settlement, or the lease was lost. Without a run this does nothing."""
        slot = self._held.pop(id(lease), None)
        if slot is not None:
            self._words[slot * WORDS + WORDS + RUN] = 0
            self._free.append(slot)

    def __len__(self) -> int:
        """Return the number of outstanding leases."""
        return len(self._held)

    # --- the file ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Remove the file, or leave it for a rescuer if leases are outstanding. Idempotent. Raises OSError."""
        if self._fd < 0:
            return
        try:
            if not self._held:
                with contextlib.suppress(FileNotFoundError), files.directory(self._calls, self._place) as place:
                    self._calls.unlink(self._name, dir_fd=place)
        finally:
            self._let_go()

    def restore(self) -> bool:
        """Write the file anew if it was deleted or moved, and return whether it was. Raises OSError."""
        if self._fd < 0 or self._is_there():
            return False
        with self._growing:
            memory, fd = self._memory, self._fd
            self._make(len(memory) // PAGE - 1, memory)
            self._calls.close(fd)
        return True

    def _is_there(self) -> bool:
        own = self._calls.fstat(self._fd)
        try:
            found = self._calls.stat(self._place / self._name, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)

    def after_fork(self) -> None:
        """Drop the file in a forked child: the lock is the parent's alone, and what the child writes is lost."""
        if self._fd < 0:
            return
        size = len(self._memory)
        self._let_go()
        self._memory = mmap.mmap(-1, size)
        self._words = memoryview(self._memory).cast("Q")
        self._growing = threading.Lock()

    def _let_go(self) -> None:
        fd, self._fd = self._fd, -1
        self._words.release()
        self._memory.close()
        if fd >= 0:
            with contextlib.suppress(OSError):  # a handler has closed it
                self._calls.close(fd)

    def _make(self, slots: int, content: mmap.mmap | None = None) -> None:
        """Make the file and lock it before it gets its name, so that a rescuer does not take its owner for dead."""
        with files.directory(self._calls, self._place, make=True) as place:
            for number in range(_TRIES):
                if self._make_as(f".{number}.{self._name}", place, slots, content):
                    return
        raise FileExistsError(f"{self._place}: drafts of {self._name} keep being in the way")

    def _make_as(self, temp: str, place: int, slots: int, content: mmap.mmap | None) -> bool:
        """Make the file by way of a temp file. Return False if that name is taken, or a rescuer was faster."""
        calls, size = self._calls, size_of(slots)
        try:
            fd = files.open_file(calls, temp, place, new=True)
        except FileExistsError:
            return False
        try:
            if calls.lock(fd):
                calls.fallocate(fd, 0, size)
                calls.pwrite(fd, self._header, 0)
                if content is not None:
                    calls.pwrite(fd, content[PAGE:], PAGE)
                self._map(fd, size)
                calls.link(temp, self._name, src_dir_fd=place, dst_dir_fd=place)
                self._fd = fd
        except FileNotFoundError:  # a rescuer removed the temp file before it was locked
            pass
        finally:
            with contextlib.suppress(OSError):  # a rescuer unlinks it later: its lock is free once this process is gone
                calls.unlink(temp, dir_fd=place)
            if self._fd != fd:
                calls.close(fd)
        return self._fd == fd

    def _map(self, fd: int, size: int) -> None:
        memory = self._calls.map(fd, size)
        self._memory, self._words = memory, memoryview(memory).cast("Q")

    def _grow(self) -> None:
        """Double the number of slots. Raises OSError."""
        with self._growing:
            size = len(self._memory)
            more = min(size // PAGE, MOST_SLOTS + 1 - size // PAGE)
            if more <= 0 or self._fd < 0:
                raise OSError(f"{len(self._held)} jobs are not settled: the ledger has no room for more")
            self._calls.fallocate(self._fd, size, more * PAGE)
            self._map(self._fd, size + more * PAGE)
            self._free += reversed(range(size // PAGE - 1, size // PAGE - 1 + more))
