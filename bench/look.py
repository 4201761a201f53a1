"""How long a person waits for a store with many jobs: `python -m bench.look URL [COUNT]`.

It fills the store with COUNT jobs and as many dead letters (100,000 each), and then times the lists and the searches of
`framework.admin` beyond the imports. `spool:DIR` or `postgresql://...`; the store should be empty.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from framework.admin import jobs, queues, store
from framework.engine.port import Engine, open_engine
from framework.model.job import Failure, Job, Lease
from framework.model.options import QueueOptions
from framework.model.outcome import Kind, Outcome, Settlement
from framework.service.request import new_ids
from framework.service.settings import load_settings

QUEUES = (
    QueueOptions("letters", is_dead_letter=True, handled=False),
    QueueOptions("dying", dead_letter="letters", max_length=None),
    QueueOptions("jobs", max_length=None),
)


def fill(url: str, jobs: int, dead: int) -> dict[str, list[str]]:
    """Store jobs and dead letters; return the first, the middle and the last id of each."""
    engine = open_engine(url, incarnation=f"look-{time.time_ns()}", durability="process")
    engine.open(QUEUES)
    found = {}
    for queue, count in (("dying", dead), ("jobs", jobs)):
        ids: list[str] = []
        while len(ids) < count:
            batch = [new_job(queue) for _ in range(min(256, count - len(ids)))]
            engine.enqueue(batch)
            ids += [job.id for job in batch]
        if queue == "dying":
            _dead_letter_all(engine)
        found[queue] = [ids[0], ids[len(ids) // 2], ids[-1]] if ids else []
    engine.close()
    return found


def new_job(queue: str) -> Job:
    """Return a job of a queue."""
    job_id, uid = new_ids()
    payload = json.dumps({"to": job_id, "number": 1}).encode()
    return Job(job_id, uid, queue, payload, {"content-type": "application/json"}, time.time())


def _dead_letter_all(engine: Engine) -> None:
    while leases := engine.claim(["dying"], limit=256, wait=0.2):
        engine.settle([Settlement(lease, Outcome(Kind.DEAD_LETTERED, failure=_failure(lease))) for lease in leases])


def _failure(lease: Lease) -> Failure:
    now = time.time()
    return Failure(1, "error", "refused", error_type="OSError", queue="dying", delivery=lease.delivery,
                   started_at=now, ended_at=now)  # fmt: skip


def timed(url: str, name: str, call: Callable[[store.Store], Any]) -> Any:
    """Print how long a look takes, opening and closing the store included."""
    wall, used = time.perf_counter(), time.process_time()
    with store.opened(load_settings(), url=url) as opened:
        found = call(opened)
    took, cpu = time.perf_counter() - wall, time.process_time() - used
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{name:24} {took:7.3f} s, of the processor {cpu:6.3f} s, {memory} MiB at most", flush=True)
    return found


def main(url: str, count: int = 100_000) -> None:
    """Fill the store and print a line for each look."""
    for queue, ids in fill(url, count, count).items():
        for job_id in ids:
            assert len(timed(url, f"an id of {queue}", lambda opened, job_id=job_id: jobs.find(opened, job_id))) == 1
    for queue, state in (("jobs", "ready"), ("letters", "dead")):
        wanted = jobs.Filter((queue,), (state,))  # type: ignore[arg-type]
        first = timed(url, f"first page of {queue}", lambda opened, wanted=wanted: jobs.page(opened, wanted))
        after = first.after
        timed(url, "the next page", lambda opened, w=wanted, a=after: jobs.page(opened, w, after=a))
    timed(url, "an id of no job", lambda opened: jobs.find(opened, new_ids()[0]))
    timed(url, "all queues", queues.views)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
