"""A service with limits over all its processes. Its handlers hold one of MOST locked files while they run.

The kernel frees such a file with the process, so a handler that finds none free for PATIENCE has too many beside it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from framework import Breaker, Context, Queue, RetryPolicy, WorkerApp
from tests.support.ledger import note
from tests.support.services.acts import Task

MOST = 3
PATIENCE = 0.5  # seconds; the kernel closes the files of a killed process one after the other
RETRY = RetryPolicy(max_retries=50, first_delay=0.01, factor=1, jitter=False)


class Limited(WorkerApp):
    few = Queue[Task]("few", workers=3, max_running=MOST, retry=RETRY)
    many = Queue[Task]("many", workers=2, concurrency=6, max_running=MOST, retry=RETRY)
    slow = Queue[Task]("slow", workers=2, rate="20/s", retry=RETRY)
    frail = Queue[Task](
        "frail",
        workers=2,
        breaker=Breaker(of=10, error_types=(ConnectionError,), hold=2),
        retry=RetryPolicy(max_retries=5, first_delay=1),
    )

    @few.handler
    def act(self, task: Task, ctx: Context) -> None:
        with one_of_most("few", task):
            time.sleep(task.seconds)
        note(f"end {task.key}")

    @many.handler
    async def act_async(self, task: Task, ctx: Context) -> None:
        with one_of_most("many", task):
            await asyncio.sleep(task.seconds)
        note(f"end {task.key}")

    @slow.handler
    def act_slowly(self, task: Task, ctx: Context) -> None:
        note(f"began {time.time()}")

    @frail.handler
    def call(self, task: Task, ctx: Context) -> None:
        if Path(os.environ["LEDGER"] + ".down").exists():
            note(f"failed {task.key}")
            raise ConnectionError("refused")
        note(f"end {task.key}")


@contextmanager
def one_of_most(queue: str, task: Task) -> Iterator[None]:
    """Hold one of the files that stand for the most jobs of a queue; note where none is free."""
    end = time.monotonic() + PATIENCE
    files = [os.open(f"{os.environ['LEDGER']}.{queue}{n}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC) for n in range(MOST)]
    try:
        while not any(map(_lock, files)):
            if time.monotonic() > end:
                note(f"exceeded {queue}")
                break
            time.sleep(0.005)
        note(f"start {task.key}")
        yield
    finally:
        for file in files:
            os.close(file)


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
