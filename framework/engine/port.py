"""The one port to an engine. Its docstrings are the specification; tests/contract holds every engine to them.

Synchronous and batch-shaped: that suits a file system and SQL; an asyncio-only client runs on a loop thread of its
engine's own. `features` declares in what engines differ.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from framework.model.errors import SettingsError
from framework.model.job import Job, JobId, Lease, RunRecord
from framework.model.options import QueueSpec
from framework.model.outcome import Kind, Outcome, Settlement
from framework.model.text.redaction import HIDDEN, address

State = Literal["ready", "delayed", "in_flight", "dead", "bad"]
# A job that was so often in the hands of a process that died, and nothing accounted for that, is charged: else one that
# brings down its machine within a moment would go on for ever.
MOST_UNCHARGED = 50
Verb = Literal["ack", "retry", "bury", "rest", "release"]


@dataclass(frozen=True, slots=True)
class Features:
    """In what engines differ.

    Attributes:
        system: telemetry's `messaging.system`.
        local: a verb is a few local system calls, fit for an event loop. Any other engine is called from one thread.
        settle_delay: seconds that successes may wait to be settled together; 0 = each at once.
        durable: what an acknowledged job survives: nothing, a killed process, or a power cut.
    """

    system: str
    local: bool = False
    settle_delay: float = 0.0
    durable: Literal["nothing", "process", "power"] = "power"


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Counts of jobs in each state; what an engine cannot know is None, never 0: so is what it does not say.

    Attributes:
        oldest_age: of the oldest ready job, in seconds since it was eligible; 0 where none is ready.
    """

    ready: int | None = None
    delayed: int | None = None
    in_flight: int | None = None
    dead: int | None = None
    bad: int | None = None
    oldest_age: float | None = None

    @property
    def jobs_at_rest(self) -> int:
        """Return how many jobs there are at least that no worker has."""
        return sum(filter(None, (self.ready, self.delayed, self.dead)))

    @property
    def jobs(self) -> int:
        """Return how many jobs there are at least, in any state."""
        return self.jobs_at_rest + (self.in_flight or 0) + (self.bad or 0)


NO_JOBS = QueueStats(0, 0, 0, 0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class Rescued:
    """A lease whose owner is dead.

    Attributes:
        lease: settle it like any other.
        owner: incarnation of the dead process.
        run: what the store itself knows of its attempt; a ledger goes first (`framework.engine.ledger`), but that of
            another machine nobody can read. Empty ids: those that follow from job and delivery.
        reported: the outcome that telemetry already has, of a worker of the version before.
    """

    lease: Lease
    owner: str
    run: RunRecord | None = None
    reported: Outcome | None = None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as an inspector sees it.

    Attributes:
        queue: where it is now; `job.queue` is its home.
        attempt: attempts charged so far, 0 for a letter.
        delivery: claims so far.
        since: when it came into this state, as far as the engine knows, seconds since the epoch.
        place: of a bad one, whose `job` has the file's name for an id and its first bytes for a payload: where it is.
        flaw: what is wrong with a bad one; empty: it can be read now.
        newer: only a newer version of the framework can read it. It is where it was, with an id, a place and a flaw as
            those of a bad one, and no payload.
    """

    job: Job
    queue: str
    state: State
    attempt: int
    delivery: int
    since: float
    place: str = ""
    flaw: str = ""
    newer: bool = False

    @property
    def is_letter(self) -> bool:
        """Return whether it is dead, or on a queue that is not its own. A letter that rests is both."""
        return self.state == "dead" or self.queue != self.job.queue


class Broker(Protocol):
    """What an engine does. `enqueue`, `release` and `wake` may be called from any thread; the other verbs from one
    thread at a time, but that one `claim` may wait in a thread of its own meanwhile.

    A verb that cannot be done now raises EngineUnavailable and may be repeated; a lease that could not be settled stays
    claimed. Whatever else a verb raises, a WorkerError aside, its callers take for that; after a claim the worker is
    replaced once its jobs have ended, as it may have claimed what it does not know. `wake`, `expired` and `stuck` only
    look at memory, and raise nothing.

    Attributes:
        features: in what this engine differs; final after `open`.
        notes: what this place cannot promise, one line each; after `open`.
        local_dir: where a tree of this machine keeps board, rings and run records; the engine makes nothing for it
            before `open`.
    """

    features: Features

    @property
    def notes(self) -> Sequence[str]: ...

    @property
    def local_dir(self) -> Path: ...

    def open(self, queues: Sequence[QueueSpec]) -> None:
        """Connects and declares the queues, idempotent. EngineError: the place is unfit (says why and what to do)."""

    def enqueue(self, jobs: Sequence[Job]) -> Sequence[JobId]:
        """Durable on return, in this order for one producer; or one of the EnqueueErrors. Returns the id of each job.

        A job with `chosen_id` whose id exists in any state of its queue is not stored: its id says `duplicate`. A queue
        that was not opened: EnqueueFailed; the other verbs raise a WorkerError that names it.
        """

    def claim(self, queues: Sequence[str], *, limit: int, wait: float) -> Sequence[Lease]:
        """Takes up to `limit` jobs of these queues, those of each by (priority, place): lower priorities first, then
        in the order of their enqueue. An urgent job may pass the others a moment after it came, however many they are;
        a steady stream of urgent ones starves the rest. Waits up to `wait` seconds (at most 5) for the first, less
        after wake(). A queue gives jobs only where those named before it leave room: the caller names another one first
        each time, so that none starves (`framework/worker/gate/turns.py`). Where there are many queues, one of them may
        show a job of which nothing has told some seconds late.

        Delivery grows by one. Where an engine itself delivers a job anew whose owner is silent (else its `rescue` has
        it), and knows that the run of an earlier delivery had started or cannot know it and has delivered the job more
        than MOST_UNCHARGED times in vain, the lease has that run as `previous`, at each claim until the job is charged.
        A job past its ttl is not returned but becomes a dead letter, reason `expired`. Where one
        queue fails, jobs of the others are returned; EngineUnavailable: one fails, and no other has a job.
        """

    def settle(self, done: Sequence[Settlement]) -> None:
        """Does with each job what its run decided:

        SUCCEEDED, DISCARDED: the job is gone.
        RETRIED: attempt + 1, eligible again after the delay; the failure joins the history. Never refused.
        DEAD_LETTERED: to the dead-letter queue of its queue, else to the queue's own dead; attempt 0 there, the failure
            joins the history. A dead letter whose handler failed for good goes to the dead-letter queue's own dead. A
            dead letter is eligible since then, and a dead-letter queue's ttl counts from there.
        RESTED: a handled dead letter stays, listed in its queue's dead, until replay, discard or the queue's ttl. Dead
            letters that no service has handled are never deleted by age.
        RELEASED: as `release`.

        LEASE_LOST is for telemetry and never comes here.

        All that can be settled are; then LeaseLost names leases that are not this owner's any more, or
        EngineUnavailable those that are left. A call that is repeated after that passes over what is settled.
        """

    def lost(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Return those of these leases, claimed and not settled, that are not this owner's any more; none where a claim
        ends with its owner alone. Asked about what runs, once a second, where the engine is not `local`. One that
        cannot say raises EngineUnavailable: then the runs go on, as each may be the only one of its job."""

    def release(self, leases: Sequence[Lease], *, delay: float = 0) -> None:
        """Back to the place in the order that they had, no attempt spent; eligible after `delay` seconds. Thread-safe;
        raises as `settle`."""

    def rescue(self) -> Sequence[Rescued]:
        """Claims of the dead, now this process's to settle. May be called often: cheap when nobody died."""

    def unaccounted(self, lease: Lease) -> int:
        """Count a rescued lease whose handler had not started, as far as any record of this machine tells.

        Returns how many such deliveries the job has had, less those that ended in good order since; 0: not known. A
        delivery is counted once, however many rescuers die over it.
        """

    def maintain(self, *, seconds: float = math.inf) -> float:
        """Promote due jobs, expire, clean up, for about `seconds`. Return the seconds until the next call; 0: there is
        more to do now. Where claims expire unless they are renewed, this renews those of all processes of this tree.

        Idempotent, any number of processes may. A job that cannot be moved keeps no other waiting: see `stuck`.
        """

    def stuck(self) -> Mapping[str, str]:
        """Return the jobs that cannot be moved now, by their place, with the reason. They are tried again and again."""

    def expired(self) -> Mapping[str, int]:
        """Jobs that this handle has made dead letters for their age since the last call, by queue."""

    def lead(self, name: str) -> bool:
        """Return whether this process has the role of this name, now or already: one holder among all processes that
        share the store, until it closes or dies."""

    def stats(self, queue: str) -> QueueStats:
        """Counts, at most a second old or so."""

    def undeclared(self) -> Mapping[str, QueueStats]:
        """Queues with jobs in the store that neither this handle nor any running service declares."""

    def wake(self) -> None:
        """Ends a `claim` that waits in another thread, or the next one. Thread-safe, and safe in a signal handler."""

    def close(self) -> None:
        """Lets go. What is claimed and neither settled nor released by then stays for a rescuer. Idempotent."""


@runtime_checkable
class Inspector(Protocol):
    """Beside the port: what people do with jobs from the command line."""

    def browse(self, queue: str, state: State) -> Iterator[JobView]:
        """The jobs of a queue in one state, oldest first, whatever their priorities. The list may be a moment old."""

    def newer(self, queue: str) -> Iterator[JobView]:
        """Those that only a newer version can read, as a quick look at the oldest of each state shows them."""

    def find(self, queue: str, job_id: str, state: State) -> JobView | None:
        """One job, or None."""

    def replay(self, view: JobView) -> bool:
        """A dead letter, handled or not, returns to the end of its home queue. False: it was no longer there.

        Attempt 0, same id and uid, its ttl anew, never refused for length.
        """

    def discard(self, view: JobView) -> bool:
        """Deletes a job that nobody holds, for ever. False: it was no longer there."""

    def restore(self, view: JobView) -> str:
        """Puts a bad one back among the jobs of its queue, where it can be read; returns "", or why not."""


@runtime_checkable
class Transactional(Protocol):
    """Beside the port: enqueues within a transaction of the caller's."""

    def enqueue_within(self, connection: object, jobs: Sequence[Job]) -> Sequence[JobId]:
        """As `enqueue`, on a connection or session of the caller's: the jobs are there once its transaction commits,
        and none is if it does not. A full queue and a duplicate leave the transaction as it was."""

    async def aenqueue_within(self, connection: object, jobs: Sequence[Job]) -> Sequence[JobId]:
        """The same on an asynchronous one."""


# How telemetry names the ends of a claim.
VERBS: dict[Kind, Verb] = {
    Kind.SUCCEEDED: "ack",
    Kind.DISCARDED: "ack",
    Kind.RELEASED: "release",
    Kind.RESTED: "rest",
    Kind.RETRIED: "retry",
    Kind.DEAD_LETTERED: "bury",
}

ENGINES = {
    "spool": "framework.engine.spool.engine",
    "memory": "framework.engine.memory.engine",
    "postgresql": "framework.engine.postgres",
}


PLAIN = ("durability", "network_file_system")  # options of engines whose values are no secret


def shown(url: str) -> str:
    """A URL for people: a directory as it is; of a server scheme, host and port. Of what nobody knows no value."""
    if not url.startswith(("spool:", "memory:")):
        return address(url) if "//" in url or "@" in url else url
    place, mark, query = url.partition("?")
    pairs = (pair.partition("=") for pair in query.split("&"))
    return (
        place + mark + "&".join(f"{name}{eq}{text if name in PLAIN or not eq else HIDDEN}" for name, eq, text in pairs)
    )


def scheme_of(url: str) -> str:
    """Return the scheme of an engine's URL. Raises SettingsError: no engine has that scheme."""
    found = re.match(r"([a-z][a-z0-9+.-]*):", url, re.IGNORECASE | re.ASCII)
    scheme = found[1].lower() if found else ""
    if scheme not in ENGINES:
        known = ", ".join(f"{name}:" for name in ENGINES)
        hint = f"; did you mean spool:{url}?" if not scheme and url.startswith(("/", ".")) else ""
        raise SettingsError(f"WORKER_ENGINE_URL={shown(url)!r}: no engine {scheme!r}; there are {known}{hint}")
    return scheme


def engine_module(url: str) -> Any:
    """Return the module of the engine that a URL names. Raises SettingsError: no engine has that scheme."""
    return importlib.import_module(ENGINES[scheme_of(url)])


def open_broker(url: str, *, incarnation: str, **options: Any) -> Broker:
    """The engine that a URL names, not opened yet.

    Args:
        url: `spool:DIR`, `postgresql://...` or `memory:`.
        incarnation: name of this process's life, never reused; kill reasons and rescued leases refer to it.
        options: settings of the engine.

    Raises:
        SettingsError: no engine has that scheme.
    """
    broker: Broker = engine_module(url).connect(url, incarnation=incarnation, **options)
    return broker
