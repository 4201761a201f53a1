"""What the children of a supervisor do, each from its birth to its exit code: work, maintain, export."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial

from framework import connecting
from framework.app import Handler, Slot, WorkerApp
from framework.broker import Broker, Rescued
from framework.errors import EngineError, WorkerError
from framework.events import Bus, HookFailed, ServiceMistake, SupervisorNote, WorkerReady
from framework.exceptions import describe
from framework.executor import Executor
from framework.maintenance import AbandonedLeases, HealthServer, Maintenance, OtherTrees
from framework.outcome import Outcome
from framework.process.forks import parent_goes_on
from framework.process.lock import FileLock
from framework.producer import Producer
from framework.runner.construct import construct
from framework.runner.leaving import WITHIN, exit_after, forget_parent, run_hooks
from framework.runner.place import Place, own_broker
from framework.runner.probes import probes, processes, restarts
from framework.scoreboard import EXPORTER, GONE, Scoreboard
from framework.signals import poke, reset_in_child
from framework.supervisor import CRASHED, FAILED_TO_START, LAST_GRACE, Birth, unblock
from framework.telemetry import ProcessIdentity, Role, Telemetry, start
from framework.worker import AsyncWorker, LeaveSignal, SyncWorker, ThreadWorker, WorkerCore, descriptors, stacks


def work(place: Place, birth: Birth, board: Scoreboard, name: str, number: int) -> int:
    """Run the worker with this number of those of a queue; return the exit code."""
    telemetry, bus = _begin(place, birth, "worker")
    settings, handler = place.settings, place.app.worker_handlers[name]
    life, code = _Life(birth, bus), FAILED_TO_START
    leave = LeaveSignal(settings.drain_seconds, lambda: board.deadline, lambda: board.stood_still)
    try:
        before = descriptors()
        life.broker = broker = own_broker(place, birth.incarnation)
        held = {fd: identity for fd, identity in descriptors().items() if fd not in before}
        connecting.install(Producer(broker, options=connecting.resolver(settings), sending=telemetry.sending))
        # From here on the service's code starts threads and processes, which inherit the mask. What a signal ends
        # before the worker has handlers has no job.
        unblock()
        executor = _executor(place, board, construct(place.app), handler, telemetry, bus, stopping=lambda: bool(leave))
        life.core = core = WorkerCore(
            birth.name,
            birth.index,
            board=board,
            broker=broker,
            executor=executor,
            emit=bus.emit,
            leave=leave,
            held=held,
        )
        core.on_ready = life.announce
        telemetry.observe_slots(lambda: (core.options.concurrency, core.used), name)
        in_threads = core.options.concurrency > 1
        kind = AsyncWorker if handler.is_async else ThreadWorker if in_threads else SyncWorker
        with parent_goes_on():
            kind(core, executor.app, Slot(handler.queue, number), unblock=unblock).run()
        code = 0
    except BaseException as error:  # sys.exit() in a lifespan is an end like any other: said, and never with code 0
        code = life.failed(error)
    finally:
        board.set_state(birth.index, GONE, time.monotonic_ns())
        say_goodbye = partial(_say_goodbye, place, birth, board, telemetry, 0.0)
        run_hooks(_until(board, WITHIN, share=0.5), late=lambda: exit_after(say_goodbye, code))
        if life.broker is not None:
            life.broker.close()
        say_goodbye()
    return code


class _Life:
    """How far a worker has come: its end is judged by that."""

    def __init__(self, birth: Birth, bus: Bus) -> None:
        self._birth = birth
        self._bus = bus
        self._ready = False
        self.broker: Broker | None = None
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
        # A teardown that fails leaves nothing undone: every job is settled. It backs off, outside the budget.
        return CRASHED if self._ready and core is not None and not core.leave else FAILED_TO_START


def maintain(place: Place, birth: Birth, board: Scoreboard) -> int:
    """In the maintenance process."""
    telemetry, bus = _begin(place, birth, "maintenance")
    try:
        return _maintain(place, birth, board, telemetry, bus)
    except SystemExit as error:  # of the service: its constructor, its `on_failure`
        _say_why(error, birth, bus)
        raise


def _maintain(place: Place, birth: Birth, board: Scoreboard, telemetry: Telemetry, bus: Bus) -> int:
    settings = place.settings
    try:
        broker = own_broker(place, birth.incarnation)
    except EngineError as error:
        bus.emit(ServiceMistake(birth.name, f"{birth.name} cannot start: {error}"))
        telemetry.shutdown(settings.telemetry_flush)
        return FAILED_TO_START
    abandoned = AbandonedLeases(
        broker,
        place.options,
        bus.emit,
        verdict=lambda incarnation: place.verdict(board, incarnation),
        after_loss=_after_loss(place, board, telemetry, bus),
        told=telemetry.told,
    )
    maintenance = Maintenance(
        birth.index,
        supervisor=birth.supervisor,
        poke=birth.poke,
        board=board,
        broker=broker,
        abandoned=abandoned,
        queues=place.options,
        emit=bus.emit,
        leads=FileLock(place.leader_path).take,
        drain=settings.drain_seconds,
        others=OtherTrees(place.other_boards, settings.drain_seconds),
    )
    telemetry.observe_processes(lambda: processes(board), lambda: restarts(board))
    if settings.health:
        note = lambda text: bus.emit(SupervisorNote(text, "warning"))  # noqa: E731
        HealthServer(settings.health, probes(maintenance, board), say=note)
    try:
        maintenance.run(unblock)
        return 0
    finally:
        broker.close()
        _say_goodbye(place, birth, board, telemetry, LAST_GRACE - 0.2)


def _after_loss(place: Place, board: Scoreboard, telemetry: Telemetry, bus: Bus) -> Callable[[Rescued, Outcome], None]:
    """Calls the service's `on_failure` for a job whose worker died.

    The app is made for the first such job: a constructor that fails must not keep maintenance from its own work.
    """
    app = cache(partial(construct, place.app))

    @cache
    def executor_of(queue: str) -> Executor:
        handler = place.app.worker_handlers[queue]
        return _executor(place, board, app(), handler, telemetry, bus, stopping=lambda: False)

    def after_loss(rescued: Rescued, outcome: Outcome) -> None:
        lease = rescued.lease
        if outcome.failure is None or lease.queue not in place.app.worker_handlers:
            return
        try:
            executor = executor_of(lease.queue)
        except WorkerError as error:
            bus.emit(HookFailed("on_failure", lease.queue, lease.job.id, str(error), ""))
        else:
            executor.report_loss(lease, outcome.failure)

    return after_loss


def export(place: Place, birth: Birth, board: Scoreboard) -> int:
    """In the process that sends telemetry."""
    telemetry, _ = _begin(place, birth, EXPORTER)
    budget = place.settings.telemetry_flush
    telemetry.export(board, birth.index, supervisor=birth.supervisor, unblock=unblock, budget=budget)
    return 0


def _begin(place: Place, birth: Birth, role: Role) -> tuple[Telemetry, Bus]:
    signal.signal(signal.SIGUSR1, stacks)
    faulthandler.register(signal.SIGUSR1, file=place.stacks, all_threads=True)
    with suppress(AttributeError, OSError, ValueError):  # replaced, broken, closed by the service
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a print must not wait for the end
    os.register_at_fork(after_in_child=reset_in_child)
    place.instance.forget_in_forks()
    forget_parent()
    identity = ProcessIdentity(place.app.__name__, role, birth.name, place.instance.number, place.system)
    telemetry = start(identity, place.settings, place.rings)
    return telemetry, Bus(telemetry.subscribe)


def _say_why(error: SystemExit, birth: Birth, bus: Bus) -> None:
    """The text of `sys.exit("…")`, which the interpreter would print and a forked child does not."""
    if error.code is not None and not isinstance(error.code, int):
        message, _ = describe(error)
        bus.emit(ServiceMistake(birth.name, f"{birth.name} exits: {message}"))


def _say_goodbye(place: Place, birth: Birth, board: Scoreboard, telemetry: Telemetry, after: float) -> None:
    """Everything is settled: the rest of the drain, and `after` seconds more, are for telemetry."""
    board.set_state(birth.index, GONE, time.monotonic_ns())
    telemetry.shutdown(_until(board, place.settings.telemetry_flush, after))


def _until(board: Scoreboard, budget: float, after: float = 0.0, *, share: float = 1.0) -> float:
    """A budget in seconds; in a drain at most a share of what is left of it and `after` seconds more."""
    if not board.deadline:
        return budget
    return min(budget, share * max(0.0, board.deadline / 1e9 + after - time.monotonic()))


def _executor(
    place: Place,
    board: Scoreboard,
    app: WorkerApp,
    handler: Handler,
    telemetry: Telemetry,
    bus: Bus,
    *,
    stopping: Callable[[], bool],
) -> Executor:
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
