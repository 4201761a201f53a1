"""What the children of a supervisor do, each from its birth to its exit code: work, maintain, export."""

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
from framework.engine.port import Broker, Rescued
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
from framework.runner.place import Place, own_broker, own_ledger
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
        before = descriptors()  # with those of the ledger, which takes others when it grows or is written anew
        life.broker = broker = own_broker(place, birth.incarnation)
        # An engine that is not local opens its connections anew: what has become of them says nothing of this process.
        local = broker.features.local
        held = {fd: identity for fd, identity in descriptors().items() if local and fd not in before}
        life.producer = Producer(broker, options=connecting.resolver(settings), sending=telemetry.sending)
        connecting.install(life.producer)
        # From here on the service's code starts threads and processes, which inherit the mask. What a signal ends
        # before the worker has handlers has no job.
        unblock()
        app, handlers = construct(place.app), crew.handlers(place.app)
        stopping = partial(bool, leave)
        executors = [executor_for(place, board, app, one, telemetry, bus, stopping=stopping) for one in handlers]
        life.core = core = WorkerCore(
            birth.name, birth.index, board=board, broker=broker, executors=executors, options=crew.options,
            emit=bus.emit, leave=leave, ledger=ledger, held=held,
        )  # fmt: skip
        core.on_ready = life.announce
        for queue in crew.queues:
            telemetry.observe_slots(partial(core.slots, queue.name), queue.name)
        loop = AsyncWorker if handlers[0].is_async else ThreadWorker if core.options.concurrency > 1 else SyncWorker
        with parent_goes_on():
            loop(core, app, crew.slot(number), unblock=unblock).run()
        code = 0
    except BaseException as error:  # sys.exit() in a lifespan is an end like any other: said, and never with code 0
        code = life.failed(error)
    finally:
        wind_up(place, birth, board, telemetry, life.producer or life.broker, code, life.ledger)
    return code


class _Life:
    """How far a worker has come: its end is resolved by that."""

    def __init__(self, birth: Birth, bus: Bus) -> None:
        self._birth = birth
        self._bus = bus
        self._ready = False
        self.broker: Broker | None = None
        self.producer: Producer | None = None
        self.ledger: Ledger | None = None
        self.core: WorkerCore | None = None

    def announce(self) -> None:
        """The worker takes jobs."""
        self._ready = True
        self._bus.emit(WorkerReady(self._birth.name, os.getpid()))
        poke(self._birth.waker)

    def failed(self, error: BaseException) -> int:
        """Say why the worker ends; return its exit code."""
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
        # A teardown that fails leaves nothing undone: every job is settled. It backs off, outside the budget.
        return FAILED_TO_CLOSE if core.leave else CRASHED


def maintain(place: Place, birth: Birth, board: Scoreboard) -> int:
    """In the maintenance process. No code of the service runs here but its import, where the process is not forked."""
    telemetry, bus = begin(place, birth, "maintenance")
    settings = place.settings
    try:
        broker = own_broker(place, birth.incarnation)
    except EngineError as error:
        bus.emit(ServiceMistake(birth.name, f"{birth.name} cannot start: {error}"))
        telemetry.shutdown(settings.telemetry_flush)
        return FAILED_TO_START
    maintenance = _maintenance(place, birth, board, broker, telemetry, bus)
    telemetry.observe_processes(lambda: processes(board), lambda: restarts(board))
    if settings.health:
        note = lambda text: bus.emit(SupervisorNote(text, "warning"))  # noqa: E731
        HealthServer(settings.health, probes(maintenance, board), say=note)
    try:
        maintenance.run(unblock)
        if place.lost is not None and os.getppid() != birth.supervisor:
            place.lost.say_left(bus.emit)  # its supervisor would have done that
        return 0
    finally:
        broker.close()
        _say_goodbye(place, birth, board, telemetry, LAST_GRACE - 0.2)


def _maintenance(
    place: Place, birth: Birth, board: Scoreboard, broker: Broker, telemetry: Telemetry, bus: Bus
) -> Maintenance:
    abandoned = AbandonedLeases(
        broker,
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
        broker=broker,
        abandoned=abandoned,
        queues=place.options,
        emit=bus.emit,
        leads=lambda: broker.lead(place.app.__name__),
        drain=place.settings.drain_seconds,
        others=OtherTrees(place.other_boards, place.settings.drain_seconds),
    )


def _after_loss(place: Place, birth: Birth, rescued: Rescued, outcome: Outcome) -> None:
    """Leave a lost attempt for the hooks process, and let the supervisor start that."""
    if place.lost is None or outcome.failure is None or rescued.lease.queue not in place.app.worker_handlers:
        return
    place.lost.put(rescued.lease, outcome.failure)
    poke(birth.waker)


def export(place: Place, birth: Birth, board: Scoreboard) -> int:
    """In the process that sends telemetry."""
    telemetry, _ = begin(place, birth, EXPORTER)
    budget = place.settings.telemetry_flush
    telemetry.export(board, birth.index, supervisor=birth.supervisor, unblock=unblock, budget=budget)
    return 0


def begin(place: Place, birth: Birth, role: Role) -> tuple[Telemetry, Bus]:
    """Make this process one of the tree; return what it says of itself."""
    signal.signal(signal.SIGUSR1, stacks)
    faulthandler.register(signal.SIGUSR1, file=place.stacks, all_threads=True)
    with suppress(AttributeError, OSError, ValueError):  # replaced, broken, closed by the service
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a print must not wait for the end
    os.register_at_fork(after_in_child=reset_in_child)
    place.instance.forget_in_forks()
    forget_parent()
    identity = ProcessIdentity(place.app.__name__, role, birth.name, place.instance.number, place.system)
    # A ring is for the attempts of a slot; the hooks process makes none.
    telemetry = start(identity, place.settings, None if role == HOOKS else place.rings)
    return telemetry, Bus(telemetry.subscribe)


def wind_up(
    place: Place,
    birth: Birth,
    board: Scoreboard,
    telemetry: Telemetry,
    engine: Producer | Broker | None,
    code: int,
    ledger: Ledger | None = None,
) -> None:
    """End a process that has run the service's code: its threads and exit hooks have their time, whatever they do.

    A producer stores what they still enqueue, and lets go of the engine. The ledger goes before: who rescues what is
    left must find it free.
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
    """Everything is settled: the rest of the drain, and `after` seconds more, are for telemetry."""
    board.set_state(birth.index, GONE, time.monotonic_ns())
    telemetry.shutdown(_until(board, place.settings.telemetry_flush, after))


def _until(board: Scoreboard, budget: float, after: float = 0.0, *, share: float = 1.0) -> float:
    """A budget in seconds; in a drain at most a share of what is left of it and `after` seconds more."""
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
    """Return what runs the jobs of a queue, and tells the service of failed ones."""
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
