"""The service that runs Django's tasks: `manage.py worker`, or `worker run framework.contrib.django.service`."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import django
from django.apps import apps
from django.db import close_old_connections
from django.utils.module_loading import import_string

if not apps.ready:
    django.setup()

from framework import Context, Reject, Slot
from framework.contrib.django.queues import TaskCall, TaskQueues
from framework.contrib.django.tasks_api import base, signals


class DjangoTasks(TaskQueues):
    """Runs the tasks of the queue `default`. A service with more queues calls `run_task` in handlers of its own."""

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        yield
        close_old_connections()

    @TaskQueues.default.handler
    def run_default(self, call: TaskCall, ctx: Context) -> None:
        run_task(call, ctx)


def run_task(call: TaskCall, ctx: Context) -> None:
    """Call a task's function, async ones in a loop of their own. Its exception is the failure of the attempt.

    Raises:
        Reject: the path is no task any more, for example after it was renamed: the job becomes a dead letter.
    """
    try:
        task = import_string(call.path)
    except ImportError as error:
        raise Reject(f"no task {call.path}: {error}") from error
    if not isinstance(task, base.Task):
        raise Reject(f"{call.path} is no task")
    task = task.using(backend=call.backend, queue_name=call.queue_name)
    result = _result(task, call, ctx)
    close_old_connections()
    signals.task_started.send(type(task.get_backend()), task_result=result)
    try:
        args = [base.TaskContext(task_result=result)] if task.takes_context else []
        task.call(*args, *call.args, **call.kwargs)
    except BaseException as error:  # also JobInterrupted
        _end(result, base.TaskResultStatus.FAILED, error)
        raise
    else:
        _end(result, base.TaskResultStatus.SUCCESSFUL)
    finally:
        close_old_connections()


def _result(task: Any, call: TaskCall, ctx: Context) -> Any:
    now = datetime.now(UTC)
    return base.TaskResult(
        task=task, id=ctx.job_id, status=base.TaskResultStatus.RUNNING, enqueued_at=ctx.enqueued_at, started_at=now,
        finished_at=None, last_attempted_at=now, args=call.args, kwargs=call.kwargs, backend=call.backend, errors=[],
        worker_ids=[ctx.queue] * ctx.attempt,  # its length is the number of the attempt
    )  # fmt: skip


def _end(result: Any, status: Any, error: BaseException | None = None) -> None:
    """Send Django's signal for the end of an attempt."""
    object.__setattr__(result, "status", status)  # Django's own backends change the frozen record like this
    object.__setattr__(result, "finished_at", datetime.now(UTC))
    if error is not None:
        path = f"{type(error).__module__}.{type(error).__qualname__}"
        text = "".join(traceback.format_exception(error))
        result.errors.append(base.TaskError(exception_class_path=path, traceback=text))
    signals.task_finished.send(type(result.task.get_backend()), task_result=result)
