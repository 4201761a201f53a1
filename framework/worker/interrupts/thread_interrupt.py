"""Soft timeouts of handlers in threads: JobInterrupted is raised in a thread, but only where the handler's code runs.

The interpreter raises such an exception where the thread looks for one next: at the instruction where it stands, or
after the call into C that it waits for. So the stack is looked at as for SIGALRM, and the look and the order are one
step. One way out is left: where that call into C fails, its error travels first, and the next look may be at the
beginning of an `__exit__`, which then does nothing. That shows in the traceback, and the process leaves.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Final

from framework.model.job import Lease
from framework.model.options import QueueOptions
from framework.model.outcome import JobInterrupted, Why
from framework.process.forks import leave_if_forked
from framework.worker.interrupts.interrupt import LOOK_AGAIN, PATIENCE, RETRY, LateAlarm, invoke, where

_order = ctypes.pythonapi.PyThreadState_SetAsyncExc
_order.argtypes = (ctypes.c_ulong, ctypes.py_object)
# The same function with a null pointer: what was ordered and has not been raised is taken back.
_take_back = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)

HUNG_AFTER = 1.0  # seconds after its soft timeout in which a job must end
_HURRY = 0.00001  # seconds for which a thread may keep the interpreter while another is to be interrupted


@dataclass(frozen=True, slots=True)
class Limits:
    """What a call may take, in seconds.

    Attributes:
        timeout: until the soft timeout; None = never.
        hung_after: from the soft timeout until the call counts as hung.
        hard: until the hard timeout of its job; infinite: never.
        patience: for which a late look waits for the supervisor to say that the tree stood still.
    """

    timeout: float | None = None
    hung_after: float = 1.0
    patience: float = PATIENCE
    hard: float = inf

    @classmethod
    def of(cls, options: QueueOptions) -> Limits:
        """Return those of a queue's jobs: all is over before its hard timeout."""
        half = options.kill_after / 2
        hard = inf if options.timeout is None else options.timeout + options.kill_after
        return cls(options.timeout, min(HUNG_AFTER, half), min(PATIENCE, half), hard)


@dataclass(slots=True, eq=False)
class Call:
    """The call of a handler in a thread. Moments are in seconds of the tree's own time.

    Attributes:
        thread: that runs it, its `threading.get_ident()`.
        lease: of its job; lost: it has become another worker's.
        began: when the handler was called; soft: its soft timeout.
        inside: the handler has not ended.
        why: the reason for which it was interrupted; it is once at most.
        raised: the interruption, once it was raised.
        hung_at: when it counts as hung; from its soft timeout on.
        hung: it has gone on too long after its soft timeout, and `on_hung` was told.
    """

    limits: Limits
    late: LateAlarm
    thread: int = 0
    lease: Lease | None = None
    lost: bool = False
    began: float = 0.0
    soft: float = inf
    inside: bool = False
    why: Why | None = None
    raised: JobInterrupted | None = None
    hung_at: float | None = None
    hung: bool = False


NO_LIMITS: Final = Limits()


class ThreadInterrupts:
    """A thread that watches the clock for all calls of handlers in other threads.

    Args:
        limits: of calls for which no others are given.
        now: seconds of the tree's own time.
        drain_at: the moment on that clock at which whatever runs is interrupted; None = not yet known.
        on_hung: takes a call that goes on after its soft timeout, with its frame.
        on_astray: called when an interruption was raised where it may have kept a lock from its release.
    """

    def __init__(
        self,
        limits: Limits = NO_LIMITS,
        *,
        now: Callable[[], float] = time.monotonic,
        drain_at: Callable[[], float | None] = lambda: None,
        on_hung: Callable[[Call, FrameType | None], None] = lambda call, frame: None,
        on_astray: Callable[[], object] = lambda: None,
    ) -> None:
        self._limits = limits
        self._now = now
        self._drain_at = drain_at
        self._on_hung = on_hung
        self._on_astray = on_astray
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._calls: set[Call] = set()
        self._armed = inf
        self._ending: float | None = None
        # SimpleQueue.put may be called in a signal handler, which a Condition's lock may not.
        self._interval: float | None = None  # that of the interpreter, as long as it is another
        self._orders: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._watch, name="interrupts", daemon=True).start()

    def call(
        self, method: Callable[..., Any], *arguments: Any, limits: Limits | None = None, lease: Lease | None = None
    ) -> Any:
        """Call the handler, in its own thread; JobInterrupted is raised in it when it is due."""
        call = self._enter(limits or self._limits, lease)
        error: BaseException | None = None
        result: Any = None
        try:
            try:
                result = invoke(method, *arguments)
            except BaseException as raised:
                error = raised
            self._leave(call)
        except JobInterrupted:  # it came after the handler's end, which stands
            self._leave(call)
        self._check_place(call)
        try:
            if error is not None and call.why == "lease_lost":
                raise JobInterrupted(call.why) from error
            if error is not None:
                raise error
            return result
        finally:
            del error

    def look(self) -> None:
        """Look at once: the drain has begun. Safe in a signal handler."""
        self._orders.put("look")

    def lose(self, lease: Lease) -> None:
        """Interrupt the call for this lease, which has become another worker's."""
        with self._lock:
            for call in self._calls:
                call.lost = call.lost or call.lease is lease
        self._orders.put("look")

    def interrupt_all(self) -> None:
        """Interrupt whatever runs now, as at the end of a drain."""
        self._ending = self._now()
        self._orders.put("look")

    def close(self) -> None:
        """End the watch."""
        self._orders.put("close")

    # --- in the handler's thread ------------------------------------------------------------------------------------

    def _enter(self, limits: Limits, lease: Lease | None) -> Call:
        call = Call(limits, LateAlarm(limits.patience), threading.get_ident(), lease)
        call.began = self._now()
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
        """The handler has ended: no interruption comes any more, neither to this job nor to the next one."""
        leave_if_forked(self._pid)  # before the lock, which another thread may have held at the fork
        with self._lock:
            call.inside = False
            self._calls.discard(call)
            if call.why is not None and call.raised is None:
                _take_back(call.thread, None)

    def _check_place(self, call: Call) -> None:
        error, call.raised = call.raised, None
        trace = error.__traceback__ if error is not None else None
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        inside, open_ = where(trace.tb_frame if trace is not None else None)
        if inside and not open_:
            self._on_astray()

    # --- in the watching thread -------------------------------------------------------------------------------------

    def _watch(self) -> None:
        order = ""
        while order != "close":
            hung: list[Call] = []
            with self._lock:
                self._armed = min((self._look_at(call, hung) for call in self._calls), default=inf)
                wait = self._armed - self._now()
            self._hurry(wait <= RETRY)
            for call in hung:
                self._on_hung(call, sys._current_frames().get(call.thread))
            try:
                order = self._orders.get(timeout=None if wait == inf else min(max(0.0, wait), 3600.0))
            except Empty:
                order = ""
        self._hurry(False)

    def _hurry(self, wanted: bool) -> None:
        """While the place is wrong, get the interpreter wherever the handler stands, not only where it gives it away by
        itself: that may be inside logging each time."""
        if wanted and self._interval is None:
            self._interval = sys.getswitchinterval()
            sys.setswitchinterval(min(self._interval, _HURRY))
        elif not wanted and self._interval is not None:
            sys.setswitchinterval(self._interval)
            self._interval = None

    def _look_at(self, call: Call, hung: list[Call]) -> float:
        """Interrupt a call if it is due, and find out whether it hangs; return the moment of the next look at it."""
        now, drain = self._now(), self._drain()
        due = now if call.lost else min(call.soft, drain)
        if call.why is None and now < due:
            return due
        if call.why is None and call.late.may_be_standstill(now - max(due, call.began)):
            return now + LOOK_AGAIN
        if call.why is None:
            self._interrupt(call, "lease_lost" if call.lost else "timeout" if now >= call.soft else "draining")
        again = inf if call.why is not None else now + (LOOK_AGAIN if call.hung else RETRY)
        if call.hung:
            return again
        if now < call.soft:
            return min(again, call.soft)
        call.hung_at = now + call.limits.hung_after if call.hung_at is None else call.hung_at
        if now < call.hung_at:
            return min(again, call.hung_at)
        call.hung = True
        hung.append(call)
        return again

    def _drain(self) -> float:
        found = [moment for moment in (self._ending, self._drain_at()) if moment is not None]
        return min(found, default=inf)

    def _interrupt(self, call: Call, why: Why) -> None:
        frame = sys._current_frames().get(call.thread)
        inside, open_ = where(frame)
        if inside and open_ and frame is not None and _raise_at(call.thread, frame, frame.f_lasti, _made(call, why)):
            call.why = why


def _raise_at(thread: int, frame: FrameType, instruction: int, error: type[JobInterrupted]) -> bool:
    """Order the exception if the thread still stands where the look has found it.

    The threads may change only after a call, at a jump back and at the beginning of a function: not between the step of
    an iterator and the next call. So nothing runs between this look and the order.
    """
    for frames in iter(sys._current_frames, None):
        return (
            thread in frames and frames[thread] is frame and frame.f_lasti == instruction and _order(thread, error) == 1
        )
    return False


def _made(call: Call, why: Why) -> type[JobInterrupted]:
    """Return the class to raise: the interpreter makes the exception, without arguments."""

    class Interruption(JobInterrupted):
        def __init__(self) -> None:
            super().__init__(why)
            call.raised = self

    Interruption.__name__ = Interruption.__qualname__ = JobInterrupted.__name__
    Interruption.__module__ = JobInterrupted.__module__
    return Interruption
