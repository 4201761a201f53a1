"""An engine as one far away: verbs take their time, answers get lost, batches stop in the middle, leases are lost.

It wraps another engine, and notes from which thread each verb was called, and whether it was alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from framework.engine.port import Features, QueueStats, Rescued
from framework.model.errors import EngineUnavailable, LeaseLost
from framework.model.job import Job, JobId, Lease, RunRecord
from framework.model.options import QueueOptions
from framework.model.outcome import Kind, Outcome, Settlement

ANY_THREAD = ("enqueue", "release", "save", "wake")


@dataclass
class Call:
    """A verb under way, or done.

    Attributes:
        count: leases that it was given.
        waits: it is a claim that may wait.
        alone: no other verb was inside meanwhile, but a claim that waits.
    """

    verb: str
    thread: int
    count: int = 0
    waits: bool = False
    alone: bool = True


@dataclass
class Flaws:
    """What goes wrong from now on; each is used up by one call, but `lost`.

    Attributes:
        middle: a settling call stops after so many leases.
        late: a settling call does its work, and the answer does not come.
        lost: leases of these jobs go to another owner before they are settled.
        taken: the same, while their handlers run.
    """

    middle: list[int] = field(default_factory=list)
    late: int = 0
    lost: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)


class SlowBroker:
    """`Broker`, and the inspector of what it wraps.

    Args:
        inner: does the work.
        seconds: that each verb takes.
        delay: its `settle_delay`.
        elsewhere: the runs that machines took with them, by the uid of the job; shared by all handles of a store.
    """

    def __init__(
        self,
        inner: Any,
        *,
        seconds: float = 0.02,
        delay: float = 0.02,
        elsewhere: dict[bytes, RunRecord] | None = None,
    ) -> None:
        self.inner = inner
        self._elsewhere = {} if elsewhere is None else elsewhere
        self.seconds = seconds
        self.work: Callable[[], object] = lambda: time.sleep(self.seconds)  # of each verb
        self.flaws = Flaws()
        self.calls: list[Call] = []
        self._delay = delay
        self._inside: list[Call] = []
        self._lock = threading.Lock()
        self._done: set[tuple[bytes, int]] = set()  # settled by calls that have failed

    @property
    def features(self) -> Features:
        """Those of what it wraps, from far away."""
        return replace(self.inner.features, local=False, settle_delay=self._delay)

    def __getattr__(self, name: str) -> Any:
        """Notes, counts, and the inspector."""
        return getattr(self.inner, name)

    def made(self, verb: str) -> list[Call]:
        """The calls of a verb so far."""
        return [call for call in self.calls if call.verb == verb]

    @contextmanager
    def _call(self, verb: str, count: int = 0, *, waits: bool = False) -> Iterator[None]:
        call = Call(verb, threading.get_ident(), count, waits)
        with self._lock:
            others = [other for other in self._inside if not other.waits]
            if not waits and verb not in ANY_THREAD:
                for one in (call, *others):
                    one.alone = one.alone and (not others or one.verb in ANY_THREAD)
            self._inside.append(call)
            self.calls.append(call)
        try:
            self.work()
            yield
        finally:
            with self._lock:
                self._inside.remove(call)

    def open(self, queues: Sequence[QueueOptions]) -> None:
        with self._call("open"):
            self.inner.open(queues)

    def enqueue(self, jobs: Sequence[Job]) -> Sequence[JobId]:
        with self._call("enqueue", len(jobs)):
            found: Sequence[JobId] = self.inner.enqueue(jobs)
            return found

    def claim(self, queues: Sequence[str], *, limit: int, wait: float) -> Sequence[Lease]:
        with self._call("claim", waits=wait > 0):
            leases: Sequence[Lease] = self.inner.claim(queues, limit=limit, wait=wait)
            return [replace(lease, previous=self._elsewhere.get(lease.job.uid)) for lease in leases]

    def die_elsewhere(self, queue: str, started_at: float = 1_700_000_000.0) -> Lease:
        """A machine claims a job, starts it and is gone; its messages are delivered anew, and no `rescue` has them."""
        (lease,) = self.inner.claim([queue], limit=1, wait=0)
        self._elsewhere[lease.job.uid] = RunRecord(0, lease.delivery, lease.attempt, started_at)
        self.inner.release([lease])
        return lease  # type: ignore[no-any-return]

    def start(self, lease: Lease, run: RunRecord) -> None:
        with self._call("start", 1):
            self.inner.start(lease, run)

    def reported(self, lease: Lease, outcome: Outcome) -> None:
        with self._call("reported", 1):
            self.inner.reported(lease, outcome)

    def settle(self, done: Sequence[Settlement]) -> None:
        with self._call("settle", len(done)):
            self._lose(done)
            left = [one for one in done if _key(one.lease) not in self._done]
            self._done -= {_key(one.lease) for one in done}
            if self.flaws.middle and len(left) > (most := self.flaws.middle[0]):
                self.flaws.middle.pop(0)
                lost = self._settle(left[:most])
                self._done |= {_key(one.lease) for one in done if one not in left[most:]} - {_key(one) for one in lost}
                unsettled = [one.lease for one in left[most:]]
                raise EngineUnavailable("the connection broke", unsettled=[*unsettled, *lost])
            lost = self._settle(left)
            if self.flaws.late:
                self.flaws.late -= 1
                self._done |= {_key(one.lease) for one in done} - {_key(one) for one in lost}
                raise EngineUnavailable("no answer came")
            if lost:
                raise LeaseLost(lost)

    def _lose(self, done: Sequence[Settlement]) -> None:
        gone = [one.lease for one in done if one.lease.job.id in self.flaws.lost]
        self.flaws.lost -= {lease.job.id for lease in gone}
        self.inner.release(gone)

    def _settle(self, done: Sequence[Settlement]) -> Sequence[Lease]:
        lost: Sequence[Lease] = ()
        try:
            self.inner.settle(done)
        except LeaseLost as error:
            lost = error.leases
        for one in done:
            if one.outcome.kind is not Kind.RELEASED and one.lease not in lost:
                self._elsewhere.pop(one.lease.job.uid, None)
        return lost

    def lost(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        with self._call("lost", len(leases)):
            gone = [lease for lease in leases if lease.job.id in self.flaws.taken]
            self.flaws.taken -= {lease.job.id for lease in gone}
            self.inner.release(gone)
            found: Sequence[Lease] = self.inner.lost(leases)
            return found

    def release(self, leases: Sequence[Lease], *, delay: float = 0) -> None:
        with self._call("release", len(leases)):
            self.inner.release(leases, delay=delay)

    def save(self, lease: Lease, state: str) -> None:
        with self._call("save", 1):
            self.inner.save(lease, state)

    def rescue(self) -> Sequence[Rescued]:
        with self._call("rescue"):
            found: Sequence[Rescued] = self.inner.rescue()
            return found

    def maintain(self, *, seconds: float = float("inf")) -> float:
        with self._call("maintain"):
            return float(self.inner.maintain(seconds=seconds))

    def stats(self, queue: str) -> QueueStats:
        with self._call("stats"):
            found: QueueStats = self.inner.stats(queue)
            return found

    def stuck(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.inner.stuck()
        return found


class Persistent(SlowBroker):
    """Of every two settling calls one stops in the middle and one is not answered; its caller repeats them."""

    def settle(self, done: Sequence[Settlement]) -> None:
        self.flaws.middle = self.flaws.middle or [len(done) // 2]
        self.flaws.late = 1
        for _ in range(3):
            try:
                super().settle(done)
            except EngineUnavailable:
                continue
            return
        raise AssertionError("a call that is repeated does not come to its end")


def _key(lease: Lease) -> tuple[bytes, int]:
    return lease.job.uid, lease.delivery
