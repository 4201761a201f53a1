"""A service whose first settlement never comes to its end: what its worker has done until then is all that counts."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from framework import Queue, RetryPolicy, WorkerApp
from framework.brokers.spool import SpoolBroker
from framework.outcome import Settlement
from tests.process.torture import Task, note

_settle = SpoolBroker.settle


def held(broker: SpoolBroker, done: Sequence[Settlement]) -> None:
    """The first call of all processes stops here, with its handlers at their end."""
    try:
        os.close(os.open(os.environ["LEDGER"] + ".held", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        _settle(broker, done)
    else:
        note(f"settling {os.getpid()} {' '.join(one.lease.job.id for one in done)}")
        time.sleep(600)


if "HELD" in os.environ:  # not in the process of the test, which imports this for its queues
    SpoolBroker.settle = held  # type: ignore[method-assign]

ONCE = RetryPolicy(max_retries=0)


def act(task: Task) -> None:
    note(f"start {task.key}")
    if task.do == "fail":
        raise ValueError(f"{task.key} fails: ñ")
    if task.do == "hang":
        time.sleep(600)


class Held(WorkerApp):
    """Two queues whose jobs have one attempt."""

    sync = Queue[Task]("sync", retry=ONCE, timeout=60)
    many = Queue[Task]("many", retry=ONCE, timeout=60, concurrency=4)

    @sync.handler
    def on_sync(self, task: Task) -> None:
        act(task)

    @many.handler
    async def on_many(self, task: Task) -> None:
        act(task)
