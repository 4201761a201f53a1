"""Leases, runs and failures for the tests of the ledger, and processes that die."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from framework.engine.ledger import Calls, DeadLedgers, Entry, Ledger
from framework.model.job import Failure, Job, Lease, RunRecord
from framework.model.outcome import Kind, Outcome

OWNER = "1-00112233aabbccdd"


def lease(number: int = 1, *, queue: str = "jobs", delivery: int = 1) -> Lease:
    """A lease of the job with this number."""
    job = Job(f"j{number}", number.to_bytes(16, "big"), queue, b"{}", {}, 1.0)
    return Lease(job, queue, 1, delivery, 1.0, None)


def run(of: Lease, *, row: int = 0) -> RunRecord:
    """Its run, with ids that name it."""
    number = int.from_bytes(of.job.uid, "big") % 2**31
    return RunRecord(row, of.delivery, of.attempt, 1000.5 + number, f"{number + 1:032x}", f"{number + 1:016x}", True)


def failure(of: Lease, **fields: Any) -> Failure:
    """A failure with every field of its own."""
    record = run(of)
    known: dict[str, Any] = {
        "attempt": of.attempt,
        "reason": "error",
        "message": f"no luck with {of.job.id}: ñ, 漢, 🙂",
        "traceback": "Traceback\n  line 1\n  line 2",
        "trace_id": record.trace_id,
        "error_type": "shop.errors.NoLuck",
        "span_id": record.span_id,
        "queue": of.queue,
        "delivery": of.delivery,
        "started_at": record.started_at,
        "ended_at": record.started_at + 0.25,
    }
    return Failure(**(known | fields))


def retried(of: Lease, **fields: Any) -> Outcome:
    """The outcome of an attempt that failed."""
    return Outcome(Kind.RETRIED, 1.5, failure(of, **fields))


def died(place: Path, live: Callable[[Ledger], Any], *, owner: str = OWNER, calls: Calls | None = None) -> None:
    """A process opens its ledger, does this, and is killed."""
    child = os.fork()
    if child == 0:
        try:
            live(Ledger(place, owner, slots=4, calls=calls))
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the process failed: {status}"


def found(place: Path, *of: Lease, owner: str = OWNER) -> list[Entry | None]:
    """What the next rescuer reads about these leases."""
    ledgers = DeadLedgers(place)
    try:
        dead = ledgers.of(owner)
        return [None if dead is None else dead.entry(one) for one in of]
    finally:
        ledgers.close()


def files(place: Path) -> list[str]:
    """The names in the directory."""
    return sorted(entry.name for entry in place.iterdir())
