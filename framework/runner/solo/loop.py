"""`worker run --solo`: the whole service in one process without forks, for a debugger and `breakpoint()`.

Jobs run one at a time in the main thread, with the same engine, ledger and telemetry as elsewhere. There are no
timeouts: a handler that waits at a breakpoint must not be interrupted. If the process dies, the next start on the same
store rescues its job.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

from framework.maintenance import Burst, Maintenance
from framework.model.errors import WorkerError
from framework.model.events import Event, SupervisorNote
from framework.model.job import Lease
from framework.model.options import PoolOptions
from framework.model.outcome import JobInterrupted
from framework.model.text.exceptions import describe
from framework.process.scoreboard import LEAVING, MAINTENANCE, READY, Scoreboard, process_start
from framework.process.supervisor import ChildInfo
from framework.runner.construct import construct
from framework.runner.context import TreeContext, own_engine, own_ledger
from framework.runner.entry_points import maintenance_of
from framework.runner.member import Member
from framework.runner.solo.resident import Resident
from framework.service.plans import Plan
from framework.worker import LeaveSignal, WorkerCore
from framework.worker.executor import Executor

WAIT = 0.25  # seconds that a claim, or the event loop of async services, waits between two turns of maintenance
SLOT = 1  # the first worker's slot on the board
RETRY = 0.1  # seconds between tries to settle what is left at the end


class Solo:
    """The only process of a service: it runs jobs one after another, and does the housekeeping between them."""

    def __init__(self, context: TreeContext, board: Scoreboard, plans: Sequence[Plan], say: Callable[[Event], None]):
        self._context, self._board, self._plans, self._say = context, board, plans, say
        context.rings, context.lost = None, None
        self._child, self._housekeeper = self._info("solo", SLOT), self._info(MAINTENANCE, 0)
        self._leave = LeaveSignal(context.settings.drain_seconds, lambda: 0)
        self._loops: dict[str, Resident] = {}
        self._inside = False
        self._task: asyncio.Task[Any] | None = None  # that of an async handler
        self._cancelled = False
        self._turn_at = 0.0
        self._maintenance: Maintenance

    def run(self) -> int:
        """Run until a signal, or the end of a burst; return the exit code."""
        with ExitStack() as opened:
            member = Member(self._context, self._child, self._board, "worker")
            opened.callback(member.say_goodbye, 0.0)
            faulthandler.register(signal.SIGUSR1, chain=True)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
            try:
                self._serve(member, opened)
            except WorkerError:
                raise
            except Exception as error:
                text, trace = describe(error)
                self._say(SupervisorNote(f"the service fails: {type(error).__name__}: {text}\n{trace}", "error"))
                return 1
        return 0

    def _serve(self, member: Member, opened: ExitStack) -> None:
        context, leave = self._context, self._leave
        engine = member.open_engine()
        assert member.producer is not None
        opened.callback(member.producer.close)  # and the engine
        member.ledger = ledger = own_ledger(context, self._child.incarnation, 1, member.telemetry.about())
        opened.callback(ledger.close)
        self._maintenance = self._housekeeping(member, opened)
        executors = self._executors(member, opened)
        core = WorkerCore(
            "solo", SLOT, board=self._board, engine=engine, executors=executors, options=PoolOptions("solo"),
            emit=member.emit, leave=leave, ledger=ledger, held=member.held,
        )  # fmt: skip
        opened.callback(core.gate.close)
        core.ready()
        self._say(SupervisorNote("solo: one process, one job at a time, no timeouts; Ctrl-C ends it"))
        while not leave:
            self._turn()
            core.tick()
            core.gate.flush()
            core.settle_late()
            for lease in self._claim(core):
                if leave:
                    core.gate.give_back([lease])
                else:
                    self._run(core, lease)
        self._board.set_state(SLOT, LEAVING, time.monotonic_ns())
        core.gate.flush()
        while not (core.settle_late() or core.leave_behind()):
            self._turn()
            time.sleep(RETRY)

    def _executors(self, member: Member, opened: ExitStack) -> list[Executor]:
        """Return the executors of all queues. Each pool, and each queue without one, has its own instance of the app
        with its lifespans open, as in a worker process."""
        found: list[Executor] = []
        for crew in {id(crew): crew for _, crew, _ in self._context.workers}.values():
            app, slot = construct(self._context.app), crew.slot(0)
            opened.enter_context(app.lifespan(slot))
            handlers = crew.handlers(self._context.app)
            if handlers[0].is_async:
                loop = Resident(app.alifespan(slot))
                opened.enter_context(loop)
                self._loops |= {handler.queue.name: loop for handler in handlers}
            found += [member.executor(app, handler, partial(bool, self._leave)) for handler in handlers]
        for batches in filter(None, (executor.batches for executor in found)):
            batches.expected = 1  # one job at a time: no other comes
        return found

    def _housekeeping(self, member: Member, opened: ExitStack) -> Maintenance:
        context, board = self._context, self._board
        engine = own_engine(context, self._housekeeper.incarnation)
        opened.callback(engine.close)
        board.set_state(self._housekeeper.index, READY, time.monotonic_ns())
        warn = lambda text: self._say(SupervisorNote(text, "warning"))  # noqa: E731
        maintenance = maintenance_of(member, engine, self._plans, warn, index=0)
        opened.callback(maintenance.stop)
        if context.burst:
            say = lambda text: self._say(SupervisorNote(text))  # noqa: E731
            end = partial(self._leave.leave, "burst")
            maintenance.burst = Burst(engine, context.served, board, say=say, end=end)
        return maintenance

    def _turn(self) -> None:
        if time.monotonic() >= self._turn_at:
            self._turn_at = time.monotonic() + self._maintenance.turn()

    def _claim(self, core: WorkerCore) -> Sequence[Lease]:
        wait = 0.0 if self._loops else min(WAIT, max(0.0, self._turn_at - time.monotonic()))
        leases = core.gate.claim(1, wait)
        for loop in {id(loop): loop for loop in self._loops.values()}.values() if not leases else ():
            loop.turn(WAIT / len(self._loops))  # for tasks that the service has started on it
        return leases

    def _run(self, core: WorkerCore, lease: Lease) -> None:
        executor = core.executors[lease.queue]
        attempt = executor.attempt(lease)
        if not core.begin(attempt, 0):
            return
        loop = self._loops.get(lease.queue)
        if loop is None:
            executor.run(attempt, call=self._call)
        else:
            loop.run(executor.run_async(attempt, call=self._acall))
        attempt.forget()
        core.finish(attempt, 0)

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        self._inside = True
        try:
            return method(*arguments)
        finally:
            self._inside = False

    async def _acall(self, awaitable: Awaitable[Any]) -> Any:
        self._task, self._cancelled = asyncio.current_task(), False
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._task is None or not self._cancelled:
                raise
            while self._task.cancelling():
                self._task.uncancel()
            raise JobInterrupted("draining") from None
        finally:
            self._task = None

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if task is self._task:  # it has not ended meanwhile
            self._cancelled = True
            task.cancel()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Leave after the running job; a second signal interrupts that job, which goes back uncharged."""
        if self._leave.leave("drain"):
            self._say(SupervisorNote(f"{signal.Signals(number).name}: leaving after the running job"))
        elif self._task is not None and asyncio.current_task(loop := self._task.get_loop()) is not self._task:
            loop.call_soon_threadsafe(self._cancel, self._task)  # it awaits: an exception would end the loop
        elif self._inside or self._task is not None:
            raise JobInterrupted("draining")

    def _info(self, name: str, index: int) -> ChildInfo:
        incarnation = f"{index:x}-{secrets.token_hex(8)}"
        self._board.occupy(index, incarnation)
        self._board.set_pid(index, os.getpid(), process_start(os.getpid()))
        return ChildInfo(name, index, incarnation, os.getppid(), -1, -1, 0)


def without_timeouts(context: TreeContext) -> None:
    """Remove the soft timeouts of all queues: nothing enforces them in one process."""
    for name, options in context.options.items():
        context.options[name] = replace(options, timeout=None)
