"""The harness: an app and its queues in memory, and the drains that run its jobs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any, Generic, TypeVar

from framework.engine.memory.engine import MemoryEngine, MemoryStore
from framework.engine.port import JobView, State
from framework.model.attempt import Attempt, NoTracing, Tracing
from framework.model.events import Event, HookFailed
from framework.model.handling import Progress
from framework.model.job import Failure, Lease
from framework.model.options import QueueOptions
from framework.model.outcome import JobInterrupted, Reject, RetryLater, Settlement
from framework.model.text.exceptions import clear_locals
from framework.service import queues as _queues
from framework.service.app import Slot, WorkerApp
from framework.service.codec import codec_for
from framework.service.options import resolve
from framework.service.producer import Producer
from framework.service.queues import DeadLetter, Queue
from framework.service.sender import NoSending, Sending
from framework.testing.fakes import Fakes
from framework.testing.loop import Loop, refuse_loop, stay_cancelled
from framework.testing.traces import Trace, trace_of
from framework.worker.executor import Executor, dead_letter_of

P = TypeVar("P")
A = TypeVar("A", bound=WorkerApp)

MOST_CLAIMS = 1_000  # of one job in a drain: more means a handler that always snoozes
_NEVER = float("inf")
MOST_RUNS = 200_000  # jobs in a drain: more means a job that enqueues its own successor
# The exceptions that end a run; others (Ctrl-C, pytest.fail) are for the test, not for the job.
_ENDS = (Exception, JobInterrupted, SystemExit, asyncio.CancelledError)

log = logging.getLogger("framework")


class Clock:
    """A wall clock that moves only when it is set; seconds since the epoch."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class _Tally:
    """The number of attempts in a drain, and the error that ended it."""

    runs = 0
    error: BaseException | None = None

    def result(self) -> int:
        if self.error is not None:
            raise self.error
        return self.runs


class Harness(Generic[A]):
    """An app and its queues in memory; made by `harness`.

    Attributes:
        app: the instance whose methods are the handlers.
        failures: every failed attempt, oldest first, with its `exception`.
        progress: the last report of `ctx.progress` of each job, by its id.
        fakes: the attributes that the test has set on `app`.
    """

    app: A
    failures: list[Failure]
    progress: dict[str, Progress]

    def __init__(self, app: A, spans: Sequence[Any] | None = None) -> None:
        self.app = app
        self._spans = spans
        self._tracing, sending = _traced(spans is not None)
        self.failures = []
        self.progress = {}
        self._clock = Clock()
        self._store = MemoryStore()
        self._engine = MemoryEngine(self._store, incarnation="harness", clock=self._clock)
        self._engine.open([self._options(queue) for queue in app.worker_queues.values()])
        self._producer = Producer(self._engine, options=self._options, sending=sending, clock=self._clock)
        self.fakes = Fakes(app)

    def enqueued(self, queue: Queue[P], /) -> list[P]:
        """Return the payloads that wait on the queue, ready or delayed, in order."""
        self._engine.open([self._options(queue)])
        views = self._browse(queue.name, "ready", "delayed")
        if queue.payload_type is DeadLetter:
            return [_letter(view) for view in views]
        codec = codec_for(queue.payload_type, queue=queue.name)
        return [codec.decode(view.job.payload) for view in views]

    def dead(self, queue: Queue[P], /) -> list[DeadLetter]:
        """Return the dead letters whose home is the queue, wherever they are; for a dead-letter queue all that it
        holds."""
        both: list[Queue[Any]] = [queue, queue.dead_letter] if queue.dead_letter is not None else [queue]
        self._engine.open([self._options(one) for one in both])
        views = [view for one in both for view in self._browse(one.name, "dead", "delayed", "ready")]
        return [_letter(view) for view in views if view.is_dead_letter and queue.name in (view.queue, view.job.queue)]

    def trace(self, job_id: str, /) -> Trace:
        """Return the spans that a job has made so far, as a tree: its `send`, its attempts, and everything below them,
        such as the jobs that its handler enqueued. `str(t.trace(job_id))` is the tree as text.

        Raises:
            RuntimeError: the harness records no spans: `harness(App, traces=True)`.
            ValueError: there is no span of such a job.
        """
        if self._spans is None:
            raise RuntimeError("no spans are recorded: use harness(..., traces=True)")
        return trace_of(job_id, self._spans)

    def drain(self, *queues: Queue[Any], raise_errors: bool = True) -> int:
        """Run jobs one after the other until none is left, over every delay and backoff, without sleeping.

        Raises the first error of a handler, after its job is settled; Reject and RetryLater do not count as errors.
        Soft timeouts are not enforced.

        Args:
            queues: the queues to drain; without any, all queues that have a handler.
            raise_errors: False = go on, as in production: the job is retried by its policy and ends as a dead letter;
                see `failures` and `dead`.

        Returns:
            The number of attempts that were run.

        Raises:
            RuntimeError: an event loop is running (use `await adrain()`), or the jobs never end.
            ValueError: a queue has no handler.
        """
        refuse_loop()
        tally = _Tally()
        with self.fakes.drain(), Loop(self.app, self.fakes) as loop:
            for executor, attempts in self._async_attempts(queues, raise_errors, tally):
                loop.run(_together(executor, attempts), self._slot(executor))
        return tally.result()

    async def adrain(self, *queues: Queue[Any], raise_errors: bool = True) -> int:
        """Drain as `drain` does, in a running event loop; sync handlers block the loop."""
        tally, entered = _Tally(), False
        async with AsyncExitStack() as opened:
            opened.enter_context(self.fakes.drain())
            for executor, attempts in self._async_attempts(queues, raise_errors, tally):
                if not entered:
                    self.fakes.look()
                    await opened.enter_async_context(self.app.alifespan(self._slot(executor)))
                    opened.enter_context(self.fakes.jobs())
                    entered = True
                await stay_cancelled(_together(executor, attempts))
        return tally.result()  # an error is raised outside the block, where a task group in alifespan would wrap it

    @contextmanager
    def installed(self) -> Generator[None, None, None]:
        """Send every enqueue to the harness inside the block, also for queues of other services: a test must not write
        to their real engine."""
        previous, _queues.opener = _queues.opener, lambda queue: self._producer
        try:
            with ExitStack() as stack:
                for queue in self.app.worker_queues.values():
                    stack.enter_context(queue.connected(self._producer))
                yield
        finally:
            _queues.opener = previous

    def _async_attempts(
        self, queues: Sequence[Queue[Any]], raise_errors: bool, tally: _Tally
    ) -> Iterator[tuple[Executor, Sequence[Attempt]]]:
        """Run and settle jobs until one raises; yield the attempts of async jobs, for the caller to run."""
        for executor, leases in self._due(queues):
            attempts = [executor.attempt(lease) for lease in leases]
            if executor.handler.is_async:
                yield executor, attempts
            elif executor.batches is None:
                executor.run(attempts[0])
            else:
                with ThreadPoolExecutor(len(attempts)) as threads:
                    list(threads.map(executor.run, attempts))
            for attempt in attempts:
                self._settle(attempt)
            tally.runs += len(attempts)
            tally.error = next(filter(None, (self._raised(one, raise_errors) for one in attempts)), None)
            if tally.error is not None:
                return
            for attempt in attempts:
                clear_locals(attempt.error)

    def _due(self, queues: Sequence[Queue[Any]]) -> Iterator[tuple[Executor, Sequence[Lease]]]:
        """Yield the leases to run and settle, several for a batch; move the clock forward when no job is due."""
        executors = self._chosen(queues)
        claims: dict[bytes, int] = {}
        while True:
            busy = False
            for executor in executors:
                batching, batches = executor.handler.batching, executor.batches
                most = 1 if batching is None else batching.size
                leases = self._engine.claim([executor.options.name], limit=most, wait=0)
                for lease in leases:
                    claims[lease.job.uid] = claims.get(lease.job.uid, 0) + 1
                    _check_end(lease, claims)
                if leases:
                    busy = True
                    if batches is not None:
                        batches.expected = len(leases)
                    yield executor, leases
            if not busy:
                due = min(
                    (self._store.shelf(e.options.name).next_due(default=_NEVER) for e in executors), default=_NEVER
                )
                now = self._clock.now
                held = [wait for e in executors if (wait := self._store.waits(e.options.name, now))]
                due = min([due, *(now + wait for wait in held)])
                if due == _NEVER:
                    self._engine.maintain()
                    return
                self._clock.now = max(self._clock.now, due)

    def _chosen(self, queues: Sequence[Queue[Any]]) -> list[Executor]:
        for queue in queues:
            if queue.name not in self.app.worker_handlers:
                raise ValueError(f"{type(self.app).__name__} has no handler for queue {queue.name!r}: nothing to drain")
        # Made anew for each drain, because the test may have replaced a method.
        return [self._executor(name) for name in ([queue.name for queue in queues] or self.app.worker_handlers)]

    def _settle(self, attempt: Attempt) -> None:
        outcome = attempt.outcome
        assert outcome is not None
        self._engine.settle([Settlement(attempt.lease, outcome)])
        failure = outcome.failure
        if failure is None:
            return
        self.failures.append(failure)
        error, job = failure.exception, attempt.lease.job
        log.warning("%s %s attempt %d: %s", failure.queue, job.id, failure.attempt, failure.message, exc_info=error)

    @staticmethod
    def _raised(attempt: Attempt, raise_errors: bool) -> BaseException | None:
        failure = attempt.outcome.failure if attempt.outcome else None
        error = failure.exception if failure else None
        if error is None:
            return None
        quiet = (Reject, RetryLater) if raise_errors else _ENDS
        return None if issubclass(type(error), quiet) else error

    def _browse(self, queue: str, *states: State) -> list[JobView]:
        return [view for state in states for view in self._engine.browse(queue, state)]

    def _options(self, queue: Queue[Any]) -> QueueOptions:
        """Return a queue's options as declared; the environment of the test's machine does not change them."""
        return resolve(queue, None, type(self.app))

    def _executor(self, name: str) -> Executor:
        handler = self.app.worker_handlers[name]
        options = self._options(handler.queue)
        made = Executor(
            self.app, handler, options, tracing=self._tracing, emit=self._emit, swallows=_ENDS, clock=self._clock
        )
        made.save, made.progress = self._engine.save, self._report
        return made

    def _report(self, attempt: Attempt, progress: Progress) -> None:
        self.progress[attempt.lease.job.id] = progress

    def _slot(self, executor: Executor) -> Slot:
        return Slot(executor.handler.queue, 0)

    def _emit(self, event: Event) -> None:
        if isinstance(event, HookFailed):
            log.warning("%s failed: %s\n%s", event.hook, event.error, event.traceback)


def _traced(wanted: bool) -> tuple[Tracing, Sending]:
    """Return what makes spans; not wanted: what makes none."""
    if not wanted:
        return NoTracing(), NoSending()
    from framework.telemetry.recording import recorded  # imports the SDK

    return recorded(MemoryEngine.features.system)


async def _together(executor: Executor, attempts: Sequence[Attempt]) -> None:
    """Run an attempt, or all of a batch, on the event loop."""
    if executor.batches is None:
        await executor.run_async(attempts[0], call=_await)
    else:
        await asyncio.gather(*(executor.run_async(attempt, call=_await) for attempt in attempts))


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _letter(view: JobView) -> Any:
    return dead_letter_of(Lease(view.job, view.queue, view.attempt, view.delivery, view.since, token=None))


def _check_end(lease: Lease, claims: dict[bytes, int]) -> None:
    if claims[lease.job.uid] > MOST_CLAIMS:
        raise RuntimeError(
            f"job {lease.job.id} of {lease.queue!r} came back {MOST_CLAIMS:,} times: does it always snooze?"
        )
    if len(claims) > MOST_RUNS:
        raise RuntimeError(f"more than {MOST_RUNS:,} jobs: does {lease.queue!r} enqueue its own successor?")
