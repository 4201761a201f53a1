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
from functools import cache, partial

from framework.engine.port import Engine
from framework.model.errors import WorkerError
from framework.model.events import Bus, ServiceMistake
from framework.model.exceptions import describe
from framework.process.forks import parent_goes_on
from framework.process.scoreboard import HOOKS, LEAVING, READY, Scoreboard
from framework.process.signals import ignore, poke
from framework.process.supervisor import CRASHED, FAILED_TO_START, Birth, die_with_parent, unblock
from framework.runner import connecting
from framework.runner.construct import construct
from framework.runner.entry_points import begin, executor_for, wind_up
from framework.runner.lost import LostAttempts
from framework.runner.place import Place, own_engine
from framework.service.app import WorkerApp
from framework.service.options import resolve
from framework.service.producer import Producer
from framework.telemetry import Telemetry
from framework.worker import SelfCheck, descriptors
from framework.worker.executor import Executor
from framework.worker.executor.hooks import PATIENCE

LINGER = 2.0  # seconds without a lost attempt after which the process leaves
GLANCE = 0.05  # seconds between looks for one
GRACE = 1.0  # seconds after a hook's time limit until its process is killed: an async hook is cancelled first


def tell(place: Place, birth: Birth, board: Scoreboard) -> int:
    """Run the hooks process; return the exit code."""
    die_with_parent(signal.SIGKILL)  # a hook that hangs must not outlive its supervisor
    ignore(signal.SIGTERM, signal.SIGINT)  # the board says when to leave: no signal interrupts a hook
    if os.getppid() != birth.supervisor:
        return 0
    _go_first()
    telemetry, bus = begin(place, birth, HOOKS)
    code = FAILED_TO_START
    engine: Producer | Engine | None = None
    try:
        before = descriptors()
        engine = own_engine(place, birth.incarnation)
        held = {fd: identity for fd, identity in descriptors().items() if fd not in before}
        settings = place.settings
        engine = Producer(engine, options=partial(resolve, settings=settings), sending=telemetry.sending)
        connecting.install(engine)
        unblock()
        app = construct(place.app)
        board.set_state(birth.index, READY, time.monotonic_ns())
        poke(birth.waker)
        code = CRASHED
        with parent_goes_on():
            _Teller(place, birth, board, app, telemetry, bus, SelfCheck(held)).run()
        board.set_state(birth.index, LEAVING, time.monotonic_ns())
        code = 0
    except BaseException as error:
        message, trace = describe(error, limit=8000)
        what = f"{birth.name} cannot start" if code == FAILED_TO_START else f"{birth.name} ends"
        text, trace = (message, "") if isinstance(error, WorkerError) else (f"{type(error).__name__}: {message}", trace)
        bus.emit(ServiceMistake(birth.name, f"{what}: {text}", trace))
    finally:
        wind_up(place, birth, board, telemetry, engine, code)
    return code


class _Teller:
    """The loop of the hooks process: it calls one hook after another.

    Args:
        check: finds what a hook has changed permanently.
    """

    def __init__(
        self,
        place: Place,
        birth: Birth,
        board: Scoreboard,
        app: WorkerApp,
        telemetry: Telemetry,
        bus: Bus,
        check: SelfCheck,
    ) -> None:
        assert place.lost is not None
        self._birth = birth
        self._board = board
        self._lost: LostAttempts = place.lost
        self._row = board.row_writer(birth.index, 0)
        self._check = check
        handlers = place.app.worker_handlers

        @cache
        def executor_of(queue: str) -> Executor:
            return executor_for(place, board, app, handlers[queue], telemetry, bus, stopping=self._told_to_leave)

        self._executor_of = executor_of

    def run(self) -> None:
        """Run until nothing is left to tell, or until this process is not fit for the next hook."""
        idle_since = time.monotonic()
        while os.getppid() == self._birth.supervisor:
            self._board.tick(self._birth.index, time.monotonic_ns())
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
        return self._board.told_to_leave(self._birth.index)

    def _worn(self) -> bool:
        """Return whether a hook has left a hanging call, or has damaged what the next hook may need in this process."""
        late = any(thread.name == "on_failure" for thread in threading.enumerate())
        return late or bool(self._check.damage())


def _go_first() -> None:
    """Make the kernel choose this process, and what it starts, first when memory runs out. No other process depends on
    it."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
