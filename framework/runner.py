"""`worker run`: puts the parts together. The only file that knows every one of them."""

from __future__ import annotations

import faulthandler
import gc
import io
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from framework import connecting
from framework.app import Handler, Slot, WorkerApp, check_concurrency, declared_dead_letters
from framework.broker import Broker, Rescued, open_broker, shown
from framework.codec import codec_for
from framework.errors import DeclarationError, EngineError, SettingsError, UsageError, WorkerError
from framework.events import Bus, Event, ServiceMistake, SupervisorNote, WorkerReady
from framework.executor import Executor
from framework.loading import load_app
from framework.maintenance import HealthServer, Maintenance, OtherTrees, mark, tree_of
from framework.outcome import Outcome, describe
from framework.producer import Producer
from framework.queues import Queue, QueueOptions
from framework.scoreboard import EXIT_REASONS, EXPORTER, GONE, MAINTENANCE, READY, STATES, Scoreboard, Verdict
from framework.settings import Settings, check_queue_names, load_settings, unknown_variables
from framework.signals import poke, reset_in_child
from framework.supervisor import (
    FAILED_TO_START,
    IS_LINUX,
    LAST_GRACE,
    Birth,
    ChildSpec,
    Instance,
    Leadership,
    Supervisor,
    SupervisorOptions,
    enter_spawned,
    spawn,
    threads,
    unblock,
)
from framework.telemetry import ProcessIdentity, Role, Telemetry, prepare_rings, rings_from, start
from framework.worker import AsyncWorker, LeaveSignal, SyncWorker, WorkerCore


def resolve(app: type[WorkerApp], settings: Settings) -> dict[str, QueueOptions]:
    """The options of all queues of an app, by name. Raises SettingsError, DeclarationError: which, where."""
    check_queue_names(settings, app.worker_queues)
    letters = declared_dead_letters(app.worker_queues.values())
    options = {}
    for queue in app.worker_queues.values():
        found = replace(settings.options(queue), is_dead_letter=queue.name in letters)
        if not found.is_dead_letter:
            _check_payload(queue)
        handler = app.worker_handlers.get(queue.name)
        if handler is not None:
            name = f"{app.__name__}.{queue.attribute}"
            check_concurrency(found.concurrency, is_async=handler.is_async, name=name, place=handler.place)
            if found.timeout is None and settings.drain_seconds is not None:
                raise SettingsError(
                    f"{queue.place}: {name} has timeout=None, but a drain ends after {settings.drain_seconds:g} s: "
                    "give it a timeout, or set WORKER_DRAIN=none"
                )
        options[queue.name] = found
    for queue in app.worker_queues.values():  # a letter queue of another service: its dead are rescued here, too
        target = queue.dead_letter
        if target is not None and target.name not in options:
            options[target.name] = replace(settings.options(target), is_dead_letter=True)
    return options


def _check_payload(queue: Queue[Any]) -> None:
    """An unusable payload type must not wait for the first job."""
    try:
        codec_for(queue.payload_type, queue=queue.name)
    except DeclarationError as error:
        raise DeclarationError(f"{queue.place}: {error}") from None


def check(app: type[WorkerApp], settings: Settings) -> list[str]:
    """Everything that can be found wrong without running: raises the first error, returns the warnings."""
    resolve(app, settings)
    warnings = [
        f"{queue.place}: queue {queue.name!r} has no handler here: jobs wait for another service"
        for queue in app.worker_queues.values()
        if queue.name not in app.worker_handlers
    ]
    warnings += [
        f"{queue.place}: {app.__name__}.{queue.attribute} declares schedules: this release keeps their place, "
        "but does not run them"
        for queue in app.worker_queues.values()
        if queue.schedules
    ]
    return warnings + unknown_variables()


def run(app: type[WorkerApp], settings: Settings, queues: Sequence[str] | None = None) -> int:
    """Runs a service until it is told to stop; returns the exit code.

    Args:
        queues: names of the queues to serve; None = all that have a handler.

    Raises:
        WorkerError: found before anything was started.
    """
    return Service(app, settings, queues).run()


class Service:
    """A service about to run: its slots, its engine's place, its board.

    Args:
        instance, board: given in a spawned child; the supervisor makes them.
    """

    def __init__(self, app: type[WorkerApp], settings: Settings, queues: Sequence[str] | None) -> None:
        self.app = app
        self.settings = settings
        self.options = resolve(app, settings)
        self.served = self._served(queues)
        self.slots = [
            (f"{name}/{index}", name, index) for name in self.served for index in range(self.options[name].workers)
        ]
        self.system = ""
        self.instance: Instance | None = None
        self.number = 0
        self.board_path: Path | None = None
        self.leader_path: Path | None = None
        self.rings: Any = None  # telemetry's; None: it does not outlive a process

    def _served(self, wanted: Sequence[str] | None) -> list[str]:
        handled = [name for name in self.options if name in self.app.worker_handlers]
        if not wanted:
            return handled
        for name in wanted:
            if name not in self.options:
                raise UsageError(f"{self.app.__name__} has no queue {name!r}; it has {', '.join(self.options)}")
            if name not in handled:
                raise UsageError(f"{self.app.__name__} has no handler for queue {name!r}")
        return [name for name in handled if name in wanted]

    # --- the supervisor ---------------------------------------------------------------------------------------------

    def run(self) -> int:
        """In the process that becomes the supervisor."""
        if not self.slots:
            raise UsageError(f"{self.app.__name__} has nothing to run: no queue with a handler and workers above 0")
        identity = ProcessIdentity(self.app.__name__, "supervisor", "supervisor", 0, "")
        bus = Bus(start(identity, self.settings).subscribe)
        run_dir, warnings = self._visit_engine()
        try:
            board = self._take_instance(run_dir, bus.emit)
        except OSError as error:
            raise EngineError(f"{run_dir.parent} cannot be used: {error}") from error
        self._mark = mark(tree_of(board))
        for text in [*warnings, *check(self.app, self.settings)]:
            bus.emit(SupervisorNote(text, "warning"))
        if not IS_LINUX:
            bus.emit(
                SupervisorNote("not Linux: fit for development; no promise after a power cut or a dead supervisor")
            )
        forking = self._can_fork(bus.emit)
        bus.emit(
            SupervisorNote(
                f"{self.app.__name__}: {len(self.slots)} workers on {shown(self.settings.broker_url)}, "
                f"instance {self.number}"
            )
        )
        supervisor = Supervisor(
            self._specs(board),
            board,
            SupervisorOptions(
                drain=self.settings.drain_seconds,
                restart_budget=self.settings.restart_budget,
                restart_window=self.settings.restart_window,
                ready_within=self.settings.ready_within,
            ),
            bus.emit,
            **({} if forking or self.instance is None else {"start": spawn(keep=[self.instance.descriptor])}),
        )
        gc.collect()
        gc.freeze()  # the children share these pages; a collection would copy them
        code = supervisor.run()
        bus.emit(SupervisorNote(f"stopped, exit code {code}"))
        return code

    def _take_instance(self, run_dir: Path, emit: Callable[[Event], None]) -> Scoreboard:
        """A number among the supervisors of this store, its rings, and a fresh board. Raises OSError."""
        self.instance = Instance(run_dir, run_dir.parent / "instances")
        self.number = self.instance.number
        self.instance.keep_old_board()
        rows = [(MAINTENANCE, 0), *((slot, self.options[name].concurrency) for slot, name, _ in self.slots)]
        names = [name for name, _ in rows]
        self.rings, note = prepare_rings(run_dir, self.number, app=self.app.__name__, system=self.system, slots=names)
        if note:
            emit(SupervisorNote(note, "warning"))
        if self.rings is not None:
            rows.append((EXPORTER, 0))
        board = Scoreboard.create(self.instance.board_path, rows, app=self.app.__name__)
        self.board_path = board.path
        return board

    def _visit_engine(self) -> tuple[Path, list[str]]:
        """Opens the engine once and lets go of it: what is wrong shows before anything is forked."""
        broker = self._broker(f"s{secrets.token_hex(8)}")
        try:
            self.system = broker.features.system
            root = getattr(broker, "root", None)
            run_dir = Path(root) / "run" if root is not None else _runtime_dir(self.app.__name__) / "run"
            # One leader per app: it can observe only the queues that it knows.
            self.leader_path = run_dir.parent / f"leader.{self.app.__name__}.lock"
            return run_dir, connecting.warnings_of(broker)
        finally:
            broker.close()

    def _can_fork(self, emit: Callable[[Event], None]) -> bool:
        method: Literal["auto", "fork", "spawn"] = self.settings.start_method
        count = threads()
        if method == "auto" and count > 1:
            emit(
                SupervisorNote(
                    f"importing the service started {count - 1} threads, which a fork would not copy: workers "
                    "start as fresh interpreters (slower; WORKER_START_METHOD=fork insists)"
                )
            )
            return False
        return method != "spawn"

    def _specs(self, board: Scoreboard) -> list[ChildSpec]:
        specs = [ChildSpec(MAINTENANCE, 0, lambda birth: self.maintain(birth, board), last=True, argv=self._argv)]
        for index, (slot, name, number) in enumerate(self.slots, start=1):
            specs.append(
                ChildSpec(
                    slot,
                    index,
                    lambda birth, name=name, number=number: self.work(birth, board, name, number),  # type: ignore[misc]
                    argv=self._argv,
                )
            )
        if self.rings is not None:
            index = len(specs)
            export = ChildSpec(EXPORTER, index, lambda birth: self.export(birth, board), last=True, vital=False)
            specs.append(replace(export, argv=self._argv))
        return specs

    def _argv(self, birth: Birth) -> list[str]:
        """The command of a fresh interpreter that lives the same life: see `main`."""
        life = {
            "app": f"{self.app.__module__}:{self.app.__qualname__}",
            "queues": self.served,
            "board": str(self.board_path),
            "leader": str(self.leader_path),
            "number": self.number,
            "system": self.system,
            "lock": self.instance.descriptor if self.instance is not None else -1,
            "rings": self.rings and (self.rings.run, self.rings.number, self.rings.mark, self.rings.slots),
            "birth": {name: getattr(birth, name) for name in Birth.__slots__},
        }
        return [sys.executable, "-m", "framework.runner", json.dumps(life)]

    # --- a worker ---------------------------------------------------------------------------------------------------

    def work(self, birth: Birth, board: Scoreboard, name: str, number: int) -> int:
        """In a worker process: its whole life."""
        telemetry, bus = self._begin(birth, "worker")
        ready = False
        leave = LeaveSignal(self.settings.drain_seconds, lambda: board.deadline)
        broker: Broker | None = None
        try:
            broker = self._broker(birth.incarnation)
            connecting.install(Producer(broker, options=connecting.resolver(self.settings), sending=telemetry.sending))
            app = self.app()
            handler = self.app.worker_handlers[name]
            executor = self._executor(app, handler, telemetry, bus, stopping=lambda: bool(leave))
            core = WorkerCore(
                birth.name, birth.index, board=board, broker=broker, executor=executor, emit=bus.emit, leave=leave
            )
            telemetry.observe_slots(lambda: (core.options.concurrency, core.used), name)

            def announce() -> None:
                nonlocal ready
                ready = True
                bus.emit(WorkerReady(birth.name, os.getpid()))
                poke(birth.waker)

            core.on_ready = announce
            kind = AsyncWorker if handler.is_async else SyncWorker
            kind(core, app, Slot(handler.queue, number), unblock=unblock).run()
            return 0
        except Exception as error:
            message, trace = describe(error, limit=8000)
            text = message if isinstance(error, WorkerError) else f"{message}\n{trace}"
            bus.emit(ServiceMistake(birth.name, text if ready else f"{birth.name} cannot start: {text}"))
            # A teardown that fails leaves nothing undone: every job is settled. It backs off, outside the budget.
            return 70 if ready and not leave else FAILED_TO_START
        finally:
            if broker is not None:
                broker.close()
            self._say_goodbye(birth, board, telemetry, 0.0)

    def _begin(self, birth: Birth, role: Role) -> tuple[Telemetry, Bus]:
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # what a handler prints must not wait for its process's end
        os.register_at_fork(after_in_child=reset_in_child)
        if self.instance is not None:
            self.instance.forget_in_forks()
        identity = ProcessIdentity(self.app.__name__, role, birth.name, self.number, self.system)
        telemetry = start(identity, self.settings, self.rings)
        return telemetry, Bus(telemetry.subscribe)

    def _say_goodbye(self, birth: Birth, board: Scoreboard, telemetry: Telemetry, after: float) -> None:
        """Everything is settled: the rest of the drain, and `after` seconds more, are for telemetry."""
        board.set_state(birth.index, GONE, time.monotonic_ns())
        budget = self.settings.telemetry_flush
        if board.deadline:
            budget = min(budget, max(0.0, board.deadline / 1e9 + after - time.monotonic()))
        telemetry.shutdown(budget)

    def _broker(self, incarnation: str) -> Broker:
        broker = open_broker(
            self.settings.broker_url,
            incarnation=incarnation,
            durability=self.settings.durability,
            network_file_system=self.settings.network_file_system,
        )
        if broker.features.durable == "nothing":
            raise UsageError(
                f"WORKER_BROKER_URL={shown(self.settings.broker_url)}: that engine lives in one process and cannot "
                "serve workers: use spool:DIR"
            )
        broker.open(list(self.options.values()))
        return broker

    def _executor(
        self, app: WorkerApp, handler: Handler, telemetry: Telemetry, bus: Bus, *, stopping: Callable[[], bool]
    ) -> Executor:
        options = self.options[handler.queue.name]
        return Executor(app, handler, options, tracing=telemetry.tracing, emit=bus.emit, stopping=stopping)

    # --- maintenance ------------------------------------------------------------------------------------------------

    def maintain(self, birth: Birth, board: Scoreboard) -> int:
        """In the maintenance process: its whole life."""
        telemetry, bus = self._begin(birth, "maintenance")
        try:
            broker = self._broker(birth.incarnation)
        except EngineError as error:
            bus.emit(ServiceMistake(birth.name, f"{birth.name} cannot start: {error}"))
            telemetry.shutdown(self.settings.telemetry_flush)
            return FAILED_TO_START
        app = self.app()
        executors = {
            name: self._executor(app, handler, telemetry, bus, stopping=lambda: False)
            for name, handler in self.app.worker_handlers.items()
        }

        def after_loss(rescued: Rescued, outcome: Outcome) -> None:
            executor = executors.get(rescued.lease.queue)
            if executor is not None and outcome.failure is not None:
                executor.report_loss(rescued.lease, outcome.failure)

        leadership = Leadership(self.leader_path) if self.leader_path is not None else None
        maintenance = Maintenance(
            birth.index,
            supervisor=birth.supervisor,
            poke=birth.poke,
            board=board,
            broker=broker,
            options=self.options,
            emit=bus.emit,
            verdict=lambda incarnation: self._verdict(board, incarnation),
            leads=leadership.held if leadership is not None else lambda: True,
            after_loss=after_loss,
            drain=self.settings.drain_seconds,
            others=OtherTrees(self._other_boards, self.settings.drain_seconds),
            told=telemetry.told,
        )
        telemetry.observe_processes(lambda: _processes(board), lambda: _restarts(board))
        if self.settings.health:
            note = lambda text: bus.emit(SupervisorNote(text, "warning"))  # noqa: E731
            HealthServer(self.settings.health, _probes(maintenance, board), say=note)
        try:
            maintenance.run(unblock)
            return 0
        finally:
            broker.close()
            self._say_goodbye(birth, board, telemetry, LAST_GRACE - 0.2)

    # --- the exporter -----------------------------------------------------------------------------------------------

    def export(self, birth: Birth, board: Scoreboard) -> int:
        """In the process that sends telemetry: its whole life."""
        telemetry, _ = self._begin(birth, EXPORTER)
        budget = self.settings.telemetry_flush
        telemetry.export(board, birth.index, supervisor=birth.supervisor, unblock=unblock, budget=budget)
        return 0

    def _verdict(self, board: Scoreboard, incarnation: str) -> Verdict | None:
        """From our own board, or from that of the tree to which the dead belonged."""
        found = board.verdict(incarnation)
        if found is not None:
            return found
        for path in self._other_boards():
            try:
                found = Scoreboard.open(path).verdict(incarnation)
            except (OSError, ValueError):
                continue
            if found is not None:
                return found
        return None

    def _other_boards(self) -> list[Path]:
        """Of the other trees on this store, of those before included."""
        if self.board_path is None:
            return []
        return sorted(path for path in self.board_path.parent.glob("*.board*") if path != self.board_path)


def _runtime_dir(app: str) -> Path:
    """Where boards lie when the engine has no directory of its own."""
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/worker-{os.getuid()}"
    return Path(base) / "worker" / app


def _processes(board: Scoreboard) -> list[tuple[str, int]]:
    counts = dict.fromkeys(STATES[1:4], 0)
    for slot in board.all_slots():
        if STATES[slot.state] in counts:
            counts[STATES[slot.state]] += 1
    return list(counts.items())


def _restarts(board: Scoreboard) -> Mapping[str, int]:
    totals = dict.fromkeys(EXIT_REASONS, 0)
    for slot in board.all_slots():
        for reason, count in zip(EXIT_REASONS, slot.exits, strict=True):
            totals[reason] += count
    del totals["drained"]  # an end, not a restart
    return totals


def _probes(maintenance: Maintenance, board: Scoreboard) -> dict[str, Callable[[], str]]:
    def workers() -> list[Any]:
        return [slot for slot in board.all_slots() if slot.name not in (MAINTENANCE, EXPORTER)]

    def live() -> str:
        age = time.monotonic() - maintenance.turned_at
        return "" if age < 30 else f"maintenance has not turned for {age:.0f} s"

    def ready() -> str:
        if not maintenance.engine_ok:
            return "the engine fails"
        return "" if any(slot.state == READY for slot in workers()) else "no worker is ready"

    def started() -> str:
        return "" if any(slot.ready for slot in workers()) else "no worker was ready yet"

    return {"livez": live, "readyz": ready, "startupz": started}


def _close(descriptor: int) -> None:
    """In what a handler forks, once: there the number soon belongs to somebody else."""
    with suppress(OSError):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".lock"):
            os.close(descriptor)


def main() -> None:
    """A spawned child: the life that `_argv` wrote down."""
    life = json.loads(sys.argv[1])
    birth = Birth(**life["birth"])
    if not enter_spawned(birth):
        return
    for descriptor in (birth.waker, birth.poke, life["lock"]):
        os.set_inheritable(descriptor, False)  # exec needed it; what a handler starts must not keep them
    os.register_at_fork(after_in_child=lambda: _close(life["lock"]))
    service = Service(load_app(life["app"]), load_settings(), life["queues"])
    service.number, service.system = life["number"], life["system"]
    if life["rings"]:
        service.rings = rings_from(*life["rings"])
    service.board_path, service.leader_path = Path(life["board"]), Path(life["leader"])
    board = Scoreboard.open(service.board_path)
    spec = next(spec for spec in service._specs(board) if spec.index == birth.index)
    sys.exit(spec.run(birth))


if __name__ == "__main__":
    main()
