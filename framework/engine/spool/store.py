"""The open root of a spool: its queues, each with its parts, and system errors as the framework's errors."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from framework.engine import flocks
from framework.engine.calls import Calls
from framework.engine.spool.claim import life, markers, order
from framework.engine.spool.claim.cancelling import Marks
from framework.engine.spool.claim.claim import Claim, Reader
from framework.engine.spool.claim.lanes import Lanes
from framework.engine.spool.claim.life import Owner
from framework.engine.spool.claim.limits import Limits
from framework.engine.spool.claim.markers import Readers
from framework.engine.spool.claim.notifier import Claims, Notifier, Waker
from framework.engine.spool.claim.promote import Promote
from framework.engine.spool.claim.setbacks import Setbacks
from framework.engine.spool.claim.settle import Settle
from framework.engine.spool.disk import clock, filesystem, layout
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue.enqueue import Enqueue
from framework.engine.spool.enqueue.ticks import Ticks
from framework.engine.spool.fan_ins.ends import Ends
from framework.engine.spool.fan_ins.upkeep import FanInUpkeep
from framework.engine.spool.segments.open import Segments
from framework.engine.spool.upkeep.browse import Browse
from framework.engine.spool.upkeep.cancel import Cancel
from framework.engine.spool.upkeep.counts import Counts
from framework.engine.spool.upkeep.maintain import Maintain
from framework.engine.spool.upkeep.rescue import Rescue
from framework.model.errors import EngineError, EngineUnavailable
from framework.model.options import QueueOptions, QueueSpec

SWEEP_EVERY = 20.0  # seconds between two looks for marks of groups that are left without their jobs


class Parts:
    """The parts of one queue. The first claim makes the owner, so a process that only enqueues or looks has none."""

    def __init__(self, spool: Spool, queue: QueueDir, disk: Disk, here: clock.Clock) -> None:
        self.queue = queue
        self._disk = disk
        self._clock = here
        self._incarnation = spool.incarnation
        self._owner: Owner | None = None
        self._owners = 0  # how many owners this process has had on this queue
        self._making = threading.Lock()
        self._sweep_at = 0.0
        counts, ring = spool.counts, (notifier := Notifier(disk, queue)).ring
        self.notifier = notifier
        self.setbacks = Setbacks()
        self.reader = Reader(disk, counts)
        self.segments = Segments(disk, queue, counts, self.setbacks)
        self.listing = Lanes(disk, queue, here, setbacks=self.setbacks)
        self.counts = Counts(disk, queue, setbacks=self.setbacks)
        self.enqueue = Enqueue(disk, queue, here, ring=ring)
        self.ticks = Ticks(disk, queue, here, ring=ring)
        self.promote = Promote(disk, queue, here, ring=ring, setbacks=self.setbacks)
        self.limits = Limits(disk, queue, here, owner=lambda: self._owner, ring=ring)
        self.rescue = Rescue(disk, queue, self.reader, self.setbacks, self.segments)
        self.claim = Claim(self, disk, here, spool.settle, counts)
        self.marks = Marks(disk, queue)
        browse = Browse(disk, here, queue=spool.queue, declared=(), ring=spool.ring)
        self.cancel = Cancel(self, spool, disk, here, browse)
        self.maintain = Maintain(
            disk, queue, here, self.promote, self.counts, self.claim, self.setbacks, counts, self.segments,
            ring=ring, cancels=self.cancel.sweep, marks=self._sweep_marks,
            fan_ins=FanInUpkeep(disk, queue, here, spool.ends, browse),
        )  # fmt: skip

    @property
    def wid(self) -> str | None:
        """Return the id of this process's owner on this queue; None: it has claimed nothing yet."""
        return self._owner.wid if self._owner is not None else None

    @property
    def claims(self) -> bool:
        """Return whether this process has claimed from the queue, or settles what dead owners claimed."""
        return self._owner is not None or bool(self.rescue.dead_owners)

    def owner(self) -> Owner:
        """Return this process's owner, made when needed. Raises OSError."""
        if self._owner is not None:
            return self._owner
        with self._making:  # maintenance may expire something while a claim waits in another thread
            if self._owner is None:
                self._owner = life.make(
                    self._disk, self.queue, self._incarnation,
                    boot=clock.boot_id(), now=self._clock.wall(), first=self._owners,
                )  # fmt: skip
                self._owners += 1
            return self._owner

    def renew(self) -> None:
        """Handle the loss of the owner's directory: the job files in it are gone.

        Jobs claimed from segments stay this owner's while it has its lock. Without the lock they belong to another
        process, and the next claim makes a new owner.
        """
        owner = self._owner
        if owner is None:
            return
        stays = life.has_lock(self._disk, owner)
        for token in list(owner.tokens.values()):
            if token.segment is None or not stays:
                token.done()
        if stays:
            self._disk.mkdir(owner.base)
        else:
            life.end(self._disk, owner)
            self._owner = None

    def patience(self) -> float:
        """Return the seconds until the next known job is due, or its limits may leave room.

        Without a notification no earlier look is needed.
        """
        return max(0.001, min(self.promote.seconds_left(), self.limits.wait))

    def is_held(self) -> bool:
        """Return whether a breaker holds the queue; not looked at where the declaration has none. Raises OSError."""
        return self.queue.options.may_be_held and self.limits.is_held()

    def _sweep_marks(self, _: float) -> bool:
        """Remove marks of groups that are left without their jobs, now and then. Raises OSError."""
        groups, now = self.queue.options.groups, time.monotonic()
        if groups is not None and groups.strict and now >= self._sweep_at and self._disk.listdir(self.queue.groups):
            with self.limits.alone() as alone:
                if alone:
                    order.sweep(self._disk, self.queue)
                    self._sweep_at = now + SWEEP_EVERY
        return True

    def close(self) -> None:
        """Close everything; unsettled leases stay for a rescuer. Raises OSError."""
        self.enqueue.close()
        self.segments.close()  # before the lock goes: else this process could still copy a job that a rescuer has
        try:
            if self._owner is not None:
                life.end(self._disk, self._owner)
                self._owner = None
        finally:
            self.limits.close()
            self.rescue.forget()
            self.notifier.close()

    def after_fork(self) -> None:
        """Forget owner and dead owners in a forked child: they are the parent's, their descriptors already closed."""
        self._making = threading.Lock()
        self._owner = None
        self.rescue.dead_owners.clear()
        self.limits.after_fork()
        self.segments.after_fork()


class Spool:
    """A root directory with queues.

    Args:
        root: directory; `open` makes it when it is missing.
        incarnation: name of this process, never reused.
        power: fsync what is enqueued.
        network: accept a network file system, though locks and renames may not hold there.
        calls: the system calls; tests replace them.

    Attributes:
        counts: how often each of these happened: `lost`, `missed`, `bad`, `stranded`, `recovered`, `unsynced`, ...
        expired: how many jobs this process has found expired, by queue.
        notes: what the file system cannot promise, one line each; filled by `open`.
        settle: settles leases; set by `open`. ends: notes how members of fan-ins end, for that; set by `open`.
        survives_power_cut: an acknowledged job survives a power cut; set by `open`.
        claims: claims from queues. waker: ends its wait.
        limited: the limits of queues with `max_running`; a settlement frees what its leases have taken.
    """

    def __init__(self, root: Path, *, incarnation: str, power: bool, network: bool, calls: Calls | None) -> None:
        life.wid_of(incarnation)  # raises where this cannot be an incarnation
        self.root = root.absolute()
        self.incarnation = incarnation
        self.counts: Counter[str] = Counter()
        self.expired: Counter[str] = Counter()
        self.notes: list[str] = []
        self.survives_power_cut = False
        self._power = power
        self._network = network
        self._calls = calls or Calls()
        self._disk: Disk | None = None
        self._clock: clock.Clock | None = None
        self._parts: dict[str, Parts] = {}
        self.limited: list[Limits] = []
        self.waker = Waker()
        self.claims = Claims(self.waker, self.unavailable)
        flocks.in_child(self)

    def open(self, queues: Sequence[QueueSpec]) -> None:
        """Make missing directories durably, and check the location. Idempotent. Raises EngineError."""
        first = self._disk is None
        try:
            if first:
                self._open_root()
                self.waker.open()
            for options in (*queues, *self._undeclared(queues)):
                self._open_queue(options)
        except (OSError, EngineError) as error:
            if first:
                self.close()
            if isinstance(error, OSError):
                raise layout.unfit(self.root, error) from error
            raise

    def is_in_place(self) -> bool:
        """Return whether this spool stays in use: its root is still at its path, or it has claims to settle there."""
        disk, _ = self.opened()
        return disk.is_at(str(self.root)) or any(part.claims for part in self._parts.values())

    def anew(self) -> Spool:
        """Return a new open spool at the same path. This one stays open for threads that use it. Raises EngineError."""
        made = Spool(
            self.root, incarnation=self.incarnation, power=self._power, network=self._network, calls=self._calls
        )
        made.open([part.queue.options for part in self.every()])
        for part in self.every():
            part.enqueue.close()
        return made

    def close(self) -> None:
        """Close everything; unsettled leases stay claimed, for a rescuer. Idempotent."""
        self.waker.close()
        for part in self.every():
            with contextlib.suppress(OSError):
                part.close()
        self._parts.clear()
        if self._disk is not None:
            with contextlib.suppress(OSError):  # a job's handler may have closed the descriptor
                self._disk.close()
        self._disk = self._clock = None

    def after_fork(self) -> None:
        """Forget the parent's claims and dead owners in a forked child, which may enqueue or claim for itself."""
        for part in self.every():
            part.after_fork()

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
        self.ends = Ends(self, disk, self._clock)
        self.settle = Settle(self, disk, self._clock)
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
        disk, here = self.opened()
        if (known := self._parts.get(options.name)) is not None:
            known.queue.options = options
            known.limits.declare()
            self._note_limits(known)
            markers.declare(disk, known.queue)
            return
        queue = QueueDir(options)
        layout.make_queue(disk, queue)
        layout.check_one_device(self.root, disk, queue)
        markers.declare(disk, queue)
        Readers(disk, queue).look(mark_if_all=False)
        self._parts[options.name] = part = Parts(self, queue, disk, here)
        self._note_limits(part)
        disk.queues = len(self._parts)

    def _note_limits(self, part: Parts) -> None:
        part.limits.make()
        order.make(self.opened()[0], part.queue)
        others = [limits for limits in self.limited if limits is not part.limits]
        self.limited = [*others, part.limits] if part.queue.options.max_running is not None else others

    def opened(self) -> tuple[Disk, clock.Clock]:
        """Return the disk and the clock. Raises EngineError: the spool is not open."""
        if self._disk is None or self._clock is None:
            raise EngineError(f"spool {self.root} is not open")
        return self._disk, self._clock

    def every(self) -> Sequence[Parts]:
        """Return the parts of all open queues."""
        return list(self._parts.values())

    def parts(self, queue: str) -> Parts:
        """Return the parts of one queue. Raises EngineError: this spool has not opened it."""
        try:
            return self._parts[queue]
        except KeyError:
            self.opened()
            known = ", ".join(sorted(self._parts)) or "none"
            raise EngineError(f"queue {queue!r} is not declared on this engine; declared: {known}") from None

    def queue(self, name: str) -> QueueDir:
        """Return the directories of a queue, declared here or not: a dead letter's home may be undeclared."""
        part = self._parts.get(name)
        if part is not None:
            return part.queue
        disk, _ = self.opened()
        queue = QueueDir(QueueOptions(name))
        layout.make_queue(disk, queue)
        return queue

    def ring(self, queue: str) -> None:
        """Wake the workers that wait for a job of a queue."""
        part = self._parts.get(queue)
        if part is not None:
            part.notifier.ring()

    def unavailable(self, doing: str, error: OSError) -> EngineUnavailable:
        """Return a system error as the framework's error. Raises EngineError: trying again cannot help."""
        if error.errno == errno.ENOENT and not self.opened()[0].is_at(str(self.root)):
            return EngineUnavailable(f"spool {self.root} was moved, removed or mounted over: {doing} failed")
        return layout.unavailable(self.root, doing, error)
