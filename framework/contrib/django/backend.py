"""The backend for Django's tasks: each call of a task is a job."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.utils.module_loading import import_string

from framework import Queue
from framework.contrib.django.queues import TaskCall, TaskQueues
from framework.contrib.django.tasks_api import backends, base, signals


class WorkerBackend(backends.BaseTaskBackend):
    """Stores the calls of tasks as durable jobs.

    A task is enqueued when the current transaction commits, and not at all if that is rolled back; without a
    transaction, at once. With the option `transactional`, on PostgreSQL as engine and database, it is a row of the same
    transaction.

    OPTIONS of the setting TASKS:
        queues: the class whose queues carry the calls; each has the attribute name of a Django queue. `TaskQueues`.
        database: alias of the database whose transactions count. "default".
        transactional: enqueue within the transaction instead of after it. False.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = False  # a job that has succeeded leaves nothing
    supports_priority = False

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        options = dict(self.options)
        self._database = options.pop("database", "default")
        self._transactional = bool(options.pop("transactional", False))
        carrier = options.pop("queues", TaskQueues)
        self._carrier: type[TaskQueues] = import_string(carrier) if isinstance(carrier, str) else carrier
        if options:
            known = "queues, database, transactional"
            raise ImproperlyConfigured(f"TASKS[{alias!r}]: no option {next(iter(options))!r}; there are {known}")
        missing = [name for name in self.queues if self._queue(name) is None]
        if missing:
            raise ImproperlyConfigured(
                f"TASKS[{alias!r}]: {self._carrier.__name__} has no Queue[TaskCall] with the attribute {missing[0]!r}"
            )

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Store a call of the task, and return its result object, whose id is the id of the job."""
        if not isinstance(task, base.Task):
            kind, ours = type(task).__module__, base.__name__
            raise ImproperlyConfigured(f"{task!r} is a task of {kind}, and this backend is for those of {ours}")
        self.validate_task(task)
        result = base.TaskResult(
            task=task, id=str(uuid.uuid4()), status=base.TaskResultStatus.READY, enqueued_at=datetime.now(UTC),
            started_at=None, finished_at=None, last_attempted_at=None, args=list(args), kwargs=dict(kwargs),
            backend=self.alias, errors=[], worker_ids=[],
        )  # fmt: skip
        store = partial(self._store, result)
        if self._transactional and connections[self._database].in_atomic_block:
            store(connection=connections[self._database])
        else:
            transaction.on_commit(store, using=self._database)
        return result

    def _store(self, result: Any, **options: Any) -> None:
        task = result.task
        queue = self._queue(task.queue_name)
        assert queue is not None  # validate_task has checked the name
        call = TaskCall(path=task.module_path, backend=self.alias, queue_name=task.queue_name)
        call.args, call.kwargs = result.args, result.kwargs
        queue.enqueue(call, job_id=result.id, run_at=task.run_after, **options)
        signals.task_enqueued.send(type(self), task_result=result)

    def _queue(self, name: str) -> Queue[TaskCall] | None:
        found = self._carrier.worker_queues.get(name)
        return found if found is not None and found.payload_type is TaskCall else None
