"""The entry points of a supervisor's children, each from its start to its exit code: work, maintain, export."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from framework.engine.ledger import DeadLedgers, Ledger
from framework.engine.port import Engine, Rescued
from framework.maintenance import AbandonedLeases, HealthServer, Maintenance, OtherTrees
from framework.maintenance.probes import probes, processes, restarts
from framework.model.errors import EngineError, WorkerError
from framework.model.events import Bus, ServiceMistake, SupervisorNote, WorkerReady
from framework.model.exceptions import describe
from framework.model.outcome import Outcome
from framework.process.forks import parent_goes_on
from framework.process.scoreboard import EXPORTER, GONE, HOOKS, Scoreboard
from framework.process.signals import poke, reset_in_child
from framework.process.supervisor import CRASHED, FAILED_TO_CLOSE, FAILED_TO_START, LAST_GRACE, Birth, unblock
from framework.runner import connecting
from framework.runner.construct import construct
from framework.runner.crews import Crew
from framework.runner.leaving import WITHIN, exit_after, forget_parent, run_hooks
from framework.runner.place import Place, own_engine, own_ledger
from framework.service.app import Handler, WorkerApp
from framework.service.producer import Producer
from framework.telemetry import ProcessIdentity, Role, Telemetry, start
from framework.worker import AsyncWorker, LeaveSignal, SyncWorker, ThreadWorker, WorkerCore, descriptors, stacks
from framework.worker.executor import Executor
from framework.worker.executor.elsewhere import identified


def work(place: Place, birth: Birth, board: Scoreboard, crew: Crew, number: int) -> int:
    """Run the worker with this number of a crew; return the exit code."""
    telemetry, bus = begin(place, birth, "worker")
    settings = place.settings
    life, code = _Life(birth, bus), FAILED_TO_START
    leave = LeaveSignal(settings.drain_seconds, lambda: board.deadline, lambda: board.stood_still)
    try:
        life.ledger = ledger = own_ledger(place, birth.incarnation, crew.options.concurrency)
        before = descriptors()  # with those of the ledger, which change when it grows or is written again
        life.engine = engine = own_engine(place, birth.incarnation)
        # An engine that is not local reopens its connections, so a closed descriptor does not mean that this process is
        # damaged.
        local = engine.features.local
        held = {fd: identity for fd, identity in descriptors().items() if local and fd not in before}
        life.producer = Producer(engine, options=connecting.resolver(settings), sending=telemetry.sending)
        connecting.install(life.producer)
        # After this line the service's code starts threads and processes, which inherit the signal mask. A process that
        # a signal ends before the worker has handlers has no job.
        unblock()
        app, handlers = construct(place.app), crew.handlers(place.app)
        stopping = partial(bool, leave)
        executors = [executor_for(place, board, app, one, telemetry, bus, stopping=stopping) for one in handlers]
        life.core = core = WorkerCore(
            birth.name, birth.index, board=board, engine=engine, executors=executors, options=crew.options,
            emit=bus.emit, leave=leave, ledger=ledger, held=held,
        )  # fmt: skip
        core.on_ready = life.announce
        for queue in crew.queues:
            telemetry.observe_slots(partial(core.slots, queue.name), queue.name)
        loop = AsyncWorker if handlers[0].is_async else ThreadWorker if core.options.concurrency > 1 else SyncWorker
        with parent_goes_on():
            loop(core, app, crew.slot(number), unblock=unblock).run()
        code = 0
    except BaseException as error:  # also sys.exit() in a lifespan: it is reported, and the exit code is never 0
        code = life.failed(error)
    finally:
        wind_up(place, birth, board, telemetry, life.producer or life.engine, code, life.ledger)
    return code


class _Life:
    """The progress of a worker's start, which decides how its end is reported."""

    def __init__(self, birth: Birth, bus: Bus) -> None:
        self._birth = birth
        self._bus = bus
        self._ready = False
        self.engine: Engine | None = None
        self.producer: Producer | None = None
        self.ledger: Ledger | None = None
        self.core: WorkerCore | None = None

    def announce(self) -> None:
        """Announce that the worker takes jobs."""
        self._ready = True
        self._bus.emit(WorkerReady(self._birth.name, os.getpid()))
        poke(self._birth.waker)

    def failed(self, error: BaseException) -> int:
        """Report why the worker ends; return its exit code."""
        core, name = self.core, self._birth.name
        if core is not None:
            core.examine(error, final=True)
        message, trace = describe(error, limit=8000)
        ours = isinstance(error, WorkerError)
        text, trace = (message, "") if ours else (f"{type(error).__name__}: {message}", trace)
        if core is not None and core.ruined:
            text, trace = f"{name} is ruined: {core.ruined}", ""
        self._bus.emit(ServiceMistake(name, text if self._ready else f"{name} cannot start: {text}", trace))
        if not self._ready or core is None:
            return FAILED_TO_START
        # A failing teardown leaves no job unsettled. The slot backs off, and the failure does not count for the restart
        # budget.
        return FAILED_TO_CLOSE if core.leave else CRASHED


def maintain(place: Place, birth: Birth, board: Scoreboard) -> int:
    """Run the maintenance process; return the exit code. In a forked process no code of the service runs here; in a
    spawned one only its import does."""
    telemetry, bus = begin(place, birth, "maintenance")
    settings = place.settings
    try:
        engine = own_engine(place, birth.incarnation)
    except EngineError as error:
        bus.emit(ServiceMistake(birth.name, f"{birth.name} cannot start: {error}"))
        telemetry.shutdown(settings.telemetry_flush)
        return FAILED_TO_START
    maintenance = _maintenance(place, birth, board, engine, telemetry, bus)
    telemetry.observe_processes(lambda: processes(board), lambda: restarts(board))
    if settings.health:
        note = lambda text: bus.emit(SupervisorNote(text, "warning"))  # noqa: E731
        HealthServer(settings.health, probes(maintenance, board), say=note)
    try:
        maintenance.run(unblock)
        if place.lost is not None and os.getppid() != birth.supervisor:
            place.lost.say_left(bus.emit)  # its dead supervisor cannot report it
        return 0
    finally:
        engine.close()
        _say_goodbye(place, birth, board, telemetry, LAST_GRACE - 0.2)


def _maintenance(
    place: Place, birth: Birth, board: Scoreboard, engine: Engine, telemetry: Telemetry, bus: Bus
) -> Maintenance:
    abandoned = AbandonedLeases(
        engine,
        place.options,
        bus.emit,
        kill_reason=lambda incarnation: place.kill_reason(board, incarnation),
        after_loss=partial(_after_loss, place, birth),
        knows=telemetry.knows,
        ledgers=DeadLedgers(place.ledgers, say=lambda text: bus.emit(SupervisorNote(text, "warning"))),
        identify=partial(identified, telemetry.tracing),
    )
    return Maintenance(
        birth.index,
        supervisor=birth.supervisor,
        poke=birth.poke,
        board=board,
        engine=engine,
        abandoned=abandoned,
        queues=place.options,
        emit=bus.emit,
        leads=lambda: engine.lead(place.app.__name__),
        drain=place.settings.drain_seconds,
        others=OtherTrees(place.other_boards, place.settings.drain_seconds),
    )


def _after_loss(place: Place, birth: Birth, rescued: Rescued, outcome: Outcome) -> None:
    """Put a lost attempt into the mailbox of the hooks process, and wake the supervisor to start that process."""
    if place.lost is None or outcome.failure is None or rescued.lease.queue not in place.app.worker_handlers:
        return
    place.lost.put(rescued.lease, outcome.failure)
    poke(birth.waker)


def export(place: Place, birth: Birth, board: Scoreboard) -> int:
    """Run the exporter, the process that sends telemetry; return the exit code."""
    telemetry, _ = begin(place, birth, EXPORTER)
    budget = place.settings.telemetry_flush
    slots = {slot: (crew.options.concurrency, [queue.name for queue in crew.queues]) for slot, crew, _ in place.workers}
    telemetry.export(board, birth.index, slots=slots, supervisor=birth.supervisor, unblock=unblock, budget=budget)
    return 0


def begin(place: Place, birth: Birth, role: Role) -> tuple[Telemetry, Bus]:
    """Set up this process as a member of the tree; return its telemetry and event bus."""
    signal.signal(signal.SIGUSR1, stacks)
    faulthandler.register(signal.SIGUSR1, file=place.stacks, all_threads=True)
    with suppress(AttributeError, OSError, ValueError):  # replaced, broken, closed by the service
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a print appears at once
    os.register_at_fork(after_in_child=reset_in_child)
    place.instance.forget_in_forks()
    forget_parent()
    identity = ProcessIdentity(place.app.__name__, role, birth.name, place.instance.number, place.system)
    # A ring takes the attempts of a slot; the hooks process makes none.
    telemetry = start(identity, place.settings, None if role == HOOKS else place.rings)
    return telemetry, Bus(telemetry.subscribe)


def wind_up(
    place: Place,
    birth: Birth,
    board: Scoreboard,
    telemetry: Telemetry,
    engine: Producer | Engine | None,
    code: int,
    ledger: Ledger | None = None,
) -> None:
    """End a process that has run the service's code; its threads and exit hooks get a limited time.

    A producer stores what they still enqueue, and then closes the engine. The ledger is closed before, because a
    rescuer of what is left must find it free.
    """
    board.set_state(birth.index, GONE, time.monotonic_ns())
    say_goodbye = partial(_say_goodbye, place, birth, board, telemetry, 0.0)
    run_hooks(_until(board, WITHIN, share=0.5), late=lambda: exit_after(say_goodbye, code))
    if ledger is not None:
        with suppress(OSError):  # maintenance removes it
            ledger.close()
    if engine is not None:
        engine.close()
    say_goodbye()


def _say_goodbye(place: Place, birth: Birth, board: Scoreboard, telemetry: Telemetry, after: float) -> None:
    """Shut telemetry down, when everything is settled: it gets the rest of the drain, and `after` seconds more."""
    board.set_state(birth.index, GONE, time.monotonic_ns())
    telemetry.shutdown(_until(board, place.settings.telemetry_flush, after))


def _until(board: Scoreboard, budget: float, after: float = 0.0, *, share: float = 1.0) -> float:
    """Return a budget in seconds; in a drain at most a share of the remaining time and `after` seconds more."""
    if not board.deadline:
        return budget
    return min(budget, share * max(0.0, board.deadline / 1e9 + after - time.monotonic()))


def executor_for(
    place: Place,
    board: Scoreboard,
    app: WorkerApp,
    handler: Handler,
    telemetry: Telemetry,
    bus: Bus,
    *,
    stopping: Callable[[], bool],
) -> Executor:
    """Return the executor of a queue's jobs, which also tells the service of failed ones."""
    return Executor(
        app,
        handler,
        place.options[handler.queue.name],
        tracing=telemetry.tracing,
        emit=bus.emit,
        wants=telemetry.wants,
        stopping=stopping,
        stood_still=lambda: board.stood_still,
    )
