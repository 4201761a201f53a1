"""Words of the suite: a job, a failure, and ways to look without caring how soon an engine shows what it promised."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from framework.engine.port import NO_JOBS, JobView, QueueStats, State
from framework.model.job import Failure, Job, Lease, RunRecord
from framework.model.options import QueueOptions
from tests.support.settling import ack, bury, rest, retry

from .engines import Engine, Owner

PATIENCE = 30.0  # seconds until something promised counts as missing
FAR = 3600.0  # seconds; nothing so far away becomes due in a test

JOBS = QueueOptions("jobs")
LETTERS = QueueOptions("letters", is_dead_letter=True)
JOBS_WITH_LETTERS = QueueOptions("jobs", dead_letter="letters")


def a_job(engine: Engine, job_id: str = "", *, delay: float = 0, chosen: bool = False, **fields: Any) -> Job:
    """A job as the producer makes it; an empty id is generated."""
    uid, now = os.urandom(16), engine.now()
    fields = {"queue": "jobs", "payload": b"{}", "headers": {}, "chosen_id": chosen, **fields}
    return Job(id=job_id or uid.hex(), uid=uid, enqueued_at=now, not_before=now + delay if delay else None, **fields)


def put(engine: Engine, broker: Owner, *ids: str, **fields: Any) -> list[Job]:
    """Enqueues jobs of these ids in one call."""
    jobs = [a_job(engine, job_id, **fields) for job_id in ids]
    broker.enqueue(jobs)
    return jobs


def a_failure(lease: Lease, **fields: Any) -> Failure:
    fields = {"reason": "error", "message": f"failed in attempt {lease.attempt}", **fields}
    return Failure(attempt=lease.attempt, queue=lease.queue, delivery=lease.delivery, **fields)


def a_run(lease: Lease, row: int = 0, **fields: Any) -> RunRecord:
    fields = {"started_at": 1_700_000_000.25, **fields}
    return RunRecord(row=row, delivery=lease.delivery, attempt=lease.attempt, **fields)


def take(broker: Owner, count: int = 1, queue: str = "jobs") -> list[Lease]:
    """Claims exactly so many, in as many calls as it takes."""
    leases: list[Lease] = []
    deadline = time.monotonic() + PATIENCE
    while len(leases) < count:
        assert time.monotonic() < deadline, f"only {ids(leases)} of {count} could be claimed from {queue}"
        got = broker.claim([queue], limit=count - len(leases), wait=0.2)
        assert len(got) <= count - len(leases), "more than the limit"
        leases.extend(got)
    return leases


def take_one(broker: Owner, queue: str = "jobs") -> Lease:
    return take(broker, 1, queue)[0]


def assert_nothing_to_claim(broker: Owner, queue: str = "jobs") -> None:
    broker.maintain()
    assert ids(broker.claim([queue], limit=10, wait=0.05)) == []


def pass_time(engine: Engine, broker: Owner, seconds: float) -> None:
    """Time passes, and the housekeeping sees it."""
    engine.advance(seconds)
    broker.maintain()


def fail_once(broker: Owner, queue: str = "jobs", **fields: Any) -> Lease:
    """One failed attempt, due again at once."""
    lease = take_one(broker, queue)
    retry(broker, lease, delay=0, failure=a_failure(lease, **fields))
    broker.maintain()
    return lease


def bury_one(broker: Owner, queue: str = "jobs", **fields: Any) -> Lease:
    lease = take_one(broker, queue)
    bury(broker, lease, failure=a_failure(lease, **fields))
    return lease


def listed(broker: Owner, state: State, queue: str = "jobs") -> list[str]:
    return [view.job.id for view in broker.browse(queue, state)]


def found(broker: Owner, job_id: str, state: State, queue: str = "jobs") -> JobView:
    view = broker.find(queue, job_id, state)
    assert view is not None, f"{job_id} is not in {queue}'s {state}"
    return view


def eventually(look: Callable[[], Any], expected: Any) -> None:
    """Waits until `look()` is what is expected: counts may be a second old."""
    deadline = time.monotonic() + PATIENCE
    while (seen := look()) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert seen == expected


def assert_counts(broker: Owner, queue: str = "jobs", **counts: int) -> None:
    """The queue holds so many jobs of each state, and none of the others."""

    def look() -> QueueStats:
        broker.maintain()
        return replace(broker.stats(queue), oldest_age=0.0)

    eventually(look, replace(NO_JOBS, **counts))


def ids(leases: Iterable[Lease]) -> list[str]:
    return [lease.job.id for lease in leases]


def normal(job: Job) -> Job:
    """Comparable, whatever kinds of mapping and sequence the engine returned."""
    return replace(job, headers=dict(job.headers), history=tuple(job.history))


# Each way to settle one lease.
SETTLE: dict[str, Callable[[Owner, Lease], None]] = {
    "ack": lambda broker, lease: ack(broker, [lease]),
    "retry": lambda broker, lease: retry(broker, lease, delay=0, failure=a_failure(lease)),
    "bury": lambda broker, lease: bury(broker, lease, failure=a_failure(lease)),
    "rest": lambda broker, lease: rest(broker, lease),
    "release": lambda broker, lease: broker.release([lease]),
    "release with a delay": lambda broker, lease: broker.release([lease], delay=FAR),
}


def taken_while_waiting(broker: Owner, act: Callable[[], object]) -> list[str]:
    """The ids that a claim of one job gets, which waits while something is done."""
    got: list[str] = []
    thread = threading.Thread(target=lambda: got.extend(ids(take(broker))))
    thread.start()
    act()
    thread.join(PATIENCE)
    return got
