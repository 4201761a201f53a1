"""What limits and unique keys of a queue cost: the same jobs with one and without, in pairs.

    python -m bench.limits [JOBS] [URL]     2,000 jobs a run by default, on a spool in a temporary directory

Limits: jobs are drained, one claim a job. Unique keys: jobs are enqueued one by one. For PostgreSQL give the URL of a
database whose schema is migrated; its queues `bench.*` are drained. On the spool it is the processor's time of this
process, which a busy machine hardly changes; with a URL it is the time that passes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from statistics import median

from framework.engine.port import open_engine
from framework.model.extras import Extras
from framework.model.job import Job
from framework.model.limits import Breaker, Rate
from framework.model.options import QueueOptions
from framework.model.outcome import SUCCEEDED, Settlement

PAIRS = 7
LIMITS = {
    "nothing": QueueOptions("bench.nothing"),  # how much two equal queues differ
    "max_running=8": QueueOptions("bench.running", max_running=8),
    "rate=100000/s": QueueOptions("bench.rate", rate=Rate(100_000, "s")),
    "breaker": QueueOptions("bench.breaker", breaker=Breaker()),
    "all of them": QueueOptions("bench.all", max_running=8, rate=Rate(100_000, "s"), breaker=Breaker()),
}
PLAIN = QueueOptions("bench.plain")
KEPT = Extras(unique_scope="done")


def main(jobs: int = 2_000, url: str = "") -> int:
    with tempfile.TemporaryDirectory(prefix="limits-") as place:
        engine = open_engine(url or f"spool:{place}/spool", incarnation=f"bench-{os.getpid()}", durability="process")
        with closing(engine):
            engine.open([PLAIN, *LIMITS.values()])
            clock = time.perf_counter if url else time.process_time
            drained(engine, PLAIN.name, jobs, clock)
            for title, options in LIMITS.items():
                compare(title, jobs, [
                    (drained(engine, PLAIN.name, jobs, clock), drained(engine, options.name, jobs, clock))
                    for _ in range(PAIRS)
                ])  # fmt: skip
            compare("a unique key", jobs, [
                (enqueued(engine, jobs, clock), enqueued(engine, jobs, clock, unique=True)) for _ in range(PAIRS)
            ])  # fmt: skip
    return 0


def compare(title: str, jobs: int, pairs: list[tuple[float, float]]) -> None:
    """Print what pairs of (seconds without, seconds with) say."""
    without, limited = (median(times) / jobs * 1e6 for times in zip(*pairs, strict=True))
    ratio = median(limited / without for without, limited in pairs)
    shown = f"{without:7.1f} µs a job without, {limited:7.1f} µs with, {ratio:.2f} times"
    print(f"{title:14} {shown} (median of {PAIRS} pairs)", flush=True)


def enqueued(engine: object, count: int, clock: Callable[[], float], *, unique: bool = False) -> float:
    """Return the seconds that enqueueing so many jobs takes, each with a unique key of its own or without."""
    jobs = [replace(job, extras=replace(KEPT, unique_key=job.id)) if unique else job for job in made(PLAIN.name, count)]
    began = clock()
    for job in jobs:
        engine.enqueue([job])  # type: ignore[attr-defined]
    took = clock() - began
    drain(engine, PLAIN.name, count, most=64)
    return took


def made(queue: str, count: int) -> list[Job]:
    """Return new jobs."""
    return [Job(os.urandom(8).hex(), os.urandom(16), queue, b"1", {}, time.time()) for _ in range(count)]


def drained(engine: object, queue: str, count: int, clock: Callable[[], float]) -> float:
    """Return the seconds that claiming and settling so many jobs takes."""
    jobs = made(queue, count)
    for at in range(0, count, 256):
        engine.enqueue(jobs[at : at + 256])  # type: ignore[attr-defined]
    began = clock()
    drain(engine, queue, count, most=1)
    return clock() - began


def drain(engine: object, queue: str, count: int, *, most: int) -> None:
    """Claim and settle so many jobs, at most `most` at once."""
    done = 0
    while done < count:
        leases = engine.claim([queue], limit=most, wait=1.0)  # type: ignore[attr-defined]
        engine.settle([Settlement(lease, SUCCEEDED) for lease in leases])  # type: ignore[attr-defined]
        done += len(leases)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 2_000, *sys.argv[2:3]))
