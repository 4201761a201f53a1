"""Soft timeouts of sync handlers: SIGALRM raises JobInterrupted, but only where the handler's own code runs.

An exception that may be raised anywhere lands inside logging, between an acquire and its release, or at the end of a
span: in a trial, 18,632 unconfined timeouts left 674 logging locks held and 367 spans open, confined ones none.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable
from types import FrameType
from typing import Any

from framework.model.job import Lease
from framework.model.outcome import JobInterrupted, Why
from framework.process.forks import leave_if_forked
from framework.process.standstill import LATE

RETRY = 0.005  # seconds until another try if the handler's own code does not run now
PATIENCE = 0.7  # seconds within which a supervisor that stood still has turned
LOOK_AGAIN = 0.05  # seconds between looks whether it has reported a standstill
_CLOSED = ("framework", "opentelemetry", "structlog", "logging", "threading", "contextlib")
_DECORATED = "inner"  # contextlib's wrapper of a decorated function: it runs between entry and exit, not in them
_CLOSED_FUNCTIONS = ("__exit__", "__aexit__", "__del__")


def invoke(method: Callable[..., Any], *arguments: Any) -> Any:
    """Call the handler: the frames inside this call are the handler's."""
    return method(*arguments)


_BORDER = invoke.__code__


class LateAlarm:
    """The decision whether a soft timeout that comes seconds late must wait.

    Either the handler held the interpreter, or the whole tree stood still. The supervisor knows which, once it has
    turned.

    Args:
        patience: seconds to wait for the supervisor's report.

    Attributes:
        until: the moment at which the wait ends; None: no alarm was late.
    """

    __slots__ = ("patience", "until")

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.until: float | None = None

    def may_be_standstill(self, late: float) -> bool:
        """Return whether to wait for an alarm that is `late` by so many seconds."""
        if late > LATE and self.until is None:
            self.until = time.monotonic() + self.patience
        return self.until is not None and time.monotonic() < self.until


class Interrupts:
    """The interruptions of sync handlers: it arms SIGALRM around them. Use it in the main thread only.

    The timer keeps running when a handler ends, so that quick jobs share one instead of two system calls each. An alarm
    that finds nothing due arms the timer again, or leaves it off if no handler runs.

    Args:
        timeout: seconds until the soft timeout; None: never.
        must_leave: says whether the supervisor has told this process to leave while its own handler did not receive the
            signal.
        still_ns: returns the nanoseconds for which the tree has stood still; they do not count for a handler.
        patience: seconds that a late alarm waits for the supervisor to report that the tree stood still.

    Attributes:
        lease: the lease whose handler runs now or in the next call.
    """

    def __init__(
        self,
        timeout: float | None = None,
        *,
        must_leave: Callable[[], bool] = lambda: False,
        still_ns: Callable[[], int] = int,
        patience: float = PATIENCE,
    ) -> None:
        self._timeout = timeout
        self._still_ns = still_ns
        self._late = LateAlarm(patience)
        self._soft: float | None = None
        self._drain: float | None = None
        self.lease: Lease | None = None
        self._lost: Lease | None = None
        self.location_of: Callable[[FrameType | None], str] = lambda frame: ""  # says where a handler is interrupted
        self._losing = False  # its handler must still be interrupted for that
        self._cancel: tuple[Lease, float] | None = None  # whose handler is to be interrupted, and when
        self._calling = False
        self._must_leave = must_leave
        self._pid = os.getpid()
        self._armed = float("inf")  # when the timer will go off
        signal.signal(signal.SIGALRM, self._on_alarm)

    def limit(self, timeout: float | None, patience: float) -> None:
        """Set, for all later calls, the seconds until the soft timeout and the patience of a late alarm."""
        self._timeout, self._late.patience = timeout, patience

    def lose(self, lease: Lease) -> None:
        """Interrupt the handler that runs for this lease, which another worker owns by now. Safe in any thread."""
        if lease is self.lease and lease is not self._lost:  # once per job
            self._lost, self._losing = lease, True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def cancel(self, lease: Lease, seconds: float) -> None:
        """Interrupt the handler that runs for this lease after so many seconds. Safe in any thread."""
        if lease is self.lease:
            self._cancel = lease, self._now() + seconds
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)  # it sets the timer

    def call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call the handler; raise JobInterrupted in it at its soft timeout, and at the end of a drain."""
        timeout = self._timeout
        soft = self._soft = None if timeout is None else time.monotonic() - self._still_ns() / 1e9 + timeout
        self._late.until = None
        self._calling = True
        if self._losing or self._cancel or self._drain is not None or (soft is not None and soft < self._armed):
            self._arm()
        try:
            return invoke(method, *arguments)
        except (SystemExit, KeyboardInterrupt, CancelledError) as error:
            if self._must_leave():  # a signal handler of the job has turned our SIGTERM into this error
                raise JobInterrupted("draining") from error
            raise
        except Exception as error:
            if self._lost is not None and self._lost is self.lease and not self._losing:
                raise JobInterrupted("lease_lost") from error  # the lost lease is the cause of the failure
            raise
        finally:
            if os.getpid() != self._pid:
                leave_if_forked(self._pid)
            self._calling = False
            self._soft = self.lease = self._cancel = None

    def drain_at(self, moment: float | None) -> None:
        """Interrupt whatever runs at this monotonic second. Safe in a signal handler."""
        self._drain = None if moment is None else moment - self._still_ns() / 1e9
        self._arm()

    def keep_timer(self) -> None:
        """Set the timer again if a handler has stopped or moved it: the process has only one."""
        armed = self._armed
        if armed != float("inf"):
            late = armed - self._now()  # first: time that passes after this line shortens what the timer has left
            left = signal.getitimer(signal.ITIMER_REAL)[0]
            if not 0 < left < late + RETRY:
                self._ring_in(max(0.000001, late), armed)

    def _now(self) -> float:
        return time.monotonic() - self._still_ns() / 1e9

    def _arm(self) -> None:
        moments = (self._soft, self._drain, self._cancelled_at())
        due = min((moment for moment in moments if moment is not None), default=self._armed)
        if self._is_lost():
            due = 0.0
        if due < self._armed:
            now = self._now()
            self._ring_in(max(0.000001, due - now), max(due, now))

    def _is_lost(self) -> bool:
        return self._losing and self._lost is not None and self._lost is self.lease

    def _cancelled_at(self) -> float | None:
        return self._cancel[1] if self._cancel is not None and self._cancel[0] is self.lease else None

    def _ring_in(self, seconds: float, moment: float) -> None:
        self._armed = moment  # first: an alarm that comes before the next line must not be taken for the new one
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        now = self._now()
        late = now - self._armed
        self._armed = float("inf")
        why: Why
        if self._is_lost():
            why = "lease_lost"
        elif (cancelled := self._cancelled_at()) is not None and now >= cancelled:
            why = "cancelled"
        elif self._soft is not None and now >= self._soft:
            why = "timeout"
        elif self._drain is not None and now >= self._drain:
            why = "draining"
        else:
            self._arm()
            return
        inside, open_ = where(frame)
        if not inside and not self._calling:
            return  # no handler runs; `call` arms again when one does
        if self._late.may_be_standstill(late):
            self._ring_in(LOOK_AGAIN, now + LOOK_AGAIN)
            return
        if not (inside and open_):  # also before the handler's first frame: the alarm must not be lost
            self._ring_in(RETRY, now + RETRY)
            return
        # Each reason interrupts once per job: a handler may need time to clean up.
        if why == "lease_lost":
            self._losing = False
        elif why == "cancelled":
            self._cancel = None
        elif why == "timeout":
            self._soft = None
        else:
            self._drain = None
        self._arm()
        raise JobInterrupted(why, self.location_of(frame))


def where(frame: FrameType | None) -> tuple[bool, bool]:
    """Return (the stack has a frame of the handler, no frame above it is closed to interruption)."""
    open_ = True
    frames = 0
    while frame is not None and frame.f_code is not _BORDER:
        frames += 1
        module = str(frame.f_globals.get("__name__"))
        # What `framework.contrib` calls stands between a handler and its code, as code of the service does.
        module = "" if module.startswith("framework.contrib.") else module.partition(".")[0]
        name = frame.f_code.co_name
        if (module in _CLOSED and name != _DECORATED) or name in _CLOSED_FUNCTIONS:
            open_ = False
        frame = frame.f_back
    return frame is not None and frames > 0, open_
