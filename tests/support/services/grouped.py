"""A service whose queues have groups. A handler holds a locked file of its group while it runs.

The kernel frees such a file with the process, so a handler that finds it locked for PATIENCE is one too many.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from framework import Context, Queue, RetryLater, RetryPolicy, WorkerApp
from tests.support.ledger import note
from tests.support.services.acts import Task
from tests.support.services.limited import PATIENCE, _lock

RETRY = RetryPolicy(max_retries=50, first_delay=0.01, factor=1, jitter=False)


def group_of(task: Task) -> str:
    """Return the letter before the number of the task's key."""
    return task.key[0]


class Grouped(WorkerApp):
    alone = Queue[Task]("alone", workers=3, group=group_of, group_limit=1, retry=RETRY)
    strict = Queue[Task]("strict", workers=3, group=group_of, group_order="strict", retry=RETRY)

    @alone.handler
    @strict.handler
    def act(self, task: Task, ctx: Context) -> None:
        with one_of_group(task):
            time.sleep(task.seconds)
        if ctx.attempt == 1 and int(task.key[1:]) % 5 == 2:
            raise RetryLater("the first time never works")
        note(f"end {task.key}")


@contextmanager
def one_of_group(task: Task) -> Iterator[None]:
    """Hold the file of a task's group; note where another has it."""
    end = time.monotonic() + PATIENCE
    file = os.open(f"{os.environ['LEDGER']}.{group_of(task)}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        while not _lock(file):
            if time.monotonic() > end:
                note(f"exceeded {task.key}")
                break
            time.sleep(0.005)
        yield
    finally:
        os.close(file)
