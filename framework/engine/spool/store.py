"""The spool as one object: it holds the parts of each queue, and turns system errors into the framework's errors."""

from __future__ import annotations

import contextlib
import errno
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from framework.engine import flocks
from framework.engine.calls import Calls
from framework.engine.spool.claim import handlers, life
from framework.engine.spool.claim.claims import Claims
from framework.engine.spool.claim.life import Held
from framework.engine.spool.claim.listing import FEW
from framework.engine.spool.claim.notifier import Waker
from framework.engine.spool.claim.settle import Settle
from framework.engine.spool.claim.settlements import Settlements
from framework.engine.spool.disk import clock, filesystem, layout
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.parts import Parts
from framework.engine.spool.segments import copies
from framework.engine.spool.segments.readers import Readers
from framework.engine.spool.upkeep.browse import Browse
from framework.engine.spool.upkeep.maintain import IDLE_TURN, TURN, Rounds
from framework.engine.spool.upkeep.rescue import Orphan, count_unaccounted
from framework.model.errors import EngineError, EngineUnavailable, EnqueueFailed
from framework.model.job import Job, JobId, Lease
from framework.model.options import QueueOptions, QueueSpec

TRY_LOCKS_EVERY = 20.0  # seconds


class Spool:
    """A root directory with queues. Its verbs are those of `framework.engine.port.Engine`.

    Args:
        root: directory; `open` makes it when it is missing.
        incarnation: name of this process, never reused.
        power: fsync what is enqueued.
        network_file_system: accept one, though locks and renames may not hold there.
        calls: the system calls; tests replace them.

    Attributes:
        counts: how often each of these happened: `lost`, `missed`, `bad`, `stranded`, `recovered`, `unsynced`, ...
        notes: what the file system cannot promise, one line each; filled by `open`.
        settlements: settles leases; set by `open`.
        survives_power_cut: an acknowledged job survives a power cut; set by `open`.
    """

    def __init__(
        self,
        root: Path,
        *,
        incarnation: str,
        power: bool = True,
        network_file_system: bool = False,
        calls: Calls | None = None,
    ) -> None:
        life.wid_of(incarnation)  # raises where this cannot be an incarnation
        self.root = root.absolute()
        self.incarnation = incarnation
        self.counts: Counter[str] = Counter()
        self.expired: Counter[str] = Counter()
        self.notes: list[str] = []
        self.survives_power_cut = False
        self._power = power
        self._network = network_file_system
        self._calls = calls or Calls()
        self._waker = Waker()
        self._disk: Disk | None = None
        self._clock: clock.Clock | None = None
        self._parts: dict[str, Parts] = {}
        self._rounds = Rounds()
        self._try_locks_at = 0.0
        self._claims = Claims(self._waker, self.unavailable)
        flocks.in_child(self)

    # --- opening and closing -----------------------------------------------------------------------------------

    def open(self, queues: Sequence[QueueSpec]) -> None:
        """Make missing directories durably, and check the location. Idempotent. Raises EngineError."""
        first = self._disk is None
        try:
            if first:
                self._open_root()
                self._waker.open()
            for options in (*queues, *self._undeclared(queues)):
                self._open_queue(options)
        except (OSError, EngineError) as error:
            if first:
                self._let_go()
            if isinstance(error, OSError):
                raise layout.unfit(self.root, error) from error
            raise

    def is_in_place(self) -> bool:
        """Return whether this spool stays in use: its root is still at its path, or it has claims to settle there."""
        disk, _ = self._opened()
        return disk.is_at(str(self.root)) or any(part.claims for part in self._parts.values())

    def anew(self) -> Spool:
        """Return a new open spool at the same path. This one stays open for threads that use it. Raises EngineError."""
        made = Spool(self.root, incarnation=self.incarnation, power=self._power, calls=self._calls)
        made._network = self._network
        made.open([part.queue.options for part in self._parts.values()])
        for part in self._parts.values():
            part.enqueue.close()
        return made

    def close(self) -> None:
        """Close everything; unsettled leases stay claimed, for a rescuer. Idempotent."""
        self._let_go()

    def _let_go(self) -> None:
        self._waker.close()
        for parts in self._parts.values():
            with contextlib.suppress(OSError):
                parts.close()
        self._parts.clear()
        if self._disk is not None:
            with contextlib.suppress(OSError):  # a job's handler may have closed the descriptor
                self._disk.close()
        self._disk = self._clock = None

    def after_fork(self) -> None:
        """Forget the parent's claims and dead owners in a forked child, which may enqueue or claim for itself."""
        for parts in self._parts.values():
            parts.forget()

    def _open_root(self) -> None:
        disk = layout.open_root(self.root, self._calls, power=self._power)
        try:
            found = filesystem.probe(self.root)
            if found.network and not self._network:
                raise EngineError(
                    f"spool {self.root} is on {found.kind} at {found.mount_point}, where locks may not hold: "
                    "use a local disk, or insist with network_file_system=True"
                )
            self._clock = clock.load(disk)
        except BaseException:
            disk.close()
            raise
        disk.forgetful = found.kind == "btrfs"
        self._disk = disk
        self._settle = Settle(
            disk,
            self._clock,
            queue=self._queue,
            ring=self._ring,
            put_back=lambda name, entry: self.parts(name).listing.put_back(entry),
            counts=self.counts,
            expired=self.expired,
        )
        self.settlements = Settlements(
            self._settle,
            look_again=lambda name: self.parts(name).claim.look_again(),
            finish=lambda owner: self.parts(owner.queue.name).rescue.finish(owner),
            unavailable=self.unavailable,
        )
        self.survives_power_cut = self._power and found.survives_power_cut
        if self._clock.damaged:
            self.notes.append(f"spool {self.root}: {self._clock.damaged}")
        if found.doubt and self._power:
            self.notes.append(f"spool {self.root}: {found.doubt}")

    def _undeclared(self, queues: Sequence[QueueSpec]) -> list[QueueSpec]:
        """Return the dead-letter queues that these queues name but this spool does not have."""
        known = {options.name for options in queues} | self._parts.keys()
        wanted = {options.dead_letter for options in queues if options.dead_letter is not None}
        return [QueueOptions(name, is_dead_letter=True, handled=False) for name in sorted(wanted - known)]

    def _open_queue(self, options: QueueSpec) -> None:
        disk, here = self._opened()
        if (known := self._parts.get(options.name)) is not None:
            known.queue.options = options
            handlers.declare(disk, known.queue)
            return
        queue = QueueDir(options)
        layout.make_queue(disk, queue)
        layout.check_one_device(self.root, disk, queue)
        handlers.declare(disk, queue)
        Readers(disk, queue).look(mark_if_all=False)
        self._parts[options.name] = Parts(
            disk, queue, here, incarnation=self.incarnation, settle=self._settle, counts=self.counts
        )
        disk.queues = len(self._parts)

    def _opened(self) -> tuple[Disk, clock.Clock]:
        if self._disk is None or self._clock is None:
            raise EngineError(f"spool {self.root} is not open")
        return self._disk, self._clock

    def parts(self, queue: str) -> Parts:
        """Return the parts of one queue. Raises EngineError: this spool has not opened it."""
        try:
            return self._parts[queue]
        except KeyError:
            self._opened()
            known = ", ".join(sorted(self._parts)) or "none"
            raise EngineError(f"queue {queue!r} is not declared on this engine; declared: {known}") from None

    def _queue(self, name: str) -> QueueDir:
        """Return the directories of a queue, declared here or not: a dead letter's home may be undeclared."""
        parts = self._parts.get(name)
        if parts is not None:
            return parts.queue
        disk, _ = self._opened()
        queue = QueueDir(QueueOptions(name))
        layout.make_queue(disk, queue)
        return queue

    # --- enqueue and claim ------------------------------------------------------------------------------------

    def enqueue(self, jobs: Sequence[Job]) -> list[JobId]:
        """Store jobs durably, in order, and return their ids. Thread-safe. Raises the EnqueueErrors."""
        done: list[JobId] = []
        at = 0
        while at < len(jobs):
            queue, end = jobs[at].queue, at + 1
            while end < len(jobs) and jobs[end].queue == queue:
                end += 1
            try:
                part = self.parts(queue)
            except EngineError as error:
                raise EnqueueFailed(str(error), enqueued=done) from None
            part.enqueue.put(jobs[at:end], done)
            at = end
        return done

    def claim(self, queues: Sequence[str], *, limit: int, wait: float) -> list[Lease]:
        """Return up to `limit` leases; wait up to `wait` seconds for the first. Raises EngineUnavailable."""
        return self._claims([self.parts(queue) for queue in queues], limit, wait)

    @staticmethod
    def _held(lease: Lease) -> Held:
        held: Held = lease.token
        return held

    # --- housekeeping -----------------------------------------------------------------------------------------

    def rescue(self) -> list[Orphan]:
        """Return abandoned leases, which are now this process's to settle. Raises EngineUnavailable."""
        orphans: list[Orphan] = []
        failed: OSError | None = None
        # With many queues: an owner that holds the lock of one queue lives, and so holds all its locks. Each single
        # lock is tried only now and then.
        if each := len(self._parts) <= FEW or time.monotonic() >= self._try_locks_at:
            self._try_locks_at = time.monotonic() + TRY_LOCKS_EVERY
        alive: set[str] = set()
        for part in self._parts.values():
            try:
                if each or not part.rescue.has_nobody_dead(alive):
                    orphans += part.rescue(part.wid, None if each else alive)
                failed = failed or part.rescue.error
            except OSError as error:
                failed = failed or error
        if failed is not None and not orphans:
            raise self.unavailable("rescuing", failed) from failed
        return orphans

    def unaccounted(self, lease: Lease) -> int:
        """Count a delivery of which no record tells how it ended; 0: it cannot be counted."""
        disk, held = self._opened()[0], self._held(lease)
        if copies.leave(disk, [held]):  # the count stands in a file of the job's own
            return 0
        return count_unaccounted(disk, held)

    def maintain(self, seconds: float = math.inf) -> float:
        """Serve every queue for about `seconds`; return the seconds until the next call.

        0 means that something is left to do. Raises EngineUnavailable.
        """
        done, errors = self._rounds([part.maintain for part in self._parts.values()], seconds)
        if errors:
            raise self.unavailable("maintenance", errors[0]) from errors[0]
        if self._rounds.idle:
            return max(TURN / 10, min(IDLE_TURN, *(part.patience() for part in self._parts.values())))
        return TURN if done else 0.0

    def stuck(self) -> Mapping[str, str]:
        """Return the reason for each file that cannot be moved, by its path."""
        disk, _ = self._opened()
        found: dict[str, str] = {}
        for part in self._parts.values():
            if reasons := part.setbacks.reasons(disk.is_there):
                found.update({str(self.root / path): reason for path, reason in reasons.items()})
        return found

    def browse(self) -> Browse:
        """Return the object that looks at jobs. Raises EngineError: the spool is not open."""
        disk, here = self._opened()
        return Browse(disk, here, queue=self._queue, declared=self._parts, ring=self._ring)

    def _ring(self, queue: str) -> None:
        parts = self._parts.get(queue)
        if parts is not None:
            parts.notifier.ring()

    def now(self) -> tuple[int, float]:
        """Return (stamp time in nanoseconds, wall clock in seconds since the epoch)."""
        _, here = self._opened()
        return here.now(), here.wall()

    def wake(self) -> None:
        """End a claim that waits, or the next one. Thread-safe, and safe in a signal handler."""
        self._waker.wake()

    def unavailable(self, doing: str, error: OSError) -> EngineUnavailable:
        """Return a system error as the framework's error. Raises EngineError: trying again cannot help."""
        if error.errno == errno.ENOENT and not self._opened()[0].is_at(str(self.root)):
            return EngineUnavailable(f"spool {self.root} was moved, removed or mounted over: {doing} failed")
        return layout.unavailable(self.root, doing, error)
