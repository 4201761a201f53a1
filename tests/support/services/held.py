"""A service one of whose steps never comes to its end: what its worker has done until then is all that counts.

HELD=settle: the first settlement. HELD=telemetry: the first record for telemetry, when the outcome is in the ledger.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from framework import Queue, RetryPolicy, WorkerApp
from framework.engine.spool.engine import SpoolEngine
from framework.telemetry.ring.ringtracing import RingTracing
from tests.support.ledger import note
from tests.support.services.acts import Task


def first_never(step: Callable[..., Any]) -> Any:
    """The first call of all processes stops here, with its handlers at their end."""

    def held(*arguments: Any) -> Any:
        try:
            os.close(os.open(os.environ["LEDGER"] + ".held", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return step(*arguments)
        note(f"held {os.getpid()}")
        return time.sleep(600)

    return held


# Not in the process of the test, which imports this for its queues.
if os.environ.get("HELD") == "settle":
    SpoolEngine.settle = first_never(SpoolEngine.settle)  # type: ignore[method-assign]
elif os.environ.get("HELD") == "telemetry":
    RingTracing.put = first_never(RingTracing.put)  # type: ignore[method-assign]

ONCE = RetryPolicy(max_retries=0)


def act(task: Task) -> None:
    note(f"start {task.key}")
    if task.do == "fail":
        raise ValueError(f"{task.key} fails: ñ")
    if task.do == "hang":
        time.sleep(600)
    if task.do == "abort":
        os.kill(os.getpid(), signal.SIGKILL)


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
