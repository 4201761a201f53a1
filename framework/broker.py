"""The one port to an engine. Its docstrings are the specification; tests/contract holds every engine to them.

Synchronous and batch-shaped: that suits a file system and SQL; an asyncio-only client runs on a loop thread of its
engine's own. `features` declares in what engines differ.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

from framework.errors import SettingsError
from framework.job import Failure, Job, JobId, Lease, RunRecord
from framework.outcome import Kind, Outcome
from framework.queues import QueueOptions
from framework.text.redaction import address

State = Literal["ready", "delayed", "in_flight", "dead", "bad"]
Verb = Literal["ack", "retry", "bury", "rest", "release"]


@dataclass(frozen=True, slots=True)
class Features:
    """In what engines differ.

    Attributes:
        system: telemetry's `messaging.system`.
        run_records: `start` leaves a record that `rescue` can read, so unstarted claims of the dead are told apart.
        lease_seconds: claims expire unless extended within so many seconds; None = they live with their owner.
        quick: settling is a few local system calls, fit for an event loop.
        shared: workers on several machines can use it.
        durable: what an acknowledged job survives: nothing, a killed process, or a power cut.
    """

    system: str
    run_records: bool = True
    lease_seconds: float | None = None
    quick: bool = False
    shared: bool = False
    durable: Literal["nothing", "process", "power"] = "power"


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Counts of jobs in each state; `oldest_age` is of the oldest ready job, in seconds since it was eligible."""

    ready: int = 0
    delayed: int = 0
    in_flight: int = 0
    dead: int = 0
    bad: int = 0
    oldest_age: float = 0.0


@dataclass(frozen=True, slots=True)
class Rescued:
    """A lease whose owner is dead.

    Attributes:
        lease: settle it like any other.
        owner: incarnation of the dead process.
        run: None = the job had not started: release it.
        reported: the outcome that telemetry already has; finish it, charge nothing.
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

    A verb that cannot be done now raises EngineUnavailable and may be repeated; what stays undone is never forgotten by
    the engine: a claim that it could not settle is still held. A settling verb on jobs that somebody else owns by now,
    or that were settled before, settles the others and raises LeaseLost with their ids.
    """

    features: Features

    def open(self, queues: Sequence[QueueOptions]) -> None:
        """Connects and declares the queues, idempotent. EngineError: the place is unfit (says why and what to do)."""

    def enqueue(self, jobs: Sequence[Job]) -> Sequence[JobId]:
        """Durable on return, in this order for one producer; or one of the EnqueueErrors. Returns the id of each job.

        A job with `chosen_id` whose id exists in any state of its queue is not stored: its id says `duplicate`. A queue
        that was not opened: EnqueueFailed; the other verbs raise a WorkerError that names it.
        """

    def claim(self, queue: str, *, limit: int, wait: float) -> Sequence[Lease]:
        """Takes up to `limit` jobs by (priority, place), higher priorities first; the place is that of the enqueue. An
        urgent job may pass a moment after it came, however many others wait; a steady stream of them starves the rest.
        Waits up to `wait` seconds (at most 1) for the first, less after wake().

        Delivery grows by one. A job past its ttl is not returned but becomes a dead letter, reason `expired`.
        """

    def start(self, lease: Lease, run: RunRecord) -> None:
        """An attempt is being spent from here on. Replaces what the row held."""

    def reported(self, lease: Lease, outcome: Outcome) -> None:
        """Telemetry has the outcome; a rescuer only finishes it. A failure joins the history now, and only once."""

    def extend(self, leases: Sequence[Lease]) -> None:
        """Renews expiring leases (features.lease_seconds); LeaseLost where one is lost."""

    def ack(self, leases: Sequence[Lease]) -> None:
        """Done: the jobs are gone. Also how a job or a dead letter is discarded."""

    def retry(self, lease: Lease, *, delay: float, failure: Failure) -> None:
        """Attempt + 1, eligible again after `delay` seconds; the failure joins the history. Never refused."""

    def bury(self, lease: Lease, *, failure: Failure) -> None:
        """To the dead-letter queue of its queue, else to the queue's own dead; attempt 0 there, the failure joins the
        history. A dead letter whose handler failed for good goes to the dead-letter queue's own dead. A letter is
        eligible since its burial, and a dead-letter queue's ttl counts from there."""

    def rest(self, lease: Lease) -> None:
        """A handled dead letter stays, listed in its queue's dead, until replay, discard or the queue's ttl.

        Letters that nobody has handled are never deleted by age.
        """

    def release(self, leases: Sequence[Lease], *, delay: float = 0) -> None:
        """Back to the place in the order that they had, no attempt spent. Thread-safe."""

    def rescue(self) -> Sequence[Rescued]:
        """Claims of the dead, now this process's to settle. May be called often: cheap when nobody died."""

    def maintain(self, *, seconds: float = math.inf) -> bool:
        """Promote due jobs, expire, clean up, for about `seconds`; False: there is more to do, call again.

        Idempotent, any number of processes may. A job that cannot be moved keeps no other waiting: see `stuck`.
        """

    def stuck(self) -> Mapping[str, str]:
        """Return the jobs that cannot be moved now, by their place, with the reason. They are tried again and again."""

    def expired(self) -> Mapping[str, int]:
        """Jobs that this handle has made dead letters for their age since the last call, by queue."""

    def stats(self, queue: str) -> QueueStats:
        """Counts, at most a second old or so."""

    def undeclared(self) -> Mapping[str, QueueStats]:
        """Queues with jobs in the store that neither this handle nor any running service declares."""

    def wake(self) -> None:
        """Ends a `claim` that waits in another thread, or the next one. Thread-safe, and safe in a signal handler."""

    def close(self) -> None:
        """Gives back what is held and not started, and lets go; what has started stays for a rescuer. Idempotent."""


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


def settle(broker: Broker, lease: Lease, outcome: Outcome) -> None:
    """Does with a job what its run decided. Raises LeaseLost, EngineUnavailable: call it again."""
    verb = VERBS[outcome.kind]
    if verb == "ack":
        broker.ack([lease])
    elif verb == "release":
        broker.release([lease], delay=outcome.delay)
    elif verb == "rest":
        broker.rest(lease)
    else:
        assert outcome.failure is not None
        if verb == "retry":
            broker.retry(lease, delay=outcome.delay, failure=outcome.failure)
        else:
            broker.bury(lease, failure=outcome.failure)


VERBS: dict[Kind, Verb] = {
    Kind.SUCCEEDED: "ack",
    Kind.DISCARDED: "ack",
    Kind.RELEASED: "release",
    Kind.RESTED: "rest",
    Kind.RETRIED: "retry",
    Kind.DEAD_LETTERED: "bury",
}

ENGINES = {"spool": "framework.brokers.spool", "memory": "framework.brokers.memory"}


def shown(url: str) -> str:
    """A URL for people: a directory as it is; of a server scheme, host and port."""
    return url if url.startswith(("spool:", "memory:")) or "//" not in url else address(url)


def scheme_of(url: str) -> str:
    """Return the scheme of an engine's URL. Raises SettingsError: no engine has that scheme."""
    scheme = urlsplit(url).scheme
    if scheme not in ENGINES:
        known = ", ".join(f"{name}:" for name in ENGINES)
        hint = f"; did you mean spool:{url}?" if not scheme and url.startswith(("/", ".")) else ""
        raise SettingsError(f"WORKER_BROKER_URL={shown(url)!r}: no engine {scheme!r}; there are {known}{hint}")
    return scheme


def open_broker(url: str, *, incarnation: str, **options: Any) -> Broker:
    """The engine that a URL names, not opened yet.

    Args:
        url: `spool:DIR` or `memory:`.
        incarnation: name of this process's life, never reused; verdicts and rescued leases refer to it.
        options: settings of the engine.

    Raises:
        SettingsError: no engine has that scheme.
    """
    module = importlib.import_module(ENGINES[scheme_of(url)])
    broker: Broker = module.connect(url, incarnation=incarnation, **options)
    return broker
