"""The thread that makes all calls to an engine, one after the other. A waiting claim makes room for other calls."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

_Call = tuple[Future[Any] | None, Callable[..., Any], tuple[Any, ...]]


class EngineThread:
    """The thread that calls an engine; it starts with the first call.

    Args:
        wake: ends a claim that waits.
        on_due: called in the thread at the moment that `by` has set.

    Attributes:
        error: what a call made by `tell` raised; `check` or the next call made by `call` raises it.
    """

    def __init__(self, wake: Callable[[], None], on_due: Callable[[], None]) -> None:
        self._wake = wake
        self._on_due = on_due
        self._calls: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._due = math.inf  # monotonic seconds
        self._working = self._waiting = self._closed = False
        self._thread: threading.Thread | None = None
        self.error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Return whether a call is in progress or queued."""
        with self._changed:
            return self._working or bool(self._calls)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Queue a call; return a future with its result."""
        future: Future[Any] = Future()
        self._put((future, function, arguments))
        return future

    def tell(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Queue a call whose result is not needed."""
        self._put((None, function, arguments))

    def check(self) -> None:
        """Raise what a call made by `tell` has raised."""
        raised, self.error = self.error, None
        if raised is not None:
            raise raised

    def by(self, moment: float) -> None:
        """Have `on_due` called at this moment (monotonic seconds), or earlier."""
        with self._changed:
            self._due = min(self._due, moment)
            self._begin()
            self._changed.notify()

    def step_aside(self) -> None:
        """End a waiting claim, because there is something else to do."""
        if self._waiting:
            self._wake()

    def waiting(self, call: Callable[[float], Any], seconds: float) -> Any:
        """Make a claim that may wait up to `seconds`, in the thread. It does not wait if another call is queued, and no
        longer than until one is due."""
        self._waiting = True  # first: a call that arrives after this line ends the wait
        try:
            return call(0.0 if self._calls else max(0.0, min(seconds, self._due - time.monotonic())))
        finally:
            self._waiting = False

    def pause(self, seconds: float) -> None:
        """Sleep in the thread for `seconds`, or until another call is queued."""
        end = time.monotonic() + seconds
        with self._changed:
            while not self._calls and (left := min(end, self._due) - time.monotonic()) > 0:
                self._changed.wait(left)

    def close(self, within: float) -> None:
        """Make the queued calls, then end the thread. Idempotent."""
        with self._changed:
            self._closed = True
            self._due = min(self._due, time.monotonic())
            self._changed.notify()
        self.step_aside()
        if self._thread is not None:
            self._thread.join(within)

    def _put(self, call: _Call) -> None:
        with self._changed:
            self._calls.append(call)
            self._begin()
            self._changed.notify()
        self.step_aside()

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            future, function, arguments = call
            try:
                if future is not None:
                    self.check()
                result = function(*arguments)
            except BaseException as error:
                if future is None:
                    self.error = error
                else:
                    future.set_exception(error)
            else:
                if future is not None:
                    future.set_result(result)
            del call, future, arguments

    def _next(self) -> _Call | None:
        """Wait for the next call; None: the thread ends."""
        with self._changed:
            self._working = False
            while True:
                if not self._calls and self._due <= time.monotonic():  # calls first: a later flush settles more
                    self._due, self._working = math.inf, True
                    return None, self._on_due, ()
                if self._calls:
                    self._working = True
                    return self._calls.popleft()
                if self._closed:
                    return None
                self._changed.wait(None if self._due == math.inf else self._due - time.monotonic())
