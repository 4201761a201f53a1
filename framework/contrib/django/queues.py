"""The queue that carries tasks: all that a process needs to enqueue them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from framework import Queue, WorkerApp


class TaskCall(BaseModel):
    """One call of a task.

    Attributes:
        path: `module.function`.
        backend: alias of the backend in `TASKS`.
        queue_name: Django's name of the queue.
        args, kwargs: JSON, as Django allows for tasks.
    """

    path: str
    backend: str = "default"
    queue_name: str = "default"
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


class TaskQueues(WorkerApp):
    """The contract. A subclass may add queues of `TaskCall`, each under the name that Django has for it."""

    default = Queue[TaskCall]("django.tasks")
