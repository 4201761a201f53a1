"""The jobs of a worker process that were cancelled while it had them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue

from framework.engine.answers import cancelled_of
from framework.engine.port import Engine
from framework.model.errors import answer
from framework.model.job import Lease

LOOK_EVERY = 1.0  # seconds between two questions about running jobs: so late a cancellation may be noticed
FRESH = 0.05  # seconds for which an answer is trusted where a job is about to start
GRACE = 5.0  # seconds at most from the moment when `ctx.should_stop` is true to the interruption of the handler


class Cancelled:
    """The running jobs that were cancelled, as far as the engine was asked.

    Attributes:
        local: the engine may be asked at any moment. Otherwise the gate asks, behind its question for lost leases.
        waiting: returns the leases that wait in this process for their start.
        on_cancelled: takes the lease of a running job, once. Called in the thread that asks.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.local = engine.features.local
        self._known: dict[int, Lease] = {}
        self._look_at = 0.0  # monotonic seconds of the next question in `before_start`
        self._unstarted: dict[int, Lease] = {}  # what the last one has found
        self.waiting: Callable[[], Iterable[Lease]] = lambda: ()
        self.on_cancelled: Callable[[Lease], object] = lambda lease: None

    def __contains__(self, lease: Lease) -> bool:
        """Return whether this job is known to be cancelled."""
        return id(lease) in self._known  # the lease itself is kept, so no other object has its id

    def look(self, running: Sequence[Lease]) -> None:
        """Ask about all jobs that run in this process; forget those that have ended."""
        if not running:
            return
        known = {id(lease): lease for lease in self._asked(running)}
        known |= {id(lease): lease for lease in running if id(lease) in self._known}
        new, self._known = [lease for number, lease in known.items() if number not in self._known], known
        for lease in new:
            self.on_cancelled(lease)

    def before_start(self, lease: Lease, now: float) -> bool:
        """Return whether a job was cancelled that is about to start. Only for a local engine.

        A job may have waited in this process, behind a long one. The question is asked at most once in FRESH seconds,
        about all that wait, because claims bring jobs for a few milliseconds.
        """
        if now >= self._look_at:
            self._look_at = now + FRESH
            self._unstarted = {id(one): one for one in self._asked([lease, *self.waiting()])}
        return id(lease) in self._unstarted

    def _asked(self, leases: Sequence[Lease]) -> list[Lease]:
        try:
            return cancelled_of(self._engine, leases)
        except Exception as error:  # other calls report that the engine fails
            answer(error)
            return []


class CancelWatch:
    """A thread that looks once a second while the main thread runs jobs. It sleeps while there are none.

    Args:
        running: returns the lease whose handler runs in the main thread.
        cancelled: is asked about it.
    """

    def __init__(self, running: Callable[[], Lease | None], cancelled: Cancelled) -> None:
        self._running = running
        self._cancelled = cancelled
        self._calls: SimpleQueue[bool] = SimpleQueue()  # True: look; False: end
        self.asleep = False
        threading.Thread(target=self._watch, name="cancelled", daemon=True).start()

    def wake(self) -> None:
        """Look from now on: a job begins."""
        self._calls.put(True)

    def close(self) -> None:
        """End the thread."""
        self._calls.put(False)

    def _watch(self) -> None:
        going_on = True
        while going_on:
            self.asleep = True
            if self._running() is None:  # after the flag: a job that begins from now on sees it
                going_on = self._calls.get()
            self.asleep = False
            try:
                going_on = going_on and self._calls.get(timeout=LOOK_EVERY)
            except Empty:
                if (lease := self._running()) is not None:
                    self._cancelled.look([lease])
