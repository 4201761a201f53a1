"""Producers and workers on one spool that say what they do, each in a ledger of its own that no cut touches.

A line is `<sign> <key> <ns>`, key = `<id>#<number>`: `!` an enqueue begins, `+` it returned (with the time when it
began), `~` it said *not queued*, `-` a deletion begins, `=` it is over, `B` a bury returned. Whoever kills an actor
adds `x`: what it had begun to delete is over.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from framework.engine.port import JobView
from framework.engine.spool.engine import SpoolEngine, connect
from framework.model.errors import EngineError, EnqueueError, EnqueueUncertain, LeaseLost
from framework.model.extras import Extras
from framework.model.job import Failure, Job, Lease
from framework.model.options import QueueOptions
from tests.spool.seam import Seam
from tests.spool.world import in_segments, often, settle_orphan
from tests.support.settling import ack, bury, rest, retry

LETTERS = QueueOptions("letters", is_dead_letter=True)
QUEUES = (QueueOptions("jobs", dead_letter="letters"), QueueOptions("plain"), LETTERS)
BACKLOG = 120  # jobs; above it everybody works
LEAST_BATCH = 6  # jobs
CHOSEN = 12  # ids that an actor uses again and again


def body(key: str) -> bytes:
    """The payload of a job with this key."""
    return f"{key} ".encode() * 30


def key_of(payload: bytes) -> str:
    """The key in a payload."""
    return payload.partition(b" ")[0].decode()


def note_death(ledger: Path) -> None:
    """By the killer of an actor, who has seen it dead."""
    with ledger.open("a") as file:
        file.write(f"x . {time.monotonic_ns()}\n")


def is_torn(payload: bytes) -> bool:
    """Whether it is not what was enqueued."""
    return payload != body(key_of(payload))


def last_words(key: str) -> str:
    """The message in the last record of a job that is buried."""
    return f"last words of {key}"


class Actor:
    """One process: enqueues, claims, settles and keeps house, at random."""

    def __init__(self, root: Path, ledger: Path, name: str, seed: int, durability: Any = "power") -> None:
        self._name = name
        self._rng = random.Random(seed)
        self._seam = Seam()
        self._number = 0
        self._last: list[str] = []
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.broker: SpoolEngine = connect(
            f"spool:{root}", incarnation=f"{name}-{os.getpid()}", calls=self._seam, durability=durability
        )
        self.broker.open(QUEUES)
        if self._rng.random() < 0.75:  # else the marker decides, as in a rolling upgrade
            in_segments(self.broker, least=LEAST_BATCH)
            for queue in QUEUES if self._rng.random() < 0.7 else ():
                often(self.broker, queue=queue.name)

    def step(self) -> None:
        """One thing. What the disk refuses is tried again by somebody later."""
        acts = [self._work] * 5 + [self._letters, self._keep_house]
        stats = [self.broker.stats(queue) for queue in ("jobs", "plain")]
        if sum(one.ready + one.delayed for one in stats) < BACKLOG:
            acts += [self._one] * 5 + [self._chosen] * 3 + [self._many, self._in_vain]
        try:
            self._rng.choice(acts)()
        except (EngineError, LeaseLost):
            pass

    def _say(self, sign: str, key: str, when: int | None = None) -> None:
        os.write(self._ledger, f"{sign} {key} {time.monotonic_ns() if when is None else when}\n".encode())

    def _job(
        self, job_id: str, *, queue: str = "", chosen: bool = False, delay: float | None = None, priority: int = 5
    ) -> Job:
        self._number += 1
        key, now = f"{job_id}#{os.getpid()}.{self._number}", time.time()
        queue = "jobs" if chosen else queue or self._rng.choice(("jobs", "plain"))
        return Job(
            job_id, os.urandom(16), queue, body(key), {"k": key}, now, None if delay is None else now + delay,
            chosen_id=chosen, extras=Extras(priority=priority),
        )  # fmt: skip

    def _fresh(self) -> str:
        self._number += 1
        return f"{self._name}.{os.getpid()}.{self._number}"

    def _enqueue(self, *jobs: Job) -> None:
        began = time.monotonic_ns()
        keys = {job.id: key_of(job.payload) for job in jobs}
        for key in keys.values():
            self._say("!", key, began)
        uncertain, queued = "", list(keys)
        try:
            self.broker.enqueue(jobs)
        except EnqueueUncertain as error:
            uncertain, queued = error.job_id, list(error.enqueued)
        except EnqueueError as error:
            queued = list(error.enqueued)
        for job_id, key in keys.items():
            if job_id in queued:
                self._say("+", key, began)
            elif job_id != uncertain:
                self._say("~", key)

    def _one(self) -> None:
        delay, priority = self._rng.choice((None, None, 0.02, 1.5)), self._rng.choice((5, 5, 5, 4, 9))
        self._enqueue(self._job(self._fresh(), delay=delay, priority=priority))

    def _many(self) -> None:
        """Of one queue, mostly in a batch; or of both, in pieces."""
        queue = self._rng.choice(("jobs", "plain", ""))
        self._enqueue(*(self._job(self._fresh(), queue=queue) for _ in range(self._rng.randint(2, 20))))

    def _chosen(self) -> None:
        priority = self._rng.choice((5, 5, 5, 0, 6))
        self._enqueue(self._job(f"chosen.{self._rng.randrange(CHOSEN)}", chosen=True, priority=priority))

    def _in_vain(self) -> None:
        """The file or the batch is durable, and then the system says EIO."""

        def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
            result = real(*args, **kwargs)
            if name == "syncfs" or (name == "fsync" and os.path.isfile(f"/proc/self/fd/{args[0]}")):
                raise OSError(errno.EIO, "injected")
            return result

        jobs = [self._job(self._fresh(), chosen=self._rng.random() < 0.3)]
        if self._rng.random() < 0.4:  # together
            jobs = [self._job(self._fresh(), queue="jobs") for _ in range(LEAST_BATCH)]
        self._seam.arm(hook)
        try:
            self._enqueue(*jobs)
        finally:
            self._seam.disarm()

    def _work(self) -> None:
        for lease in self.broker.claim([self._rng.choice(("jobs", "plain"))], limit=self._rng.randint(1, 5), wait=0):
            self._settle(lease)

    def _settle(self, lease: Lease) -> None:
        choice = self._rng.random()
        if choice < 0.55:
            self._delete(key_of(lease.job.payload), lambda: ack(self.broker, [lease]))
        elif choice < 0.7:
            retry(self.broker, lease, delay=self._rng.choice((0, 0.02)), failure=self._failure(lease))
        elif choice < 0.8:
            self.broker.release([lease], delay=self._rng.choice((0, 0, 0.02)))
        elif choice < 0.97:
            key = key_of(lease.job.payload)
            bury(self.broker, lease, failure=self._failure(lease, last_words(key)))
            self._say("B", key)
        # the others stay claimed until this process is killed and somebody rescues them

    def _failure(self, lease: Lease, message: str = "no luck") -> Failure:
        return Failure(
            lease.attempt, "error", message, "Traceback ...", error_type="E", queue=lease.queue, delivery=lease.delivery
        )

    def _delete(self, key: str, act: Callable[[], Any]) -> None:
        self._say("-", key)
        try:
            act()
        finally:
            self._say("=", key)

    def _letters(self) -> None:
        for lease in self.broker.claim(["letters"], limit=2, wait=0):
            if self._rng.random() < 0.6:
                rest(self.broker, lease)
            else:
                self._delete(key_of(lease.job.payload), lambda lease=lease: ack(self.broker, [lease]))  # type: ignore[misc]
        for queue in ("letters", "plain"):
            for view in list(self.broker.browse(queue, "dead"))[: self._rng.randint(0, 3)]:
                self._dead(view)

    def _dead(self, view: JobView) -> None:
        if self._rng.random() < 0.3:
            self.broker.replay(view)
        else:
            self._delete(key_of(view.job.payload), lambda: self.broker.discard(view))

    def _keep_house(self) -> None:
        self.broker.maintain()
        for orphan in self.broker.rescue():
            settle_orphan(self.broker, orphan)
