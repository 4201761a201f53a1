"""What the limits of a queue cost: the same jobs drained with a limit and without, in pairs, one claim a job.

    python -m bench.limits [JOBS] [URL]     2,000 jobs a run by default, on a spool in a temporary directory

With groups there are 10,000 keys, all over the jobs, or as many as there are jobs.

For PostgreSQL give the URL of a database whose schema is migrated; its queues `bench.*` are drained. On the spool it is
the processor's time of this process, which a busy machine hardly changes; with a URL it is the time that passes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from statistics import median

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
    "group_limit=1": QueueOptions("bench.group", grouped=True, group_limit=1),
    "strict order": QueueOptions("bench.strict", grouped=True, group_order="strict"),
    "groups": QueueOptions("bench.fair", grouped=True),
    "all of them": QueueOptions("bench.all", max_running=8, rate=Rate(100_000, "s"), breaker=Breaker()),
}
PLAIN = QueueOptions("bench.plain")


def main(jobs: int = 2_000, url: str = "") -> int:
    with tempfile.TemporaryDirectory(prefix="limits-") as place:
        engine = open_engine(url or f"spool:{place}/spool", incarnation=f"bench-{os.getpid()}", durability="process")
        with closing(engine):
            engine.open([PLAIN, *LIMITS.values()])
            clock = time.perf_counter if url else time.process_time
            drained(engine, PLAIN, jobs, clock)
            for title, options in LIMITS.items():
                pairs = [
                    (drained(engine, PLAIN, jobs, clock), drained(engine, options, jobs, clock))
                    for _ in range(PAIRS)
                ]
                without, limited = (median(times) / jobs * 1e6 for times in zip(*pairs, strict=True))
                ratio = median(limited / without for without, limited in pairs)
                shown = f"{without:7.1f} µs a job without, {limited:7.1f} µs with, {ratio:.2f} times"
                print(f"{title:14} {shown} (median of {PAIRS} pairs)")
    return 0


def drained(engine: object, options: QueueOptions, count: int, clock: Callable[[], float]) -> float:
    """Return the seconds that claiming and settling so many jobs takes."""
    jobs = [
        Job(os.urandom(8).hex(), os.urandom(16), options.name, b"1", {}, time.time(), extras=_extras(options, number))
        for number in range(count)
    ]
    queue = options.name
    for at in range(0, count, 256):
        engine.enqueue(jobs[at : at + 256])  # type: ignore[attr-defined]
    began, done = clock(), 0
    while done < count:
        leases = engine.claim([queue], limit=1, wait=1.0)  # type: ignore[attr-defined]
        engine.settle([Settlement(lease, SUCCEEDED) for lease in leases])  # type: ignore[attr-defined]
        done += len(leases)
    return clock() - began


def _extras(options: QueueOptions, number: int) -> Extras:
    """Return what a producer stores with each job, and the group where the queue has groups."""
    return Extras(version="1", group=f"customer {number % KEYS}" if options.grouped else None)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 2_000, *sys.argv[2:3]))
