"""A process of the tree, as its entry points share it: its set-up, its engine and producer, and its end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from framework.engine.answers import closing
from framework.engine.ledger import Ledger
from framework.engine.port import Engine
from framework.model.events import SupervisorNote
from framework.process.blackbox import dump
from framework.process.scoreboard import GONE, HOOKS, Scoreboard
from framework.process.signals import BLACK_BOX, reset_in_child
from framework.process.supervisor import ChildInfo, unblock
from framework.runner import connecting
from framework.runner.bus import Bus
from framework.runner.context import TreeContext, own_engine
from framework.runner.leaving import WITHIN, exit_after, forget_parent, run_hooks
from framework.service.app import Handler, WorkerApp
from framework.service.options import resolve
from framework.service.producer import Producer
from framework.telemetry import ProcessIdentity, Role, start
from framework.worker import descriptors, stacks
from framework.worker.executor import Executor
from framework.worker.putback import Identity


class Member:
    """This process as a member of the tree. Creating it sets up signals, output and telemetry.

    Attributes:
        ledger, engine, producer: what the process has opened so far.
        notes: what of its jobs outlives it, for the supervisor; None: nothing does.
        held: the descriptors that the engine has opened.
    """

    def __init__(self, context: TreeContext, child: ChildInfo, board: Scoreboard, role: Role) -> None:
        self.context = context
        self.child = child
        self.board = board
        self.ledger: Ledger | None = None
        self.engine: Engine | None = None
        self.producer: Producer | None = None
        self.held: Mapping[int, Identity] = {}
        self._prepare_dumps()
        with suppress(AttributeError, OSError, ValueError):  # replaced, broken, closed by the service
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a print appears at once
        os.register_at_fork(after_in_child=reset_in_child)
        context.instance.forget_in_forks()
        forget_parent()
        identity = ProcessIdentity(context.app.__name__, role, child.name, context.instance.number, context.system)
        # A ring takes the attempts of a slot; the hooks process makes none.
        self.telemetry = start(identity, context.settings, None if role == HOOKS else context.rings)
        if self.notes is not None:
            self.telemetry.remember_lines(self.notes.line)
        bus = Bus(self.telemetry.subscribe)
        self.emit = bus.emit

    def _prepare_dumps(self) -> None:
        """Make this process write its stacks into the file of its slot. Those of other slots are closed here."""
        context, index = self.context, self.child.index
        for number in (signal.SIGUSR1, BLACK_BOX):
            signal.signal(number, stacks)
            if index < len(context.stacks):
                dump.install(number, context.stacks[index])
        for other, descriptor in enumerate(context.stacks):
            if other != index:
                os.close(descriptor)
        self.notes = context.pages.of(index) if context.pages is not None else None

    def open_engine(self) -> Engine:
        """Open the engine and make its producer the one of this process. Raises UsageError, EngineError.

        Then signals are unblocked: the service's code may start threads and processes after this, and they inherit the
        signal mask. A process that a signal ends before the worker has handlers has no job.
        """
        before = descriptors()  # with those of the ledger, which change when it grows or is written again
        self.engine = engine = own_engine(self.context, self.child.incarnation)
        # An engine that is not local reopens its connections, so a closed descriptor does not mean that this process is
        # damaged.
        if engine.features.local:
            self.held = {fd: identity for fd, identity in descriptors().items() if fd not in before}
        options = partial(resolve, settings=self.context.settings)
        self.producer = Producer(engine, options=options, sending=self.telemetry.sending)
        connecting.install(self.producer)
        unblock()
        return engine

    def executor(self, app: WorkerApp, handler: Handler, stopping: Callable[[], bool]) -> Executor:
        """Return the executor of a queue's jobs, which also tells the service of failed ones."""
        return Executor(
            app,
            handler,
            self.context.options[handler.queue.name],
            tracing=self.telemetry.tracing,
            emit=self.emit,
            wants=self.telemetry.wants,
            stopping=stopping,
            stood_still=lambda: self.board.stood_still,
            costs=self.context.settings.job_costs,
        )

    def set_state(self, state: int) -> None:
        """Write the state of this process to the board."""
        self.board.set_state(self.child.index, state, time.monotonic_ns())

    def wind_up(self, code: int) -> None:
        """End a process that has run the service's code; its threads and exit hooks get a limited time.

        A producer stores what they still enqueue, and then closes the engine. The ledger is closed before, because a
        rescuer of what is left must find it free.
        """
        self.set_state(GONE)
        run_hooks(self._until(WITHIN, share=0.5), late=lambda: exit_after(partial(self.say_goodbye, 0.0), code))
        if self.ledger is not None:
            with suppress(OSError):  # maintenance removes it
                self.ledger.close()
        if self.engine is not None:
            self.close(self.engine, self.producer.close if self.producer is not None else None)
        self.say_goodbye(0.0)

    def close(self, engine: Engine, close: Callable[[], object] | None = None) -> None:
        """Close an engine, by `close` or its own verb. What fails is logged: this process ends anyway."""
        if flaw := closing(engine, close):
            self.emit(SupervisorNote(f"{self.child.name}: {flaw}", "warning"))

    def say_goodbye(self, after: float) -> None:
        """Shut telemetry down, when everything is settled: it gets the rest of the drain, and `after` seconds more."""
        self.set_state(GONE)
        self.telemetry.shutdown(self._until(self.context.settings.telemetry_flush, after))

    def _until(self, budget: float, after: float = 0.0, *, share: float = 1.0) -> float:
        """Return a budget in seconds; in a drain at most a share of the remaining time and `after` seconds more."""
        if not self.board.deadline:
            return budget
        return min(budget, share * max(0.0, self.board.deadline / 1e9 + after - time.monotonic()))
