"""The context of a running job, the job as `around` gets it, checkpoints, and progress."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from framework.model.extras import MOST_SAVED
from framework.model.fan_in import HOWS, Ended

if TYPE_CHECKING:
    from framework.model.attempt import Attempt, Completing, Transaction
    from framework.model.job import Lease, Logger

MOST_TEXT = 100  # characters of the text beside a progress
_MOST = 1e300  # of its numbers


@dataclass(frozen=True, slots=True)
class Running:
    """A job that is about to run, as `around` gets it.

    Attributes:
        queue, job_id, attempt: as in `Context`.
        headers: the headers that the job was enqueued with, without the framework's own.
        payload: the value that the handler gets.
    """

    queue: str
    job_id: str
    attempt: int
    headers: Mapping[str, str]
    payload: Any


@dataclass(frozen=True, slots=True)
class Progress:
    """The last report of a running job. Raises ValueError, TypeError: a value is none of a progress.

    Attributes:
        done: in any unit, 0 or more.
        total: in the same unit, more than 0; None: unknown.
        text: up to 100 characters; what is longer is cut.
    """

    done: float
    total: float | None = None
    text: str = ""

    def __post_init__(self) -> None:
        _check_number("done", self.done, "0 or more", self.done == 0)
        if self.total is not None:
            _check_number("total", self.total, "more than 0", False)
        if not isinstance(self.text, str):
            raise TypeError(f"ctx.progress(text={self.text!r:.60}): must be text")
        object.__setattr__(self, "text", self.text[:MOST_TEXT])

    def __str__(self) -> str:
        """Return the report in words, for example `420 of 1,000 (42 %): resizing`."""
        far = f"{self.done:,.12g}"
        if self.total is not None:
            far += f" of {self.total:,.12g} ({self.done / self.total:.0%})".replace("%", " %")
        return f"{far}: {self.text}" if self.text else far


def _check_number(name: str, value: object, be: str, zero: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"ctx.progress({name}={value!r:.60}): must be a number")
    if not (zero or 0 < value < _MOST):
        raise ValueError(f"ctx.progress({name}={value!r:.60}): must be {be}, and finite")


class Host(Protocol):
    """The part of an executor that a context needs. Both methods may be called in any thread."""

    def save(self, lease: Lease, state: str, /) -> None:
        """Store a checkpoint durably, as `Engine.save` does."""

    def progress(self, attempt: Attempt, progress: Progress, /) -> None:
        """Show a progress to people."""


def encoded(state: Any) -> str:
    """Return a checkpoint as JSON. Raises ValueError: it is no JSON, would come back changed, or is too large."""
    try:
        text = json.dumps(state, allow_nan=False, separators=(",", ":"))
        same = json.loads(text) == state
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"ctx.save(): the state is no JSON: {str(error)[:200]}") from None
    if not same:
        raise ValueError(
            "ctx.save(): the next attempt would get another state: use lists instead of tuples, and text as keys"
        )
    if len(text) > MOST_SAVED:
        raise ValueError(
            f"ctx.save(): the state has {len(text):,} characters of JSON, and may have {MOST_SAVED:,}: store it "
            "elsewhere, and save where it is"
        )
    return text


async def in_thread(call: Callable[[], None]) -> None:
    """Make a call in a thread, and wait for its end also when cancelled: until then the job must not be settled."""
    work = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise


@dataclass(frozen=True)
class Context:
    """The facts about a job that its handler gets.

    Attributes:
        job_id, queue: as enqueued; on a dead-letter queue, `queue` is the dead-letter queue.
        attempt: number of this attempt, from 1, of `max_attempts`.
        enqueued_at: with time zone UTC.
        scheduled_for: the moment that a schedule planned; None if no schedule made the job.
        log: a logger bound to the job and its trace.
    """

    job_id: str
    queue: str
    attempt: int
    max_attempts: int
    enqueued_at: datetime
    scheduled_for: datetime | None
    log: Logger
    _deadline: float | None = field(default=None, repr=False)
    _stopping: Callable[[Lease | None], bool] = field(default=lambda lease: False, repr=False)
    _clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    _engine: Completing | None = field(default=None, repr=False)
    _attempt: Attempt | None = field(default=None, repr=False)
    _host: Host | None = field(default=None, repr=False)
    _saved: ClassVar[str | None] = None  # what this attempt has saved; set on the instance
    _ended: ClassVar[Ended | None] = None  # set on the instance by a test

    @property
    def remaining(self) -> float | None:
        """Return the seconds until the soft timeout, never below 0; None without a timeout."""
        return None if self._deadline is None else max(0.0, self._deadline - self._clock())

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers that the job was enqueued with, without the framework's own."""
        lease = self._lease
        return {} if lease is None else lease.job.own_headers

    @property
    def ended(self) -> Ended | None:
        """Return how the members of the fan-in have ended whose follow-up this job is; None: it follows none."""
        lease = self._lease
        if self._ended is not None:
            return self._ended
        counts = None if lease is None else lease.job.extras.ended
        return None if counts is None else Ended(**{name: one for name, one in counts.items() if name in HOWS})

    @property
    def should_stop(self) -> bool:
        """Return whether the worker is draining, or this job was cancelled: save what you have, and end soon.

        In a drain raise Snooze, or finish. A cancelled job never runs again, whatever you raise.
        """
        return self._stopping(self._lease)

    @property
    def saved(self) -> Any:
        """Return the state that this attempt has saved, or else the last that an earlier one has; None: there is none.

        The handler of a dead letter finds the one of its job.
        """
        text, lease = self._saved, self._lease
        if text is None and lease is not None:
            text = lease.job.extras.saved
        return None if text is None else json.loads(text)

    def save(self, state: Any) -> None:
        """Store a small state durably before this returns: if this attempt does not succeed, the next finds it in
        `saved`. In an async handler use `asave`.

        Args:
            state: what JSON has, up to 4,096 characters; it replaces the state before. None: there is none any more.

        Raises:
            ValueError: it is too large, or no JSON. EngineError: it may or may not be stored.
            JobInterrupted, LeaseLost: another worker has the job by now.
        """
        self._store(encoded(state))

    async def asave(self, state: Any) -> None:
        """Store a state as `save` does, without blocking the event loop."""
        text = encoded(state)
        await in_thread(lambda: self._store(text))

    def _store(self, text: str) -> None:
        lease = self._lease
        if lease is not None and lease.is_dead_letter:
            raise RuntimeError("ctx.save(): a dead letter keeps the state of its job for a replay: save it elsewhere")
        if self._host is not None and lease is not None:
            self._host.save(lease, text)
        object.__setattr__(self, "_saved", text)

    def progress(self, done: float, total: float | None = None, text: str = "") -> None:
        """Report how far the job is; `worker ps` and the web page show the last report while it runs.

        Args:
            done, total: in any unit; total None: unknown. text: up to 100 characters; what is longer is cut.

        Raises ValueError, TypeError: done is no number of 0 or more, total none above 0, or text no text.
        """
        report = Progress(done, total, text)
        if self._host is not None and self._attempt is not None:
            self._host.progress(self._attempt, report)

    def transaction(self) -> Transaction:
        """Return a block in which the job ends: `with` in a sync handler, `async with` in an async one.

        The block gets a connection of psycopg to the engine's database, in a transaction. What it does there, jobs that
        it enqueues with `connection=`, and the success of this job commit together at the end of the block, or none
        does. Use it as the last statement of the handler.

        Raises EngineError: the engine has no transactions.
        """
        return self._completing.transaction(self._known)

    def complete(self, connection: object) -> None:
        """End the job as a success within your own transaction: it ends once that commits, which you do next.

        Args:
            connection: as for `enqueue(connection=)`. Commit, and return from the handler.

        Raises:
            EngineError: the engine has no transactions, or not on such a connection.
            JobInterrupted: another worker has the job by now; roll back.
        """
        self._completing.complete(self._known, connection)

    async def acomplete(self, connection: object) -> None:
        """End the job as `complete` does, on an asynchronous connection or session."""
        await self._completing.acomplete(self._known, connection)

    @property
    def _completing(self) -> Completing:
        if self._engine is None:
            raise RuntimeError("this context belongs to no running job")
        return self._engine

    @property
    def _lease(self) -> Lease | None:
        return None if self._attempt is None else self._attempt.lease

    @property
    def _known(self) -> Lease:
        assert self._attempt is not None
        return self._attempt.lease
