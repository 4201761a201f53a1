"""A producer process of the kill soak: enqueues until it is killed, and writes down what was acknowledged.

python -m tests.faults.producer URL ACKNOWLEDGED SEED
"""

from __future__ import annotations

import os
import random
import sys
import time
from typing import Any

from framework.model.errors import EnqueueError
from framework.runner.connecting import open_producer
from framework.service.queues import Queue
from framework.service.settings import Settings
from tests.support.services.acts import Task
from tests.support.services.soak import Soak

# Weights of what a job does: most are well-behaved, or nothing would ever be claimed in batches.
QUIET = {"ok": 900, "work": 40, "fail": 20, "snooze": 10}
SYNC = QUIET | {
    "abort": 4, "exit": 4, "slow": 2, "swallow": 2, "ignore_term": 1, "hold_gil": 1, "leak": 2, "child": 2,
    "escaped_child": 2, "marked_daemon": 1, "closed_fork": 2,
}  # fmt: skip
# In threads: one that ends or stops its process costs its neighbours a run, too.
THREADS = QUIET | {
    "abort": 2,
    "exit": 2,
    "slow": 2,
    "swallow": 2,
    "ignore_term": 1,
    "hold_gil": 1,
    "child": 2,
    "closed_fork": 1,
}
MANY = QUIET | {
    "abort": 3,
    "exit": 3,
    "slow": 2,
    "swallow": 2,
    "block_loop": 1,
    "child": 2,
    "escaped_child": 2,
    "marked_daemon": 1,
}


def task(choices: random.Random, weights: dict[str, int]) -> Task:
    """A job of a kind drawn by weight; most misbehave on their first attempt only."""
    [do] = choices.choices(list(weights), list(weights.values()))
    seconds = choices.uniform(0.02, 0.2) if do == "work" else 2.0 if do in ("slow", "block_loop") else 0.0
    return Task(do=do, seconds=seconds, until=0 if choices.random() < 0.1 else 1)  # type: ignore[arg-type]


def enqueue(choices: random.Random, name: str) -> list[str]:
    """One call of one of the kinds; the ids that it acknowledged."""
    queue: Queue[Any]
    queue, weights = choices.choices([(Soak.sync, SYNC), (Soak.many, MANY), (Soak.threads, THREADS)], (2, 1, 1))[0]
    kind = choices.random()
    if kind < 0.3:
        return queue.enqueue_many([task(choices, weights) for _ in range(choices.randrange(2, 120))])
    options: dict[str, Any] = {}
    if kind < 0.5:
        options["job_id"] = name
    elif kind < 0.6:  # so many in a row share segments
        return [queue.enqueue(task(choices, weights)) for _ in range(30)]
    if kind > 0.9:
        options["delay"] = choices.uniform(0.01, 1.0)
    return [queue.enqueue(task(choices, weights), **options)]


def main() -> None:
    url, ledger, seed = sys.argv[1:4]
    choices = random.Random(int(seed))
    acknowledged = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    producer = open_producer(Settings(engine_url=url, durability="process"))
    with Soak.sync.connected(producer), Soak.many.connected(producer), Soak.threads.connected(producer):
        for number in range(1_000_000_000):
            try:
                ids = enqueue(choices, f"chosen-{seed}-{number}")
            except EnqueueError as error:  # full: that is how this soak is throttled
                ids = list(error.enqueued)
                time.sleep(0.05)
            if ids:
                os.write(acknowledged, "".join(f"{job_id}\n" for job_id in ids).encode())


if __name__ == "__main__":
    main()
