"""The contract between the framework and an engine. Its docstrings are the specification, which tests/contract checks.

The contract is synchronous and takes batches, which suits a file system and SQL. An asyncio-only client runs on a loop
thread that belongs to its engine. `features` declares how engines differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from framework.engine.inspector import CANCELLED_KEPT, Cancelled, Inspector, JobView, Pause, State
from framework.engine.urls import ENGINES, engine_module, open_engine, scheme_of, shown
from framework.model.attempt import Completing
from framework.model.job import Job, JobId, Lease, RunRecord
from framework.model.options import QueueSpec
from framework.model.outcome import Kind, Outcome, Settlement

__all__ = [
    "CANCELLED_KEPT", "ENGINES", "MOST_UNCHARGED", "MOST_UNCHARGED_ELSEWHERE", "NO_JOBS", "VERBS", "Cancelled",
    "Engine", "Features", "Inspector", "JobView", "Pause", "QueueStats", "Rescued", "State", "Tick", "Transactional",
    "Verb", "engine_module", "open_engine", "scheme_of", "shown",
]  # fmt: skip

# A job is charged once this many of its deliveries ended with a dead process and no record of a run. Otherwise a job
# that brings down its machine at once would be delivered for ever.
MOST_UNCHARGED = 50
STARVING_TURN = 4  # of so many jobs that are claimed, one is the first of a priority that starves, if there is one
MOST_UNCHARGED_ELSEWHERE = 5  # the same for a job whose owner's machine is gone, with the records of its runs
Verb = Literal["ack", "retry", "dead_letter", "archive", "release"]


@dataclass(frozen=True, slots=True)
class Features:
    """The properties in which engines differ.

    Attributes:
        system: telemetry's `messaging.system.name`.
        local: a verb is a few local system calls, which an event loop can bear. Any other engine is called from one
            thread.
        settle_delay: seconds that successes may wait to be settled together; 0: each is settled at once.
        durable: what an acknowledged job survives: nothing, a killed process, or a power cut.
    """

    system: str
    local: bool = False
    settle_delay: float = 0.0
    durable: Literal["nothing", "process", "power"] = "power"


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Counts of the jobs in each state. A count that the engine cannot know or does not report is None, never 0.

    Attributes:
        oldest_age: seconds since the oldest ready job became eligible; 0 where none is ready.
        paused: no worker claims from the queue.
        held: the queue's breaker holds it, see `Engine.hold`.
    """

    ready: int | None = None
    delayed: int | None = None
    in_flight: int | None = None
    dead: int | None = None
    bad: int | None = None
    oldest_age: float | None = None
    paused: bool = False
    held: bool = False

    @property
    def jobs_at_rest(self) -> int:
        """Return a lower bound of the number of jobs that no worker has claimed."""
        return sum(filter(None, (self.ready, self.delayed, self.dead)))

    @property
    def jobs(self) -> int:
        """Return a lower bound of the number of jobs, in all states together."""
        return self.jobs_at_rest + (self.in_flight or 0) + (self.bad or 0)


NO_JOBS = QueueStats(0, 0, 0, 0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class Tick:
    """The state of a schedule in the store.

    Attributes:
        last: the latest tick that was handled, in seconds since the epoch.
        missed: how many ticks so far came too late and got no job.
    """

    last: float
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Rescued:
    """An abandoned lease: its owner is dead.

    Attributes:
        lease: is settled like any other.
        owner: incarnation of the dead process.
        run: what the store itself knows of the attempt. A ledger (`framework.engine.ledger`) has precedence, but the
            ledger of another machine cannot be read. Empty ids stand for those that follow from job and delivery.
        elsewhere: the owner was on another machine, whose ledger cannot be read.
        reported: the outcome that telemetry already has, where the worker was of the previous version.
    """

    lease: Lease
    owner: str
    run: RunRecord | None = None
    reported: Outcome | None = None
    elsewhere: bool = False


class Engine(Protocol):
    """The verbs of an engine.

    `enqueue`, `release`, `cancelled`, `save`, `hold` and `wake` may be called from any thread. The other verbs are
    called from one thread at a time; only one `claim` may wait in a thread of its own meanwhile.

    A verb that cannot be done now raises EngineUnavailable and may be repeated; a lease that could not be settled stays
    claimed. Callers treat any other exception, except a WorkerError, as EngineUnavailable. After such an exception from
    `claim`, the worker is replaced once its jobs have ended, because it may have claimed jobs that it does not know of.
    An answer that is not as described here is reported with the engine's class and the verb, and what of it can be used
    is used: leases that were not asked for are released (`framework/engine/answers.py`). `wake`, `expired` and `stuck`
    only look at memory, and raise nothing.

    Attributes:
        features: how this engine differs from others; final after `open`.
        notes: what the engine cannot promise at this location, one line each; filled by `open`.
        local_dir: the directory where a process tree of this machine keeps board, rings and run records; the engine
            makes nothing in it before `open`.
    """

    features: Features

    @property
    def notes(self) -> Sequence[str]: ...

    @property
    def local_dir(self) -> Path: ...

    def open(self, queues: Sequence[QueueSpec]) -> None:
        """Connect, and declare the queues. Idempotent.

        Raises EngineError: the location is unfit; the message says why and what to do.
        """

    def enqueue(self, jobs: Sequence[Job]) -> Sequence[JobId]:
        """Store the jobs durably, in this order for one producer, and return the id of each. Raises the EnqueueErrors.

        A job with `chosen_id` whose id exists in any state of its queue is not stored: its id says `duplicate`. Nor is
        a job whose unique key (`Extras.unique_key`) another job of its queue holds: the answer is the id of that job,
        which says `duplicate`. No job has both. Of any number of concurrent enqueues of an id or a key one is stored.

        A job holds its key by its `unique_scope`. "started": while it is ready or delayed, also for a retry or after a
        release. "done": also while it is claimed. Seconds: so long from its enqueue, whatever becomes of it. A dead
        letter holds none. What was a dead letter, or claimed, and waits again, holds its key again unless another job
        has taken it meanwhile; then both run.

        By its `on_conflict`, a job that is not stored changes the one that holds its key, if that is ready or delayed
        and was never claimed: "replace" gives it payload and headers, "postpone" also `eligible_at` and ttl. Id, uid,
        place and everything else stay. A job that was claimed, or is gone, stays as it is.

        Where a queue was not opened, this raises EnqueueFailed; the other verbs raise a WorkerError that names the
        queue.
        """

    def claim(self, queues: Sequence[str], *, limit: int, wait: float) -> Sequence[Lease]:
        """Claim up to `limit` jobs of these queues, and wait up to `wait` seconds (at most 5) for the first.

        `wake()` ends the wait. Within a queue, lower priorities come first, then jobs in the order of their enqueue. An
        urgent job may pass the others a moment after it came, however many they are. Where the first job of a priority
        has been eligible for `starve_after`, one in STARVING_TURN jobs is of such a priority. A queue gives jobs only
        where the queues named before it leave room: the caller names another queue first each time, so that none
        starves (`framework/worker/gate/claims.py`). A paused queue gives none (`Inspector.pause`). With many queues, a
        job that no notification announced may be seen some seconds late.

        Of a queue with `max_running`, at most so many jobs are claimed at once by all processes on the store; those of
        a dead owner count until their rescue at the latest. Of a queue with a `rate`, all processes together claim what
        it gives since a moment, and at most `rate.burst` jobs more; a clock that is set back delays the next job by at
        most the time between two jobs and a second. What a claim does not use of a rate is there for the next one. Each
        process keeps to the limits of its own declaration. For the breaker see `hold`.

        Of a queue with `groups`, the groups take turns, as each process sees it, and the order above is that within a
        group (`Extras.group`), where nothing starves. Where groups have a limit, at most so many jobs of a group are
        claimed at once by all processes; those of a dead owner count until their rescue. Where they are strict, a job
        that was released or retried is the next of its group, and until it is claimed again, or has left the queue for
        good, no other of its group is claimed. Jobs without a group are one more group, without limit.

        Delivery grows by one. Some engines themselves redeliver a job whose owner is silent; with the others `rescue`
        returns it. Such an engine gives the lease the run of an earlier delivery as `previous` where it knows that this
        run had started, or where it cannot know and has delivered the job more than MOST_UNCHARGED times in vain. It
        does so at each claim until the job is charged.

        A job past its ttl is not returned but becomes a dead letter with the reason `expired`. Where one queue fails,
        jobs of the others are returned. Raises EngineUnavailable: one fails, and no other has a job.
        """

    def settle(self, done: Sequence[Settlement]) -> None:
        """Settle each job by the outcome of its run.

        SUCCEEDED, DISCARDED: the job is deleted.
        RETRIED: attempt + 1; the job is eligible again after the delay, and the failure joins the history. Never
            refused.
        DEAD_LETTERED: the job goes to the dead-letter queue of its queue, else to the queue's own dead, with attempt 0;
            the failure joins the history. A dead letter whose handler failed for good goes to the dead-letter queue's
            own dead. A dead letter is eligible from that moment, and a dead-letter queue's ttl counts from it.
        ARCHIVED: the handled dead letter is archived: listed in its queue's dead until replay, discard or the queue's
            ttl. Dead letters that no service has handled are never deleted by age.
        RELEASED: as `release`.
        CANCELLED: the job is listed as cancelled, and never delivered again. So is a job that was cancelled while it
            was claimed, whatever its outcome but for SUCCEEDED and DISCARDED: no rescuer and no drain puts it back.

        LEASE_LOST is for telemetry and never comes here.

        The engine settles all that it can. Then it raises LeaseLost, which names the leases that are not this owner's
        any more, or EngineUnavailable, which names those that are left. A repeated call skips what is settled.
        """

    def lost(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Return those of these unsettled leases that are not this owner's any more.

        There are none where a claim ends only with its owner. A worker asks about its runs where the engine is not
        `local`: when they are 50 ms old, and then once a second. So the handlers of these leases have started, and an
        engine that is shared by machines notes that with the jobs, for `Rescued.run`. An engine that cannot answer
        raises EngineUnavailable: then the runs go on, because each may be the only one of its job.
        """

    def cancelled(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Return those of these unsettled leases whose jobs were cancelled since their claim. Thread-safe.

        It costs a few local system calls at most. An engine that is not `local` answers from what its last `lost` or
        `rescue` has brought along. A worker asks once a second, and before a job that has waited in it starts.
        """

    def release(self, leases: Sequence[Lease], *, delay: float = 0) -> None:
        """Give leases back: the jobs keep their order, spend no attempt, and are eligible after `delay` seconds.

        Thread-safe. Raises as `settle`.
        """

    def save(self, lease: Lease, state: str) -> None:
        """Store a checkpoint with the job, as durably as an enqueue does, in place of the one before.

        Later leases and views of the job have it in `job.extras.saved`, whatever becomes of the job; the lease at hand
        stays as it is. It goes with the job. Of a call that is killed, the old or the new one is left.

        Args:
            lease: one whose handler runs; no other call settles it meanwhile.
            state: JSON of at most MOST_SAVED characters (`framework/model/extras.py`); `null`: there is none any more.

        Raises LeaseLost, or JobInterrupted where an engine stops such runs: the lease is not this owner's any more.
        EngineUnavailable: it may or may not be stored.
        """

    def rescue(self) -> Sequence[Rescued]:
        """Return abandoned leases, which are now this process's to settle. Cheap when no process has died."""

    def unaccounted(self, lease: Lease) -> int:
        """Count a rescued lease whose handler had not started, as far as the records of this machine tell.

        Return how many such deliveries the job has had, minus those that have ended in good order since; 0: unknown. A
        delivery is counted once, however many rescuers die while they handle it.
        """

    def maintain(self, *, seconds: float = math.inf) -> float:
        """Promote due jobs, expire jobs and clean up for about `seconds`; return the seconds until the next call.

        0 means that there is more to do now. Where claims expire unless they are renewed, this renews those of all
        processes of this tree. Idempotent; any number of processes may call it. A job that cannot be moved does not
        delay the others: see `stuck`.
        """

    def hold(self, queue: str, seconds: float) -> None:
        """Hold a queue from now on for so many seconds, for all processes on the store that declare a breaker for it.

        They claim one job together in each quarter of the breaker's `hold`, with `canary` set. 0 ends a hold. It ends
        by itself, also where the clock was set back. Thread-safe.
        """

    def stuck(self) -> Mapping[str, str]:
        """Return the reason for each job that cannot be moved now, by its location. The engine keeps trying them."""

    def expired(self) -> Mapping[str, int]:
        """Return how many expired jobs this handle has dead-lettered since the last call, by queue."""

    def lead(self, name: str) -> bool:
        """Take the role of this name, and return whether this process has it.

        One process has it among all that share the store, until that process closes or dies.
        """

    def ticks(self, queue: str, keys: Sequence[str]) -> tuple[float, Mapping[str, Tick]]:
        """Return the store's time, in seconds since the epoch, and the states of these schedules of a queue.

        A schedule that no process has fired yet is left out. A job that a killed process was about to store is stored.
        """

    def fire(
        self, queue: str, key: str, last: float | None, tick: float, job: Job | None = None, *, missed: int = 0
    ) -> bool:
        """Set the latest tick of a schedule, and store the job of that tick, in one step that no crash divides.

        Return False: its latest tick is not `last`, because another process was faster; nothing has changed. None as
        `last` stands for a schedule without a tick, and None as the job for a tick without one; `missed` is added.
        Raises QueueFull: nothing has changed. After any other error `ticks` tells whether the tick was handled.
        """

    def stats(self, queue: str) -> QueueStats:
        """Return the counts of a queue, at most about a second old."""

    def undeclared(self) -> Mapping[str, QueueStats]:
        """Return the queues with jobs in the store that neither this handle nor any running service declares."""

    def wake(self) -> None:
        """End a `claim` that waits in another thread, or the next one. Thread-safe, and safe in a signal handler."""

    def close(self) -> None:
        """Close the engine. Leases that are neither settled nor released by then stay for a rescuer. Idempotent."""


@runtime_checkable
class KeepsTime(Protocol):
    """An engine whose store has a clock of its own, by which jobs become eligible and expire. Optional."""

    def store_time(self) -> float:
        """Return the store's time, in seconds since the epoch; a producer counts delays from it. Thread-safe."""


@runtime_checkable
class Transactional(Completing, Protocol):
    """The verbs that enqueue, and complete a job, within the caller's own transaction. Optional for an engine."""

    def enqueue_within(self, connection: object, jobs: Sequence[Job]) -> Sequence[JobId]:
        """Enqueue, as `enqueue`, on a connection or session of the caller's.

        The jobs are stored once its transaction commits; if it does not, none is. A full queue and a duplicate leave
        the transaction as it was.
        """

    async def aenqueue_within(self, connection: object, jobs: Sequence[Job]) -> Sequence[JobId]:
        """Enqueue, as `enqueue_within`, on an asynchronous connection or session."""


# The names of settlements in telemetry.
VERBS: dict[Kind, Verb] = {
    Kind.SUCCEEDED: "ack",
    Kind.DISCARDED: "ack",
    Kind.CANCELLED: "ack",
    Kind.RELEASED: "release",
    Kind.ARCHIVED: "archive",
    Kind.RETRIED: "retry",
    Kind.DEAD_LETTERED: "dead_letter",
}
