"""Test support for services: the real codec, retries and dead letters on the memory engine, without processes or
directories."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from framework.model.attempt import SilentLogger
from framework.model.fan_in import Ended
from framework.model.handling import Context
from framework.service.app import Slot, WorkerApp
from framework.testing.memory import Harness
from framework.testing.traces import Span, Trace

__all__ = ["Harness", "Span", "Trace", "context", "harness"]

A = TypeVar("A", bound=WorkerApp)


@contextmanager
def harness(app: type[A] | A, /, *, traces: bool = False) -> Generator[Harness[A], None, None]:
    """Run an app's jobs in memory: inside the block, everything that is enqueued stays in the harness.

    `lifespan` is open during the block, with a slot of the first queue that has a handler; `alifespan` is open during
    each drain that runs an async job. To replace a resource by a fake, set it on `app` inside the block: it stays, even
    if `alifespan` sets the attribute. To keep a hook from opening the resource at all, override the hook.

    Args:
        app: a WorkerApp, or an instance of one.
        traces: record spans, for `t.trace(job)`: those of enqueues and attempts, and what handlers make with
            OpenTelemetry. If this process has no provider of spans, it gets one, which exports nothing and stays.

    Raises:
        RuntimeError: spans cannot be recorded here.
    """
    with ExitStack() as opened:
        spans = opened.enter_context(_recording()) if traces else None
        made = Harness(app() if isinstance(app, type) else app, spans)
        handlers = list(made.app.worker_handlers.values())
        opened.enter_context(made.installed())
        opened.callback(made.fakes.put)
        if handlers:
            opened.enter_context(made.app.lifespan(Slot(handlers[0].queue, 0)))
        with made.fakes.test():
            yield made


def _recording() -> AbstractContextManager[list[Any]]:
    from framework.telemetry.recording import recording  # imports the SDK

    return recording()


def context(
    *,
    attempt: int = 1,
    max_attempts: int = 11,
    timeout: float | None = None,
    scheduled_for: datetime | None = None,
    stopping: bool = False,
    saved: Any = None,
    ended: Ended | None = None,
) -> Context:
    """Return a context with which a test calls a handler directly, as a method.

    Args:
        timeout: seconds that `remaining` counts down; None = no timeout.
        stopping: the value of `should_stop`.
        saved: what an earlier attempt has saved; afterwards `saved` of the context has what the handler saved last.
        ended: how the members of a fan-in have ended, for the handler of its follow-up.
    """
    made = Context(
        job_id="job",
        queue="queue",
        attempt=attempt,
        max_attempts=max_attempts,
        enqueued_at=datetime.now(UTC),
        scheduled_for=scheduled_for,
        log=SilentLogger(),
        _deadline=None if timeout is None else time.monotonic() + timeout,
        _stopping=lambda _: stopping,
    )
    object.__setattr__(made, "_ended", ended)
    made.save(saved)  # it belongs to no job: this only sets `saved`
    return made
