"""The spool as an engine: it implements the contract of `framework.engine.port` on a directory."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from framework.engine import flocks
from framework.engine import url_options as options
from framework.engine.calls import Calls
from framework.engine.flocks import FileLock
from framework.engine.port import NO_JOBS, Features, QueueStats, Rescued, Tick
from framework.engine.spool.claim.life import Token
from framework.engine.spool.claim.listing import FEW
from framework.engine.spool.fan_ins.verbs import SpoolFanIns
from framework.engine.spool.format import checkpoints
from framework.engine.spool.inspection import Inspection
from framework.engine.spool.segments import copies
from framework.engine.spool.store import Spool
from framework.engine.spool.upkeep.counts import Counts
from framework.engine.spool.upkeep.maintain import IDLE_TURN, TURN, Rounds
from framework.engine.spool.upkeep.rescue import Orphan, count_unaccounted, rescued
from framework.model.errors import EngineError, EnqueueFailed, LeaseLost, SettingsError
from framework.model.job import Job, JobId, Lease
from framework.model.options import QueueSpec
from framework.model.outcome import Kind, Outcome, Settlement

TRY_LOCKS_EVERY = 20.0  # seconds
log = logging.getLogger("framework")

Durability = Literal["power", "process"]
OPTIONS: dict[str, options.Reader] = {
    "durability": options.one_of("power", "process"),
    "network_file_system": options.flag,
}


def connect(
    url: str,
    *,
    incarnation: str,
    durability: Durability = "power",
    network_file_system: bool = False,
    calls: Calls | None = None,
    **_: Any,
) -> SpoolEngine:
    """Return the engine on a directory, not opened yet.

    Args:
        url: `spool:DIR`, as in `spool:./var/spool` or `spool:/var/lib/shop/spool`. Its query may have the two options
            (`?durability=process`), which override the arguments.
        incarnation: name of this process, never reused.
        durability: `power` calls fsync for what is enqueued; `process` does not, so a power cut may lose it.
        network_file_system: accept one, though locks and renames may not hold there.
        calls: the system calls; tests replace them.

    Raises:
        SettingsError: the URL has no directory, or an unknown option or value.
    """
    url, given = options.split(url, OPTIONS)
    durability = given.get("durability", durability)
    if durability not in ("power", "process"):
        raise SettingsError(f"durability={durability!r}: write power or process")
    spool = Spool(
        directory(url),
        incarnation=incarnation,
        power=durability == "power",
        network=given.get("network_file_system", network_file_system),
        calls=calls,
    )
    return SpoolEngine(spool)


def directory(url: str) -> Path:
    """Return the directory in `spool:DIR`. Raises SettingsError."""
    scheme, _, path = url.partition(":")
    if path.startswith("//"):
        path = path[2:]
        if not path.startswith("/"):
            raise SettingsError(
                f"WORKER_ENGINE_URL={url!r}: a spool has no host; write spool:./{path} or spool:///{path}"
            )
    if scheme != "spool" or not path or "\0" in path:
        raise SettingsError(f"WORKER_ENGINE_URL={url!r}: write spool:DIR, as in spool:./var/spool")
    return Path(path)


class SpoolEngine(Inspection):
    """The engine on one directory: `Engine` and `Inspector` of `framework.engine.port`.

    Attributes:
        root: the directory.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._others: dict[str, Counts] = {}  # undeclared queues
        self._rounds = Rounds()
        self._try_locks_at = 0.0
        self.root = spool.root
        self.fan_ins = SpoolFanIns(self)
        self._reopening = threading.Lock()
        self._roles: dict[str, FileLock] = {}
        flocks.in_child(self)
        self.features = Features(system="spool", local=True, durable="process")

    def after_fork(self) -> None:
        """Make a new lock: another thread of the parent may have held the old one."""
        self._reopening = threading.Lock()

    @property
    def notes(self) -> Sequence[str]:
        """Return what the spool cannot promise here, one line each; filled by `open`."""
        return self._spool.notes

    @property
    def local_dir(self) -> Path:
        """Return the root; `run/` and `instances/` in it belong to the runner."""
        return self.root

    @property
    def counts(self) -> dict[str, int]:
        """Return how often each of these happened in this process: lost, missed, bad, stranded, recovered."""
        return dict(self._spool.counts)

    def open(self, queues: Sequence[QueueSpec]) -> None:
        """Make missing directories and check the location."""
        self._spool.open(queues)
        durable: Literal["process", "power"] = "power" if self._spool.survives_power_cut else "process"
        self.features = replace(self.features, durable=durable)

    def enqueue(self, jobs: Sequence[Job]) -> Sequence[JobId]:
        """Store jobs with one fsync each, or one for many.

        A producer whose directory was moved or removed opens the root again.
        """
        try:
            spool = self.in_place()
        except EngineError as error:
            raise EnqueueFailed(f"not queued: {error}") from error
        done: list[JobId] = []
        at = 0
        while at < len(jobs):
            queue, end = jobs[at].queue, at + 1
            while end < len(jobs) and jobs[end].queue == queue:
                end += 1
            try:
                part = spool.parts(queue)
            except EngineError as error:
                raise EnqueueFailed(str(error), enqueued=done) from None
            part.enqueue.put(jobs[at:end], done)
            at = end
        return done

    def in_place(self) -> Spool:
        """Return the open spool, opened anew where its directory was moved or removed. Raises EngineError."""
        spool = self._spool
        if spool.is_in_place():
            return spool
        with self._reopening:
            if self._spool is spool:  # else another thread was faster
                self._spool = spool.anew()
                log.warning("spool %s was moved, removed or mounted over: opened anew", self.root)
            return self._spool

    def claim(self, queues: Sequence[str], *, limit: int, wait: float) -> Sequence[Lease]:
        """Claim jobs; wait on the queues' notifiers, and look now and then."""
        spool = self._spool
        return spool.claims([spool.parts(queue) for queue in queues], limit, wait)

    def settle(self, done: Sequence[Settlement]) -> None:
        """Settle leases with one unlink or rename each; dead letters of one call share their syncs."""
        self._spool.settle(done)

    def release(self, leases: Sequence[Lease], *, delay: float = 0) -> None:
        """Give leases back with a rename each."""
        outcome = Outcome(Kind.RELEASED, delay=delay)
        self._spool.settle([Settlement(lease, outcome) for lease in leases])

    def lost(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Return none: a claim ends only with its owner's lock, which the kernel keeps."""
        return ()

    def cancelled(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Look for the marks of these jobs: one `stat` for each queue."""
        found: list[Lease] = []
        for queue in {lease.queue for lease in leases}:
            with self._failing(f"looking for cancelled jobs of {queue!r}"):
                found += self._spool.parts(queue).marks.of([lease for lease in leases if lease.queue == queue])
        return found

    def save(self, lease: Lease, state: str) -> None:
        """Write the checkpoint into the job's file; a job of a segment gets a file of its own first."""
        disk, _ = self._spool.opened()
        token: Token = lease.token
        with self._failing(f"the checkpoint of {lease.job.id!r}"):
            for _, error in copies.leave(disk, [token]):
                raise error
            if token.settled or not checkpoints.write(disk, token.path, token.slots_at, state):
                raise LeaseLost([lease])

    def rescue(self) -> Sequence[Rescued]:
        """Return abandoned leases; this process holds the dead owner's lock while it settles them."""
        parts = self._spool.every()
        orphans: list[Orphan] = []
        failed: OSError | None = None
        # With many queues: an owner that holds the lock of one queue lives, and so holds all its locks. Each single
        # lock is tried only now and then.
        if each := len(parts) <= FEW or time.monotonic() >= self._try_locks_at:
            self._try_locks_at = time.monotonic() + TRY_LOCKS_EVERY
        alive: set[str] = set()
        for part in parts:
            try:
                if each or not part.rescue.has_nobody_dead(alive):
                    orphans += part.rescue(part.wid, None if each else alive)
                failed = failed or part.rescue.error
            except OSError as error:
                failed = failed or error
        if failed is not None and not orphans:
            raise self._spool.unavailable("rescuing", failed) from failed
        return [rescued(orphan) for orphan in orphans]

    def unaccounted(self, lease: Lease) -> int:
        """Count the delivery in a page of the job's file, where a job of a segment gets a file of its own."""
        disk, _ = self._spool.opened()
        return 0 if copies.leave(disk, [lease.token]) else count_unaccounted(disk, lease.token)

    def maintain(self, *, seconds: float = math.inf) -> float:
        """Serve every queue that was opened."""
        parts = self._spool.every()
        done, errors = self._rounds([part.maintain for part in parts], seconds)
        if errors:
            raise self._spool.unavailable("maintenance", errors[0]) from errors[0]
        if self._rounds.idle:
            return max(TURN / 10, min(IDLE_TURN, *(part.patience() for part in parts)))
        return TURN if done else 0.0

    def hold(self, queue: str, seconds: float) -> None:
        """Write the end of the hold into the queue's file."""
        with self._failing(f"holding {queue!r}"):
            self._spool.parts(queue).limits.hold(seconds)

    def stuck(self) -> Mapping[str, str]:
        """Return the files that cannot be moved."""
        disk, _ = self._spool.opened()
        reasons = [part.setbacks.reasons(disk.is_there) for part in self._spool.every()]
        return {str(self.root / path): reason for found in reasons for path, reason in found.items()}

    def expired(self) -> Mapping[str, int]:
        """Return the jobs that a claim or `maintain` found expired since the last call, by queue."""
        counts = dict(self._spool.expired)
        self._spool.expired.subtract(counts)  # not clear(): another thread may count meanwhile
        return {name: count for name, count in counts.items() if count}

    def lead(self, name: str) -> bool:
        """Take a role by locking its file beside the queues; return whether this process has it."""
        role = self._roles.setdefault(name, FileLock(self.root / f"leader.{quote(name, safe='')}.lock"))
        return role.take()

    def ticks(self, queue: str, keys: Sequence[str]) -> tuple[float, Mapping[str, Tick]]:
        """Read the schedules' files; move the job of a tick that a dead process has left."""
        _, here = self._spool.opened()
        with self._failing(f"reading the schedules of {queue!r}"):
            return here.wall(), self._spool.parts(queue).ticks.states(keys)

    def fire(
        self, queue: str, key: str, last: float | None, tick: float, job: Job | None = None, *, missed: int = 0
    ) -> bool:
        """Replace the schedule's file, which names the job's file, by a rename; then move the job."""
        with self._failing(f"a tick of {queue!r}"):
            return self._spool.parts(queue).ticks.fire(key, last, tick, job, missed)

    def stats(self, queue: str) -> QueueStats:
        """Count the jobs now; directories that have not changed are not listed again."""
        part = self._spool.parts(queue)
        with self._failing("counting"):
            found = self._count(part.counts)
            if self._browse().keeps_dead_letters(part.queue):
                found = replace(NO_JOBS, in_flight=found.in_flight, dead=found.jobs_at_rest, bad=found.bad)
            return replace(found, paused=part.counts.buckets.paused, held=part.is_held())

    def undeclared(self) -> Mapping[str, QueueStats]:
        """Return the queues whose depth no process has published for a minute, except empty ones."""
        with self._failing("looking for queues"):
            self._others = self._browse().undeclared(self._others)
            found = {name: self._count(counts) for name, counts in self._others.items()}
        return {name: stats for name, stats in found.items() if stats.jobs}

    def _count(self, counts: Counts) -> QueueStats:
        _, here = self._spool.opened()
        ready = counts.ready()
        ages = [0.0]
        if ready.oldest_stamp:
            ages.append((here.now() - int(ready.oldest_stamp)) / 1e9)
        if ready.oldest_due is not None:
            ages.append(here.wall() - ready.oldest_due / 1e6)
        return QueueStats(
            ready=ready.count,
            delayed=counts.delayed().count,
            in_flight=counts.in_flight(),
            dead=counts.dead(),
            bad=counts.bad(),
            oldest_age=max(ages),
        )

    def wake(self) -> None:
        """Write a byte into a pipe that this process reads."""
        self._spool.waker.wake()

    def close(self) -> None:
        """Close everything, and remove this owner's directory when it is empty."""
        self._spool.close()
        for role in self._roles.values():
            role.release()
