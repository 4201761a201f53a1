"""Words of the unit tests: a job, a lease, and services written into files, so that places can be checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

from framework.model.attempt import NoTracing
from framework.model.errors import DeclarationError
from framework.model.events import Event
from framework.model.job import Job, Lease
from framework.model.options import QueueOptions
from framework.service.app import WorkerApp
from framework.worker.executor import Executor

HEADER = dedent("""\
    from __future__ import annotations
    from typing import Annotated, Any, Literal, NewType, Protocol, Sequence, Mapping, TYPE_CHECKING
    from pydantic import BaseModel
    from framework import Context, DeadLetter, Every, Queue, RetryPolicy, WorkerApp
    class Delivery(BaseModel): url: str
    class Other(BaseModel): name: str
    class Big(Delivery): more: int
""")
FIRST = HEADER.count("\n") + 1  # line of the first line of a service

Service = Callable[[str], ModuleType]


def load_service(body: str, place: Path) -> ModuleType:
    """Runs a service's source as the file `place`."""
    place.write_text(HEADER + dedent(body).strip("\n") + "\n")
    module = ModuleType(place.stem)
    sys.modules[place.stem] = module  # annotations are looked up there
    try:
        exec(compile(place.read_text(), str(place), "exec"), module.__dict__)
    finally:
        del sys.modules[place.stem]
    return module


def refusal(body: str, place: Path) -> str:
    """The one line with which a service is refused."""
    with pytest.raises(DeclarationError) as refused:
        load_service(body, place)
    text = str(refused.value)
    assert "\n" not in text
    return text


def a_job(payload: bytes = b"{}", queue: str = "jobs", job_id: str = "j1", **fields: Any) -> Job:
    uid = fields.pop("uid", os.urandom(16))
    return Job(id=job_id, uid=uid, queue=queue, payload=payload, headers={}, enqueued_at=1000.0, **fields)


def a_lease(payload: bytes = b"{}", *, queue: str = "jobs", home: str = "", attempt: int = 1, **fields: Any) -> Lease:
    job = a_job(payload, home or queue, **fields)
    return Lease(job, queue, attempt, delivery=attempt, eligible_at=1000.0, token=None)


def an_executor(
    app: WorkerApp,
    events: list[Event] | None = None,
    queue: str = "jobs",
    *,
    wants: Callable[[type[Event], str], bool] = lambda kind, outcome: True,
    stood_still: Callable[[], float] = lambda: 0.0,
    **options: Any,
) -> Executor:
    """Of one queue of an app, at wall clock 1010 and a monotonic clock that stands at 5."""
    handler = type(app).worker_handlers[queue]
    resolved = QueueOptions(queue, **{"retry": handler.queue.options.retry, **options})
    return Executor(
        app,
        handler,
        resolved,
        tracing=NoTracing(),
        emit=[].append if events is None else events.append,
        wants=wants,
        stood_still=stood_still,
        clock=lambda: 1010.0,
        monotonic=lambda: 5.0,
    )
