"""The supervisor's loop: it takes signals, and calls each of its parts to do what is due."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence

from framework.model.events import Event
from framework.process.blackbox import Recorder, Stacks
from framework.process.scoreboard import Scoreboard
from framework.process.signals import SignalQueue
from framework.process.standstill import Standstill
from framework.process.supervisor import children, platform
from framework.process.supervisor.child import Child
from framework.process.supervisor.children import ChildInfo, ChildSpec
from framework.process.supervisor.drain import Drain
from framework.process.supervisor.notify import Notifier
from framework.process.supervisor.restart import Restarts
from framework.process.supervisor.tree import QUIET_TURN, TURN, SupervisorOptions, Tree
from framework.process.supervisor.watch import Watch

DUMP_APART = 0.1  # seconds between the stack dumps of two processes
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


class Supervisor:
    """The supervisor of one tree: it keeps children alive until it is told to stop.

    Call `run` once, in the main thread of a process without other threads.

    Args:
        specs: the children; those with `last` leave after the others.
        board: the scoreboard with a slot for each child.
        options: times and budget.
        emit: takes the events.
        stacks: takes the stacks of all processes.
        idle: called at every turn.
        start: starts a child and returns its pid; `children.fork` unless the service's import started threads.
        lost: says why the engine's directory is not the one in which the tree was started; empty: it is.
        recorder: keeps what is known of processes that die.
        may_renew: says why the processes cannot be renewed now; empty: they can.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        board: Scoreboard,
        options: SupervisorOptions,
        emit: Callable[[Event], None],
        *,
        stacks: Stacks,
        idle: Callable[[], None],
        start: Callable[[ChildSpec, ChildInfo], int] = children.fork,
        may_renew: Callable[[], str] = str,
        lost: Callable[[], str] = str,
        recorder: Recorder | None = None,
    ) -> None:
        self._stacks = stacks
        self._idle = idle
        self._tree = Tree(specs, board, options, emit, recorder)
        self._start_child = start
        self._may_renew = may_renew
        self._lost = lost
        self._notifier = Notifier()
        self._drain = Drain(self._tree, self._notifier)
        self._to_dump: list[Child] = []
        self._watchdog_at = 0.0

    def run(self) -> int:
        """Run until all children have ended; return the exit code of DESIGN.md: 0, 1, 3, 4 or 5."""
        tree = self._tree
        if not platform.become_subreaper():
            tree.note("no subreaper on this platform: processes that leave their group may be left behind", "warning")
        self._signals = SignalQueue(_SIGNALS)
        poke = os.pipe()
        for descriptor in poke:
            os.set_blocking(descriptor, False)
        self._restarts = Restarts(tree, self._drain, self._start_child, self._signals.waker, poke)
        self._watch = Watch(tree, self._drain, self._notifier)
        tree.still = Standstill(TURN, time.monotonic())
        try:
            while not self._turn():
                patience = self._patience()
                tree.still.turn = max(TURN, patience)
                self._signals.wait(patience)
        finally:
            self._drain.kill_everything()
            self._restarts.end_all_orphans()
            self._copy_stacks()
            # A signal that arrives now is too late and must not change the tree's exit code.
            self._signals.close(ignored=set(_SIGNALS) - {signal.SIGCHLD})
        return tree.exit_code

    def _turn(self) -> bool:
        """Do everything that is due; return True when nothing is left to do."""
        while (number := self._signals.take()) is not None:
            self._act_on(number)
        now = time.monotonic()
        self._tree.turned(now)
        self._watchdog_at = self._notifier.watchdog(now)
        self._restarts.reap(now)
        self._watch.look(now)
        self._check_directory()
        if self._tree.draining and self._drain.advance(now):
            return True
        self._restarts.start_due(now)
        self._restarts.renew_next(now)
        self._dump_next()
        self._copy_stacks()
        self._idle()
        return False

    def _check_directory(self) -> None:
        """Drain if the directory has moved. Running processes go on in the moved directory, but new ones would start in
        another."""
        if not self._tree.draining and (why := self._lost()):
            self._tree.exit_code = 3
            self._tree.note(why, "error")
            self._drain.begin("its directory is gone")

    def _patience(self) -> float:
        """Return the seconds until something may be due."""
        if self._to_dump:
            return DUMP_APART
        tree, now, turn = self._tree, time.monotonic(), TURN
        if self._watch.quiet and not tree.draining:
            turn = max(TURN, min(QUIET_TURN, tree.options.quickest))
        due = [at for child in tree.children for at in (child.due_at, child.kill_at) if at is not None]
        return min([turn, *(max(0.0, at - now) for at in (*due, self._watch.hard_at, self._watchdog_at))])

    def _act_on(self, number: signal.Signals) -> None:
        tree = self._tree
        if number in (signal.SIGTERM, signal.SIGINT):
            if tree.draining:
                self._drain.kill_workers("second signal")
            else:
                self._drain.begin(number.name)
        elif number == signal.SIGHUP and not tree.draining:
            if why := self._may_renew():
                tree.note(f"SIGHUP is refused: {why}", "error")
            else:
                tree.note("SIGHUP: renewing the processes one by one (the code stays the one that was loaded)")
                self._restarts.renew()
        elif number == signal.SIGUSR1:
            self._stacks.dump()
            self._to_dump = [child for child in tree.children if child.ready]

    def _dump_next(self) -> None:
        """Dump the stacks of one process at a time, so that they do not mix on standard error."""
        if self._to_dump:
            child = self._to_dump.pop(0)
            if child.pid is not None:
                child.sent.add(signal.SIGUSR1)
                children.dump_stacks(child.pid)

    def _copy_stacks(self) -> None:
        lost = self._stacks.copy(lambda index: self._tree.board.slot(index).pid)
        if lost:
            self._tree.note(f"{lost:,} bytes of stacks found no room on standard error", "warning")
