"""The entry points of a supervisor's children, each from its start to its exit code, and how each child is started.

A child is forked or, where that is not safe, a fresh interpreter (see `spawned`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from framework.engine.ledger import DeadLedgers
from framework.engine.port import Engine, Rescued
from framework.maintenance import AbandonedLeases, Burst, Declaring, HealthServer, Maintenance, OtherTrees
from framework.maintenance.probes import probes, processes, restarts
from framework.model.errors import EngineError, WorkerError
from framework.model.events import Event, ServiceMistake, SupervisorNote, WorkerReady
from framework.model.outcome import Outcome
from framework.model.text.exceptions import describe
from framework.process.forks import parent_goes_on
from framework.process.scoreboard import EXPORTER, HOOKS, MAINTENANCE, Scoreboard
from framework.process.signals import poke
from framework.process.supervisor import (
    CRASHED,
    FAILED_TO_CLOSE,
    FAILED_TO_START,
    LAST_GRACE,
    REFUSED,
    ChildInfo,
    ChildSpec,
    unblock,
)
from framework.runner import hooks
from framework.runner.code import declared
from framework.runner.construct import construct
from framework.runner.context import Crew, TreeContext, own_engine, own_ledger
from framework.runner.member import Member
from framework.service.plans import Plan, plans_of
from framework.worker import AsyncWorker, LeaveSignal, SyncWorker, ThreadWorker, WorkerCore
from framework.worker.executor.elsewhere import identified


def specs(
    context: TreeContext, board: Scoreboard, code: int = -1, say: Callable[[Event], None] = lambda event: None
) -> list[ChildSpec]:
    """Return the specifications of all children, in the order of their indexes on the board.

    Args:
        code: descriptor of the supervisor's `LoadedCode`, for fresh interpreters.
        say: takes the supervisor's events about its children.
    """
    argv = partial(_argv, context, board, code)
    # Here, because the payloads are encoded by code of the service, which a forked maintenance process must not run.
    plans = plans_of(context.app.worker_queues.values(), context.options)
    run = partial(maintain, context, board=board, plans=plans)
    found = [ChildSpec(MAINTENANCE, 0, run, last=True, argv=argv)]
    for slot, crew, number in context.workers:
        run = partial(work, context, board=board, crew=crew, number=number)
        found.append(ChildSpec(slot, len(found), run, argv=argv))
    if (lost := context.lost) is not None:
        run = partial(hooks.tell, context, board=board)
        found.append(
            ChildSpec(
                HOOKS, len(found), run, last=True, vital=False, argv=argv,
                wanted=lost.wait, ended=partial(lost.say_abandoned, say),
            )
        )  # fmt: skip
    if context.rings is not None:
        run = partial(export, context, board=board)
        found.append(ChildSpec(EXPORTER, len(found), run, last=True, vital=False, argv=argv))
    return found


def _argv(context: TreeContext, board: Scoreboard, code: int, child: ChildInfo) -> list[str]:
    """Return the command of a fresh interpreter that runs the same child.

    It has the flags of this interpreter, and loads nothing from the working directory before the framework is imported.
    """
    instance, rings = context.instance, context.rings
    given: dict[str, Any] = {
        "app": context.app.__name__,
        "target": context.target,
        "declares": declared(context.app),
        "code": code,
        "queues": context.served,
        "system": context.system,
        "instance": (instance.number, instance.descriptor, str(instance.board_path)),
        "board": board.descriptor,
        "stacks": context.stacks,
        "dead": [context.pages.descriptor, context.boxes.descriptor] if context.pages and context.boxes else [],
        "burst": context.burst,
        "lost": [context.lost.descriptor] if context.lost is not None else [],
        "rings": rings and (rings.run, rings.number, rings.mark, rings.slots),
        "child": {name: getattr(child, name) for name in ChildInfo.__slots__},
    }
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-P", "-m", "framework.runner.spawned", json.dumps(given)]


def work(context: TreeContext, child: ChildInfo, board: Scoreboard, crew: Crew, number: int) -> int:
    """Run the worker with this number of a crew; return the exit code."""
    member = Member(context, child, board, "worker")
    progress, code = _Progress(member), FAILED_TO_START
    leave = LeaveSignal(context.settings.drain_seconds, lambda: board.deadline, lambda: board.stood_still)
    try:
        member.ledger = ledger = own_ledger(
            context, child.incarnation, crew.options.concurrency, member.telemetry.about()
        )
        engine = member.open_engine()
        app, handlers = construct(context.app), crew.handlers(context.app)
        executors = [member.executor(app, handler, partial(bool, leave)) for handler in handlers]
        progress.core = core = WorkerCore(
            child.name, child.index, board=board, engine=engine, executors=executors, options=crew.options,
            emit=member.emit, leave=leave, ledger=ledger, held=member.held, notes=member.notes,
            blocked_after=context.settings.loop_blocked_after,
        )  # fmt: skip
        core.on_ready = progress.announce
        for queue in crew.queues:
            member.telemetry.observe_slots(partial(core.slots, queue.name), queue.name)
        loop = AsyncWorker if handlers[0].is_async else ThreadWorker if core.options.concurrency > 1 else SyncWorker
        with parent_goes_on():
            loop(core, app, crew.slot(number), unblock=unblock).run()
        code = 0
    except BaseException as error:  # also sys.exit() in a lifespan: it is reported, and the exit code is never 0
        code = progress.failed(error)
    finally:
        member.wind_up(code)
    return code


class _Progress:
    """The progress of a worker's start, which decides how its end is reported."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._ready = False
        self.core: WorkerCore | None = None

    def announce(self) -> None:
        """Announce that the worker takes jobs."""
        self._ready = True
        self._member.emit(WorkerReady(self._member.child.name, os.getpid()))
        poke(self._member.child.waker)

    def failed(self, error: BaseException) -> int:
        """Report why the worker ends; return its exit code."""
        core, name = self.core, self._member.child.name
        if core is not None:
            core.examine(error, final=True)
        message, trace = describe(error, limit=8000)
        ours = isinstance(error, WorkerError)
        text, trace = (message, "") if ours else (f"{type(error).__name__}: {message}", trace)
        if core is not None and core.ruined:
            text, trace = f"{name} is ruined: {core.ruined}", ""
        self._member.emit(ServiceMistake(name, text if self._ready else f"{name} cannot start: {text}", trace))
        if not self._ready or core is None:
            return FAILED_TO_START
        # A failing teardown leaves no job unsettled. The slot backs off, and the failure does not count for the restart
        # budget.
        if core.leave:
            return FAILED_TO_CLOSE
        return REFUSED if isinstance(error, EngineError) else CRASHED


def maintain(context: TreeContext, child: ChildInfo, board: Scoreboard, plans: Sequence[Plan]) -> int:
    """Run the maintenance process; return the exit code. In a forked process no code of the service runs here; in a
    spawned one only its import does."""
    member = Member(context, child, board, MAINTENANCE)
    emit, telemetry, settings = member.emit, member.telemetry, context.settings
    try:
        engine = own_engine(context, child.incarnation)
    except EngineError as error:
        emit(ServiceMistake(child.name, f"{child.name} cannot start: {error}"))
        telemetry.shutdown(settings.telemetry_flush)
        return FAILED_TO_START
    warn = lambda text: emit(SupervisorNote(text, "warning"))  # noqa: E731
    maintenance = maintenance_of(member, engine, plans, warn, index=child.index)
    if context.burst:
        end = partial(os.kill, child.supervisor, signal.SIGTERM)
        maintenance.burst = Burst(engine, context.served, board, say=lambda text: emit(SupervisorNote(text)), end=end)
    telemetry.observe_processes(lambda: processes(board), lambda: restarts(board))
    if settings.health:
        HealthServer(settings.health, probes(maintenance, board), say=warn)
    try:
        maintenance.run(unblock)
        if context.lost is not None and os.getppid() != child.supervisor:
            context.lost.say_left(emit)  # its dead supervisor cannot report it
        return 0
    except WorkerError as error:  # the engine refuses for good
        emit(ServiceMistake(child.name, f"{child.name}: {error}"))
        return REFUSED if isinstance(error, EngineError) else CRASHED
    finally:
        member.close(engine)
        member.say_goodbye(LAST_GRACE - 0.2)


def maintenance_of(
    member: Member, engine: Engine, plans: Sequence[Plan], warn: Callable[[str], None], *, index: int
) -> Maintenance:
    """Return the housekeeping of this tree, which has the slot `index` of the board, for the process of this member."""
    context, child, telemetry = member.context, member.child, member.telemetry
    abandoned = AbandonedLeases(
        engine,
        context.options,
        member.emit,
        kill_reason=partial(context.kill_reason, member.board),
        black_box=partial(context.black_box, member.board),
        after_loss=partial(_after_loss, context, child),
        knows=telemetry.knows,
        ledgers=DeadLedgers(context.ledgers, say=warn),
        identify=partial(identified, telemetry.tracing),
    )
    return Maintenance(
        index,
        supervisor=child.supervisor,
        poke=child.poke,
        board=member.board,
        engine=engine,
        abandoned=abandoned,
        queues=context.options,
        plans=plans,
        emit=member.emit,
        leads=lambda: engine.lead(context.app.__name__),
        drain=context.settings.drain_seconds,
        others=OtherTrees(context.other_boards, context.settings.drain_seconds),
        declaring=Declaring(engine, context.declaration),
    )


def _after_loss(context: TreeContext, child: ChildInfo, rescued: Rescued, outcome: Outcome) -> None:
    """Put a lost attempt into the mailbox of the hooks process, and wake the supervisor to start that process."""
    if context.lost is None or outcome.failure is None or rescued.lease.queue not in context.app.worker_handlers:
        return
    context.lost.put(rescued.lease, outcome.failure)
    poke(child.waker)


def export(context: TreeContext, child: ChildInfo, board: Scoreboard) -> int:
    """Run the exporter, the process that sends telemetry; return the exit code."""
    telemetry, budget = Member(context, child, board, EXPORTER).telemetry, context.settings.telemetry_flush
    crews = {slot: crew for slot, crew, _ in context.workers}
    slots = {slot: (crew.options.concurrency, [queue.name for queue in crew.queues]) for slot, crew in crews.items()}
    telemetry.export(board, child.index, slots=slots, supervisor=child.supervisor, unblock=unblock, budget=budget)
    return 0
