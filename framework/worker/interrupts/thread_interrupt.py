"""Soft timeouts of handlers in threads: JobInterrupted is raised in a thread, but only where the handler's code runs.

The interpreter raises such an exception at the thread's next check for one: at the current instruction, or after the C
call that the thread waits for. So the stack is inspected as for SIGALRM, and inspection and order are one step. One
case remains: if that C call fails, its error is raised first, and the next check may be at the beginning of an
`__exit__`, which then does nothing. The traceback shows this, and the process leaves.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from math import inf
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Final

from framework.model.job import Lease
from framework.model.options import QueueOptions
from framework.model.outcome import JobInterrupted, Why
from framework.process.forks import leave_if_forked
from framework.worker.interrupts.awaited import handlers_frames, location_of
from framework.worker.interrupts.interrupt import LOOK_AGAIN, PATIENCE, RETRY, LateAlarm, invoke, where

_order = ctypes.pythonapi.PyThreadState_SetAsyncExc
_order.argtypes = (ctypes.c_ulong, ctypes.py_object)
# The same function with a null pointer takes back an order that has not been raised yet.
_take_back = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)

HUNG_AFTER = 1.0  # seconds after its soft timeout within which a job must end
_HURRY = 0.00001  # seconds for which a thread may keep the interpreter while another is to be interrupted


@dataclass(frozen=True, slots=True)
class Limits:
    """The time limits of a call, in seconds.

    Attributes:
        timeout: until the soft timeout; None: never.
        hung_after: from the soft timeout until the call counts as hung.
        hard: until the hard timeout of its job; infinite: never.
        patience: how long a late interruption waits for the supervisor to report that the tree stood still.
    """

    timeout: float | None = None
    hung_after: float = 1.0
    patience: float = PATIENCE
    hard: float = inf

    @classmethod
    def of(cls, options: QueueOptions) -> Limits:
        """Return the limits of a queue's jobs: all end before the hard timeout."""
        half = options.kill_after / 2
        hard = inf if options.timeout is None else options.timeout + options.kill_after
        return cls(options.timeout, min(HUNG_AFTER, half), min(PATIENCE, half), hard)


@dataclass(slots=True, eq=False)
class Call:
    """One call of a handler in a thread. Moments are in seconds of the tree's own time.

    Attributes:
        thread: the thread that runs it, by `threading.get_ident()`.
        lease: the lease of its job; lost: another worker owns it by now.
        began: when the handler was called; soft: its soft timeout; cancelled: when it is interrupted as cancelled.
        inside: the handler has not ended yet.
        why: the reason for its interruption, which happens at most once.
        raised: the exception, once it was raised.
        hung_at: when it counts as hung; set after its soft timeout.
        hung: it ran too long after its soft timeout, and `on_hung` was called.
    """

    limits: Limits
    late: LateAlarm
    thread: int = 0
    lease: Lease | None = None
    lost: bool = False
    began: float = 0.0
    soft: float = inf
    cancelled: float = inf
    inside: bool = False
    why: Why | None = None
    raised: JobInterrupted | None = None
    hung_at: float | None = None
    hung: bool = False


NO_LIMITS: Final = Limits()


@dataclass(eq=False)
class ThreadInterrupts:
    """The thread that watches the clock for all calls of handlers in other threads.

    Args:
        limits: for calls that are given none.
        now: returns the seconds of the tree's own time.
        drain_at: returns the moment on that clock at which running handlers are interrupted; None: not yet known.
        on_hung: takes a call that goes on after its soft timeout, with its current frame.
        on_astray: called when an interruption was raised where it may have prevented the release of a lock.
    """

    limits: Limits = NO_LIMITS
    _: KW_ONLY
    now: Callable[[], float] = time.monotonic
    drain_at: Callable[[], float | None] = lambda: None
    on_hung: Callable[[Call, FrameType | None], None] = lambda call, frame: None
    on_astray: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._calls: set[Call] = set()
        self._armed = inf
        self._ending: float | None = None
        self._interval: float | None = None  # the interpreter's switch interval to restore; None: it is unchanged
        # SimpleQueue.put may be called in a signal handler, which a Condition's lock may not.
        self._orders: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._watch, name="interrupts", daemon=True).start()

    def call(
        self, method: Callable[..., Any], *arguments: Any, limits: Limits | None = None, lease: Lease | None = None
    ) -> Any:
        """Call the handler in the calling thread; JobInterrupted is raised in it when that is due."""
        call = self._enter(limits or self.limits, lease)
        error: BaseException | None = None
        result: Any = None
        try:
            try:
                result = invoke(method, *arguments)
            except BaseException as raised:
                error = raised
            self._leave(call)
        except JobInterrupted:  # it came after the handler's end, whose result counts
            self._leave(call)
        self._check_location(call)
        try:
            if error is not None and call.why == "lease_lost":
                raise JobInterrupted(call.why) from error
            if error is not None:
                raise error
            return result
        finally:
            del error

    def look(self) -> None:
        """Check all calls at once, because the drain has begun. Safe in a signal handler."""
        self._orders.put("look")

    def lose(self, lease: Lease) -> None:
        """Interrupt the call for this lease, which another worker owns by now."""
        with self._lock:
            for call in self._calls:
                call.lost = call.lost or call.lease is lease
        self._orders.put("look")

    def cancel(self, lease: Lease, moment: float) -> None:
        """Interrupt the call for this lease at a moment of the tree's own time."""
        with self._lock:
            for call in self._calls:
                call.cancelled = moment if call.lease is lease else call.cancelled
        self._orders.put("look")

    def interrupt_all(self) -> None:
        """Interrupt whatever runs now, as at the end of a drain."""
        self._ending = self.now()
        self._orders.put("look")

    def close(self) -> None:
        """End the watch."""
        self._orders.put("close")

    # --- in the handler's thread ------------------------------------------------------------------------------------

    def _enter(self, limits: Limits, lease: Lease | None) -> Call:
        call = Call(limits, LateAlarm(limits.patience), threading.get_ident(), lease)
        call.began = self.now()
        call.soft = inf if limits.timeout is None else call.began + limits.timeout
        call.inside = True
        due = min(call.soft, self._drain())
        with self._lock:
            self._calls.add(call)
            sooner = due < self._armed
            if sooner:
                self._armed = due
        if sooner:
            self._orders.put("look")
        return call

    def _leave(self, call: Call) -> None:
        """Note that the handler has ended. After this no interruption comes, neither to this job nor to the next
        one."""
        leave_if_forked(self._pid)  # before the lock, which another thread may have held at the fork
        with self._lock:
            call.inside = False
            self._calls.discard(call)
            if call.why is not None and call.raised is None:
                _take_back(call.thread, None)

    def _check_location(self, call: Call) -> None:
        error, call.raised = call.raised, None
        trace = error.__traceback__ if error is not None else None
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        inside, open_ = where(trace.tb_frame if trace is not None else None)
        if inside and not open_:
            self.on_astray()

    # --- in the watching thread -------------------------------------------------------------------------------------

    def _watch(self) -> None:
        order = ""
        while order != "close":
            hung: list[Call] = []
            with self._lock:
                self._armed = min((self._look_at(call, hung) for call in self._calls), default=inf)
                wait = self._armed - self.now()
            self._hurry(wait <= RETRY)
            for call in hung:
                self.on_hung(call, sys._current_frames().get(call.thread))
            try:
                order = self._orders.get(timeout=None if wait == inf else min(max(0.0, wait), 3600.0))
            except Empty:
                order = ""
        self._hurry(False)

    def _hurry(self, wanted: bool) -> None:
        """Shorten or restore the interpreter's switch interval.

        While the handler's thread is at a wrong place, a short interval stops it at any place, not only where it gives
        up the interpreter by itself, which may be inside logging each time.
        """
        if wanted and self._interval is None:
            self._interval = sys.getswitchinterval()
            sys.setswitchinterval(min(self._interval, _HURRY))
        elif not wanted and self._interval is not None:
            sys.setswitchinterval(self._interval)
            self._interval = None

    def _look_at(self, call: Call, hung: list[Call]) -> float:
        """Interrupt a call if it is due, and find out whether it hangs; return when to check it again."""
        now, drain = self.now(), self._drain()
        limit = min(call.soft, call.cancelled)
        due = now if call.lost else min(limit, drain)
        if call.why is None and now < due:
            return due
        if call.why is None and call.late.may_be_standstill(now - max(due, call.began)):
            return now + LOOK_AGAIN
        if call.why is None:
            why: Why = "cancelled" if now >= call.cancelled else "timeout" if now >= call.soft else "draining"
            self._interrupt(call, "lease_lost" if call.lost else why)
        again = inf if call.why is not None else now + (LOOK_AGAIN if call.hung else RETRY)
        if call.hung:
            return again
        if now < limit:
            return min(again, limit)
        call.hung_at = now + call.limits.hung_after if call.hung_at is None else call.hung_at
        if now < call.hung_at:
            return min(again, call.hung_at)
        call.hung = True
        hung.append(call)
        return again

    def _drain(self) -> float:
        found = [moment for moment in (self._ending, self.drain_at()) if moment is not None]
        return min(found, default=inf)

    def _interrupt(self, call: Call, why: Why) -> None:
        frame = sys._current_frames().get(call.thread)
        inside, open_ = where(frame)
        if inside and open_ and frame is not None:
            error = _made(call, why, location_of(handlers_frames(frame)))
            if _raise_at(call.thread, frame, frame.f_lasti, error):
                call.why = why


def _raise_at(thread: int, frame: FrameType, instruction: int, error: type[JobInterrupted]) -> bool:
    """Order the exception if the thread still is where the inspection has found it.

    The interpreter switches threads only after a call, at a backward jump and at the beginning of a function, not
    between the step of an iterator and the next call. So nothing runs between this check and the order.
    """
    for frames in iter(sys._current_frames, None):
        return (
            thread in frames and frames[thread] is frame and frame.f_lasti == instruction and _order(thread, error) == 1
        )
    return False


def _made(call: Call, why: Why, location: str) -> type[JobInterrupted]:
    """Return the class to raise: the interpreter creates the exception itself, without arguments."""

    class Interruption(JobInterrupted):
        def __init__(self) -> None:
            super().__init__(why, location)
            call.raised = self

    Interruption.__name__ = Interruption.__qualname__ = JobInterrupted.__name__
    Interruption.__module__ = JobInterrupted.__module__
    return Interruption
