"""The ledgers of dead workers, for the process that settles their jobs.

Reading needs no lock: only the process that has a dead owner's lease from the engine reads or writes the lease's slot.
A rescuer holds the file's lock in shared mode while it writes; removing a file needs the lock in exclusive mode. So a
file is removed only when its owner is dead, no slot is in use, and no other rescuer uses it.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from framework.engine import flocks
from framework.engine.ledger import files
from framework.engine.ledger import format as form
from framework.engine.ledger.calls import Calls
from framework.engine.ledger.format import Damaged, Entry, Head, Key, Newer, key_of
from framework.model.job import Lease
from framework.model.outcome import Outcome

PATIENCE = 0.3  # seconds in which the kernel closes all files of a process that has just died
MOST_TRIES = 3  # failed reads of a ledger after which its jobs go on without it
STALE = 600.0  # seconds for which a slot is kept whose lease the engine does not know
_MOST_BYTES = form.PAGE * (2 + form.MOST_SLOTS)
# The file is gone, or something else was planted in its place, which this process does not read.
_NO_FILE = (errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.ENXIO)


class DeadLedger:
    """The ledger of one owner whose leases this process settles.

    The owner may also be alive and have lost its leases: then the ledger is only read.

    Attributes:
        newer: the error that says why this version cannot read the ledger; None if it can.
        damage: a line for each part that could not be read.
    """

    def __init__(self, calls: Calls, fd: int, *, clock: Callable[[], float] = time.time) -> None:
        """Read the ledger and take over the descriptor, also on an error. Raises OSError."""
        self._calls, self._fd, self._clock = calls, fd, clock
        self._head: Head | None = None
        self._entries: dict[Key, Entry] = {}
        self.newer: Newer | None = None
        self.damage: list[str] = []
        try:
            self._is_dead = _lock_within(calls, fd, PATIENCE)
            self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        data = _content(self._calls, self._fd)
        try:
            self._head = form.decode_head(data)
        except Newer as error:
            self.newer = error
        except Damaged as error:
            self.damage.append(f"{error}: what its owner had started is not known")
        else:
            self._entries = {entry.key: entry for entry in form.entries(data, self._head, self.damage)}

    def entry(self, lease: Lease) -> Entry | None:
        """Return the entry of a lease, or None if its handler had not started. Raises Newer."""
        if self.newer is not None:
            raise self.newer
        return self._entries.get(key_of(lease))

    @property
    def about(self) -> bytes:
        """Return what the owner said of itself; empty: nothing."""
        return b"" if self._head is None else self._head.about

    def resolve(self, lease: Lease, outcome: Outcome) -> None:
        """Record the outcome of a lost attempt before anything else is done, so that the next rescuer does the same.

        Raises OSError.
        """
        entry = self._entries.get(key_of(lease))
        if entry is None or not self._is_dead:
            return
        at, run = self._at(entry), self._calls.pread(self._fd, 8, self._at(entry))
        body = form.encode_outcome(outcome, self._clock(), resolved=True)
        self._store(at, form.OUTCOME, 0)
        self._calls.pwrite(self._fd, body, at + form.OUTCOME_AT)
        self._store(at, form.OUTCOME, form.commit_of(body, struct.unpack("<Q", run)[0]))

    def sent(self, lease: Lease) -> None:
        """Record that telemetry has the attempt. Errors are ignored: then telemetry is asked again."""
        entry = self._entries.get(key_of(lease))
        if entry is not None and self._is_dead:
            with contextlib.suppress(OSError):
                self._store(self._at(entry), form.TOLD, 1)

    def free(self, lease: Lease) -> None:
        """Free the slot: the engine has the settlement. Errors are ignored: a slot without a lease has no effect."""
        entry = self._entries.pop(key_of(lease), None)
        if entry is not None and self._is_dead:
            with contextlib.suppress(OSError):
                self._store(self._at(entry), form.RUN, 0)

    def close(self) -> None:
        """Release the lock. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                self._calls.close(fd)

    def _at(self, entry: Entry) -> int:
        assert self._head is not None
        return self._head.slots_at + entry.number * self._head.slot

    def _store(self, at: int, word: int, value: int) -> None:
        self._calls.pwrite(self._fd, struct.pack("<Q", value), at + 8 * word)


class DeadLedgers:
    """The ledgers of dead workers in one directory. One thread at a time may use them.

    Args:
        place: the directory.
        say: called with a line about each file that is damaged or cannot be read or removed.
        calls: the system calls, which tests replace. clock: returns monotonic seconds.
    """

    def __init__(
        self,
        place: Path,
        *,
        say: Callable[[str], None] = lambda _: None,
        calls: Calls | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place
        self._say = say
        self._calls = calls or Calls()
        self._clock = clock
        self._open: dict[str, DeadLedger | None] = {}
        self._tries: Counter[str] = Counter()
        self._seen: dict[str, float] = {}  # when a dead worker's ledger with slots in use was first seen, by name
        self._said: set[str] = set()
        flocks.in_child(self)

    def of(self, owner: str) -> DeadLedger | None:
        """Return the ledger of an owner of rescued leases, or None if there is none that can be read.

        Raises OSError: the caller asks again later.
        """
        if owner not in self._open:
            try:
                self._open[owner] = self._opened(files.name_of(owner))
            except ValueError:  # a name that no worker has
                return None
            except OSError as error:
                self._tries[owner] += 1
                if self._tries[owner] < MOST_TRIES or error.errno in (errno.EMFILE, errno.ENFILE):
                    raise
                self._tell(f"ledger of {owner} in {self._place} cannot be read: {error.strerror or error}")
                self._open[owner] = None
            del self._tries[owner]
        return self._open[owner]

    def _opened(self, name: str) -> DeadLedger | None:
        try:
            with files.directory(self._calls, self._place) as place:
                try:
                    fd = files.open_file(self._calls, name, place)
                except OSError as error:
                    if error.errno in _NO_FILE:
                        return None
                    raise
        except FileNotFoundError:
            return None
        found = DeadLedger(self._calls, fd)
        for line in found.damage:
            self._tell(f"ledger {self._place / name} is damaged: {line}")
        return found

    def finished(self, owner: str) -> None:
        """Remove an owner's ledger once none of its leases is left, unless another rescuer uses it."""
        found = self._open.pop(owner, None)
        if found is None:
            return
        found.close()
        if found.newer is None:
            # Where this fails, `sweep` removes it later.
            with contextlib.suppress(OSError), files.directory(self._calls, self._place) as place:
                self._remove(files.name_of(owner), place)

    def sweep(self, declared: Collection[str], *, complete: bool) -> None:
        """Remove ledgers of dead workers that no rescuer needs. Raises OSError.

        Args:
            declared: queues on which this process rescues.
            complete: the engine has returned all abandoned leases of these queues. Then a slot in use has no lease any
                more: its owner died between the settlement and freeing the slot. Its file is removed after STALE, too.
        """
        with contextlib.suppress(FileNotFoundError), files.directory(self._calls, self._place) as place:
            names = {name for name in self._calls.listdir(place) if name.endswith(files.SUFFIX)}
            mine = {files.name_of(owner) for owner, found in self._open.items() if found is not None}
            self._seen = {name: since for name, since in self._seen.items() if name in names}
            for name in sorted(names - mine):
                try:
                    self._remove(name, place, declared=declared if complete else None)
                except OSError as error:
                    if error.errno not in _NO_FILE:
                        self._tell(f"ledger {self._place / name} cannot be removed: {error.strerror or error}")

    def _remove(self, name: str, place: int, *, declared: Collection[str] | None = None) -> None:
        """Remove one file if its owner is dead and no slot is needed. Raises OSError."""
        calls = self._calls
        fd = files.open_file(calls, name, place)
        try:
            if not calls.lock(fd):
                return
            if calls.fstat(fd).st_nlink == 0:  # unlinked meanwhile: the name may belong to another file now
                return
            if name[0] == "." or self._is_over(name, fd, declared):
                calls.unlink(name, dir_fd=place)
                self._seen.pop(name, None)
        finally:
            calls.close(fd)

    def _is_over(self, name: str, fd: int, declared: Collection[str] | None) -> bool:
        data = _content(self._calls, fd)
        try:
            head = form.decode_head(data)
        except Newer:
            return False
        except Damaged as error:
            self._tell(f"ledger {self._place / name} is damaged, and removed: {error}")
            return True
        if not form.occupied(data, head):
            return True
        if declared is None or not all(entry.queue in declared for entry in form.entries(data, head, [])):
            return False
        return self._clock() - self._seen.setdefault(name, self._clock()) >= STALE

    def _tell(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._say(line)

    def close(self) -> None:
        """Close all ledgers, so that another rescuer can use what is left."""
        for found in self._open.values():
            if found is not None:
                found.close()
        self._open.clear()

    def after_fork(self) -> None:
        """Close all ledgers in a forked child: the locks are the parent's."""
        self.close()


def _content(calls: Calls, fd: int) -> bytes:
    """Return the bytes of a file; for a pipe or a device, which has no size, none. Raises OSError."""
    wanted, data = min(calls.fstat(fd).st_size, _MOST_BYTES), b""
    while len(data) < wanted:
        more = calls.pread(fd, wanted - len(data), len(data))
        if not more:
            break
        data += more
    return data


def _lock_within(calls: Calls, fd: int, seconds: float) -> bool:
    """Take the lock in shared mode within `seconds`. Return False if the owner lives. Raises OSError."""
    deadline = time.monotonic() + seconds
    while not calls.lock(fd, shared=True):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)
    return True
