"""What limits and unique keys of a queue cost: the same jobs with one and without, in pairs.

    python -m bench.limits [JOBS] [URL]     2,000 jobs a run by default, on a spool in a temporary directory

Limits: jobs are drained, one claim a job. With groups, 10,000 jobs of as many groups wait beside those of a run, and as
many in the queue without groups. Unique keys: jobs are enqueued one by one.

For PostgreSQL give the URL of a database whose schema is migrated; its queues `bench.*` are drained. On the spool it is
the processor's time of this process, which a busy machine hardly changes; with a URL it is the time that passes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import count
from statistics import median
from typing import Any

from framework.engine.port import open_engine
from framework.model.extras import Extras
from framework.model.job import Job
from framework.model.limits import Breaker, Rate
from framework.model.options import QueueOptions
from framework.model.outcome import SUCCEEDED, Settlement

PAIRS = 7
KEYS = 10_000
LIMITS = {
    "nothing": QueueOptions("bench.nothing"),  # how much two equal queues differ
    "max_running=8": QueueOptions("bench.running", max_running=8),
    "rate=100000/s": QueueOptions("bench.rate", rate=Rate(100_000, "s")),
    "breaker": QueueOptions("bench.breaker", breaker=Breaker()),
    "group_limit=1": QueueOptions("bench.group", max_length=None, grouped=True, group_limit=1),
    "strict order": QueueOptions("bench.strict", max_length=None, grouped=True, group_order="strict"),
    "groups": QueueOptions("bench.fair", max_length=None, grouped=True),
    "all of them": QueueOptions("bench.all", max_running=8, rate=Rate(100_000, "s"), breaker=Breaker()),
}
PLAIN = QueueOptions("bench.plain")
DEEP = QueueOptions("bench.deep", max_length=None)  # what queues with groups are compared with: as many jobs wait


def main(jobs: int = 2_000, url: str = "") -> int:
    with tempfile.TemporaryDirectory(prefix="limits-") as place:
        engine = open_engine(url or f"spool:{place}/spool", incarnation=f"bench-{os.getpid()}", durability="process")
        with closing(engine):
            engine.open([PLAIN, DEEP, *LIMITS.values()])
            bench = Bench(engine, jobs, time.perf_counter if url else time.process_time)
            bench.drained(PLAIN)
            for title, options in LIMITS.items():
                plain = DEEP if options.grouped else PLAIN
                compare(title, jobs, [(bench.drained(plain), bench.drained(options)) for _ in range(PAIRS)])
            pairs = [(bench.enqueued(), bench.enqueued(unique=True)) for _ in range(PAIRS)]
            compare("a unique key", jobs, pairs)
    return 0


def compare(title: str, jobs: int, pairs: list[tuple[float, float]]) -> None:
    """Print what pairs of (seconds without, seconds with) say."""
    without, limited = (median(times) / jobs * 1e6 for times in zip(*pairs, strict=True))
    ratio = median(limited / without for without, limited in pairs)
    shown = f"{without:7.1f} µs a job without, {limited:7.1f} µs with, {ratio:.2f} times"
    print(f"{title:14} {shown} (median of {PAIRS} pairs)", flush=True)


class Bench:
    """An engine, the jobs of a run, and the clock that counts."""

    def __init__(self, engine: Any, jobs: int, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._jobs = jobs
        self._clock = clock
        self._waiting: Counter[str] = Counter()
        self._numbers = count()

    def drained(self, options: QueueOptions) -> float:
        """Return the seconds that claiming and settling the jobs of a run takes; with groups KEYS more wait."""
        depth = self._jobs + (KEYS if options.grouped or options is DEEP else 0)
        while (missing := depth - self._waiting[options.name]) > 0:
            self._engine.enqueue([_job(options, next(self._numbers)) for _ in range(min(256, missing))])
            self._waiting[options.name] += min(256, missing)
        began = self._clock()
        self._drain(options.name, most=1)
        self._waiting[options.name] -= self._jobs
        return self._clock() - began

    def enqueued(self, *, unique: bool = False) -> float:
        """Return the seconds that enqueueing the jobs of a run takes, each with a unique key of its own or without."""
        jobs = [_job(PLAIN, next(self._numbers)) for _ in range(self._jobs)]
        if unique:
            jobs = [replace(job, extras=Extras(version="1", unique_key=job.id, unique_scope="done")) for job in jobs]
        began = self._clock()
        for job in jobs:
            self._engine.enqueue([job])
        took = self._clock() - began
        self._drain(PLAIN.name, most=64)
        return took

    def _drain(self, queue: str, *, most: int) -> None:
        """Claim and settle the jobs of a run, at most `most` at once."""
        done = 0
        while done < self._jobs:
            leases = self._engine.claim([queue], limit=min(most, self._jobs - done), wait=1.0)
            self._engine.settle([Settlement(lease, SUCCEEDED) for lease in leases])
            done += len(leases)


def _job(options: QueueOptions, number: int) -> Job:
    """Return a job as a producer stores it; it has a group where the queue has groups."""
    extras = Extras(version="1", group=f"customer {number % KEYS}" if options.grouped else None)
    return Job(os.urandom(8).hex(), os.urandom(16), options.name, b"1", {}, time.time(), extras=extras)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 2_000, *sys.argv[2:3]))
