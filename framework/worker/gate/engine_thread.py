"""One thread that makes all calls of an engine, one after the other. A claim that waits steps aside for the others."""

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
    """Begins with the first call.

    Args:
        wake: ends a claim that waits.
        on_due: is called in the thread at the moment that `by` has set.

    Attributes:
        error: what a call raised for which nothing waited; the next call for which something waits raises it.
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
        """Return whether a call is under way or waits for its turn."""
        with self._changed:
            return self._working or bool(self._calls)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Make a call in its turn; return its result to come."""
        future: Future[Any] = Future()
        self._put((future, function, arguments))
        return future

    def tell(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Make a call in its turn, for whose result nothing waits."""
        self._put((None, function, arguments))

    def check(self) -> None:
        """Raise what a call raised for which nothing waited."""
        raised, self.error = self.error, None
        if raised is not None:
            raise raised

    def by(self, moment: float) -> None:
        """Have `on_due` called at this moment (monotonic seconds), or before."""
        with self._changed:
            self._due = min(self._due, moment)
            self._begin()
            self._changed.notify()

    def step_aside(self) -> None:
        """End a claim that waits: there is something else to do."""
        if self._waiting:
            self._wake()

    def waiting(self, call: Callable[[float], Any], seconds: float) -> Any:
        """In the thread: make a call that may wait so long, and not at all where another call has come by now."""
        self._waiting = True  # first: who comes from here on wakes
        try:
            return call(0.0 if self._calls or self._due <= time.monotonic() else seconds)
        finally:
            self._waiting = False

    def pause(self, seconds: float) -> None:
        """In the thread: sleep, but not longer than until another call comes."""
        end = time.monotonic() + seconds
        with self._changed:
            while not self._calls and (left := min(end, self._due) - time.monotonic()) > 0:
                self._changed.wait(left)

    def close(self, within: float) -> None:
        """Make the calls that wait for their turn, then end. Idempotent."""
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
        """Wait for what is to be done next; None: the end."""
        with self._changed:
            self._working = False
            while True:
                if not self._calls and self._due <= time.monotonic():  # what is flushed later is flushed with more
                    self._due, self._working = math.inf, True
                    return None, self._on_due, ()
                if self._calls:
                    self._working = True
                    return self._calls.popleft()
                if self._closed:
                    return None
                self._changed.wait(None if self._due == math.inf else self._due - time.monotonic())
