"""The hooks process: it calls the service's `on_failure` for lost attempts, and a hook may kill it.

It is started when such an attempt waits, and leaves after a while without one: an incident kills many workers within
seconds, and each start costs a constructor and an engine. No process waits for it. The supervisor kills it, and all
that the hook has started, when a hook takes too long.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from functools import cache

from framework.model.errors import WorkerError
from framework.model.events import ServiceMistake
from framework.model.text.exceptions import describe
from framework.process.forks import parent_goes_on
from framework.process.scoreboard import HOOKS, LEAVING, READY, Scoreboard
from framework.process.signals import ignore, poke
from framework.process.supervisor import CRASHED, FAILED_TO_START, ChildInfo, die_with_parent
from framework.runner.construct import construct
from framework.runner.context import TreeContext
from framework.runner.lost import LostAttempts
from framework.runner.member import Member
from framework.service.app import WorkerApp
from framework.worker import SelfCheck
from framework.worker.executor.hooks import PATIENCE

LINGER = 2.0  # seconds without a lost attempt after which the process leaves
GLANCE = 0.05  # seconds between looks for one
GRACE = 1.0  # seconds after a hook's time limit until its process is killed: an async hook is cancelled first


def tell(context: TreeContext, child: ChildInfo, board: Scoreboard) -> int:
    """Run the hooks process; return the exit code."""
    die_with_parent(signal.SIGKILL)  # a hook that hangs must not outlive its supervisor
    ignore(signal.SIGTERM, signal.SIGINT)  # the board says when to leave: no signal interrupts a hook
    if os.getppid() != child.supervisor:
        return 0
    _go_first()
    member, code = Member(context, child, board, HOOKS), FAILED_TO_START
    try:
        member.open_engine()
        app = construct(context.app)
        member.set_state(READY)
        poke(child.waker)
        code = CRASHED
        with parent_goes_on():
            _Teller(member, app).run()
        member.set_state(LEAVING)
        code = 0
    except BaseException as error:
        message, trace = describe(error, limit=8000)
        what = f"{child.name} cannot start" if code == FAILED_TO_START else f"{child.name} ends"
        text, trace = (message, "") if isinstance(error, WorkerError) else (f"{type(error).__name__}: {message}", trace)
        member.emit(ServiceMistake(child.name, f"{what}: {text}", trace))
    finally:
        member.wind_up(code)
    return code


class _Teller:
    """The loop of the hooks process: it calls one hook after another."""

    def __init__(self, member: Member, app: WorkerApp) -> None:
        assert member.context.lost is not None
        self._child = member.child
        self._board = member.board
        self._lost: LostAttempts = member.context.lost
        self._row = member.board.row_writer(member.child.index, 0)
        self._check = SelfCheck(member.held)  # finds what a hook has changed permanently
        handlers = member.context.app.worker_handlers
        self._executor_of = cache(lambda queue: member.executor(app, handlers[queue], self._told_to_leave))

    def run(self) -> None:
        """Run until nothing is left to tell, or until this process is not fit for the next hook."""
        idle_since = time.monotonic()
        while os.getppid() == self._child.supervisor:
            self._board.tick(self._child.index, time.monotonic_ns())
            if self._tell_next():
                idle_since = time.monotonic()
                if self._worn():
                    return
            elif self._told_to_leave() or time.monotonic() - idle_since > LINGER:
                return
            else:
                time.sleep(GLANCE)

    def _tell_next(self) -> bool:
        """Call the hook for the oldest lost attempt. Return whether there was one."""
        found = self._lost.take()
        if found is None:
            return False
        lease, failure = found
        now = time.monotonic_ns()
        self._row.start(lease.job.id, lease.delivery, now, 0, now + int((PATIENCE + GRACE) * 1e9), lease.queue)
        self._executor_of(lease.queue).report_loss(lease, failure)
        self._lost.close()
        self._row.clear()
        return True

    def _told_to_leave(self) -> bool:
        return self._board.told_to_leave(self._child.index)

    def _worn(self) -> bool:
        """Return whether a hook has left a hanging call, or has damaged what the next hook may need in this process."""
        late = any(thread.name == "on_failure" for thread in threading.enumerate())
        return late or bool(self._check.damage())


def _go_first() -> None:
    """Make the kernel choose this process, and what it starts, first when memory runs out. No other process depends on
    it."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
