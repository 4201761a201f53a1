"""The parts that all kinds of worker share: leaving, the scoreboard, the limits of a process, and its ruin."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from framework.engine.ledger import Ledger
from framework.engine.port import Engine, Transactional
from framework.model.attempt import Attempt, NoTransactions
from framework.model.errors import WorkerError
from framework.model.events import Event, ServiceMistake, WorkerLeaving
from framework.model.handling import Progress
from framework.model.job import Lease
from framework.model.options import PoolOptions, QueueOptions
from framework.process.blackbox import Notes
from framework.process.forks import leave_if_forked
from framework.process.scoreboard import LEAVING, READY, RowWriter, Scoreboard, before_deadline
from framework.process.scoreboard.progress import ProgressWriter
from framework.worker.executor import Executor
from framework.worker.executor.breaking import Guard
from framework.worker.gate.cancelled import GRACE, Cancelled
from framework.worker.gate.gate import CERTAIN, Gate
from framework.worker.gate.thread_gate import ThreadGate
from framework.worker.putback import Identity
from framework.worker.ruin import SelfCheck, root_of

OTHERS_WORK = 5.0  # seconds for which the engine must fail in this process alone
FAR = 12  # times as long where each process has a connection of its own, which may fail alone and heal
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(eq=False)
class LeaveSignal:
    """The state of leaving: why this process stops claiming, and when it interrupts its handlers. Signal handlers set
    it, too.

    Args:
        drain: seconds that a drain takes at most; None: as long as it takes.
        board_deadline: returns the tree's drain deadline in monotonic ns; 0: none.
        stood_still: returns the seconds for which the tree has stood still.

    Attributes:
        why: the reason to leave; empty while the process goes on.
    """

    drain: float | None
    board_deadline: Callable[[], int]
    stood_still: Callable[[], float] = lambda: 0.0
    why: str = field(default="", init=False)
    _interrupt_at: float | None = field(default=None, init=False)  # without the seconds for which the tree stood still

    @property
    def interrupt_at(self) -> float | None:
        """Return the monotonic second at which running handlers are interrupted. It moves by the time the tree stands
        still."""
        return None if self._interrupt_at is None else self._interrupt_at + self.stood_still()

    def __bool__(self) -> bool:
        return self.why != ""

    def leave(self, why: str) -> bool:
        """Begin to leave; return False if the process was leaving already. A drain uses the tree's deadline where one
        is set."""
        if self.why and not (self.interrupt_at is None and why == "drain"):
            return False
        self.why = why
        if why == "drain" and self.drain is not None:
            deadline = self.board_deadline() / 1e9 or time.monotonic() + self.drain
            self._interrupt_at = deadline - before_deadline(self.drain, 2.0) - self.stood_still()
        return True


class WorkerCore:
    """The connection of one worker process to its engine and to its slot on the scoreboard.

    Args:
        process: its name, for example `deliveries/0`.
        index: its slot on the board.
        engine: the open engine.
        executors: one for each queue that this process serves.
        options: of the pool, or of the only queue.
        emit: takes events.
        leave: shared with the signal handlers.
        held: descriptors that the engine has opened.
        ledger: the ledger of this process.
        notes: what of its jobs outlives this process.
        blocked_after: seconds after which a handler that holds the event loop is reported.

    Attributes:
        executors: by queue.
        ledger: the ledger of this process.
        gate: makes all calls to the engine.
        cancelled: the running jobs that were cancelled.
        ruined: why this process cannot do anything any more; empty: it can. The rescuer settles what this process could
            not.
        blamed: returns the row whose code ran last.
    """

    def __init__(
        self,
        process: str,
        index: int,
        *,
        board: Scoreboard,
        engine: Engine,
        executors: Sequence[Executor],
        options: PoolOptions,
        emit: Callable[[Event], None],
        leave: LeaveSignal,
        ledger: Ledger,
        held: Mapping[int, Identity] | None = None,
        notes: Notes | None = None,
        blocked_after: float = 1.0,
    ) -> None:
        self.process, self.index, self.board = process, index, board
        self.executors = {executor.options.name: executor for executor in executors}
        self._deadlines = {name: _deadlines(executor.options) for name, executor in self.executors.items()}
        self.cancelled = Cancelled(engine)
        for executor in executors:
            executor.record, executor.cancelled = ledger.end, self.cancelled.__contains__
            executor.engine = engine if isinstance(engine, Transactional) else NoTransactions(engine.features.system)
            executor.save, executor.progress = lambda lease, state: engine.save(lease, state), self._show
        self._reports = ProgressWriter(board, index)
        self.ledger, self.notes, self.blocked_after = ledger, notes, blocked_after
        self.options = options
        self.emit = emit
        self.leave = leave
        self.rows: list[RowWriter] = [board.row_writer(index, row) for row in range(self.options.concurrency)]
        self.on_ready: Callable[[], None] = lambda: None
        self.jobs = self.used = 0
        self._limited = options.max_jobs_per_process is not None or options.max_memory is not None
        self._next_memory_check, self._pid, self._parent = 0.0, os.getpid(), os.getppid()
        self.check = SelfCheck(held or {})
        self.ruined = ""
        self.blamed: Callable[[], int | None] = lambda: 0
        self._patience = 1 if engine.features.local else FAR
        self.gate = (Gate if engine.features.local else ThreadGate)(engine, ledger, self)
        self._guard()

    def _guard(self) -> None:
        for name, executor in self.executors.items():
            if (breaker := executor.options.breaker) is not None:
                executor.guard = Guard(name, breaker, hold=self.gate.hold, emit=self.emit)

    # --- the board --------------------------------------------------------------------------------------------------

    def ready(self) -> None:
        """Announce that the process can take jobs. Raises WorkerError: `max_memory` is below what the process uses
        now."""
        leave_if_forked(self._pid)  # the lifespan may have forked
        limit = self.options.max_memory
        if limit is not None and resident() >= limit:
            raise WorkerError(
                f"{self.process}: max_memory={limit // 2**20} MiB is below the {resident() // 2**20} MiB that the "
                "process has before its first job: raise it"
            )
        self.board.set_state(self.index, READY, time.monotonic_ns())
        self.on_ready()

    def now(self) -> float:
        """Return the seconds of the tree's own time: the monotonic clock less the time for which it stood still."""
        return time.monotonic() - self.board.stood_still

    def tick(self) -> None:
        """Write to the board that the loop turns."""
        self.board.tick(self.index, time.monotonic_ns(), used=self.used, jobs=self.jobs)

    def must_leave(self) -> bool:
        """Return whether this process must leave. Its own handler of SIGTERM may not know, because a job may have taken
        the signal. The death of the parent also arrives as SIGTERM."""
        return self.board.told_to_leave(self.index) or os.getppid() != self._parent

    def complain(self, text: str) -> None:
        """Report a mistake in the service."""
        self.emit(ServiceMistake(self.process, f"{self.process}: {text}"))

    def leaving(self) -> None:
        """Report once that this process leaves, and why."""
        self.tick()  # writes the number of jobs: with it the supervisor tells recycling from leaving without a job done
        self.board.set_state(self.index, LEAVING, time.monotonic_ns())
        orphaned = self.leave.why == "drain" and os.getppid() != self._parent
        self.emit(WorkerLeaving(self.process, os.getpid(), "supervisor gone" if orphaned else self.leave.why))

    def check_limits(self) -> None:
        """Leave after `max_jobs_per_process` jobs, or above `max_memory`."""
        most = self.options.max_jobs_per_process
        if most is not None and self.jobs >= most:
            self.leave.leave("max_jobs_per_process")
        limit = self.options.max_memory
        if limit is not None and time.monotonic() >= self._next_memory_check:
            self._next_memory_check = time.monotonic() + 0.1
            if resident() > limit:
                self.leave.leave("max_memory")
                self.gate.wake()  # a claim may wait for long

    def room(self, running: int = 0) -> int:
        """Return how many jobs this process may still start besides those that run."""
        most = self.options.max_jobs_per_process
        return sys.maxsize if most is None else max(0, most - self.jobs - running)

    # --- a run ------------------------------------------------------------------------------------------------------

    def begin(self, attempt: Attempt, row: int) -> bool:
        """Write the run into the ledger, then into the board's row. Return False if the ledger is full, or if the job
        was cancelled meanwhile: it is released unstarted."""
        lease, attempt.row = attempt.lease, row
        now = time.monotonic_ns()
        attempt.began = now / 1e9
        if self.cancelled.local and self.cancelled.before_start(lease, attempt.began):
            self.gate.give_back([lease])  # the engine does not put it back
            return False
        if not self.gate.start(lease, attempt):
            return False
        options = attempt.options
        usual = options is self.executors[lease.queue].options
        soft, hard = self._deadlines[lease.queue] if usual else _deadlines(options)
        self.used += 1
        self.rows[row].start(lease.job.id, lease.delivery, now, soft and now + soft, hard and now + hard, lease.queue)
        return True

    def look_for_cancelled(self, running: Sequence[Lease]) -> None:
        """Ask a local engine which of the running jobs were cancelled; call this once a second. For any other engine
        the gate does it."""
        if self.cancelled.local:
            self.cancelled.look(running)

    def shorten(self, row: int, sequence: int, options: QueueOptions) -> float:
        """Bring the deadlines of a cancelled job forward. Return the seconds until its handler is interrupted.

        Args:
            sequence: of the job's row, read while the job was known to run there.
        """
        grace = min(GRACE, options.kill_after)
        soft = time.monotonic_ns() + int(grace * 1e9)
        self.rows[row].shorten(sequence, soft, soft + int(options.kill_after * 1e9))
        return grace

    def has_run(self, attempt: Attempt, row: int) -> None:
        """Record that telemetry has the outcome, and that the job has no deadline any more. Safe in any thread, any
        number of times."""
        self.ledger.sent(attempt.lease)
        self.rows[row].ended()

    def finish(self, attempt: Attempt, row: int, *, soon: bool = False) -> None:
        """Settle the job and free its row.

        Args:
            soon: a success may wait for the next flush.
        """
        outcome = attempt.outcome
        assert outcome is not None
        if soon:
            self.ledger.sent(attempt.lease)
            self.gate.settle_soon(attempt.lease, outcome, row)
        else:
            self.has_run(attempt, row)
            self.tick()  # a job may take long: the time without a turn of the loop begins here
            self.gate.settle(attempt.lease, outcome, row)
        self.rows[row].clear()
        self.used -= 1
        self.jobs += 1
        if self._limited:
            self.check_limits()

    def _show(self, attempt: Attempt, progress: Progress) -> None:
        """Write a progress beside the board. A full disk stops no job."""
        with suppress(OSError):
            self._reports.write(attempt.row, attempt.began, attempt.lease.delivery, progress)

    def slots(self, queue: str) -> tuple[int, int]:
        """Return (number of jobs of a queue that could run here now, number of them that run)."""
        used = sum(row.queue == queue for row in self.board.busy_rows(self.index)) if self.used else 0
        return self.options.concurrency - max(0, self.used - used), used

    def settle_late(self) -> bool:
        """Try again what could not be settled. Return True when this process has nothing left that it could settle."""
        return self.ruined != "" or self.gate.settle_late()

    def leave_behind(self) -> bool:
        """Return, at the end of a drain, whether only these leases fail while the engine works for other processes."""
        left = self.gate.leave_behind(self.board.engine_worked_at() / 1e9)
        if left:
            self.complain(left)
        return left != ""

    # --- ruin -------------------------------------------------------------------------------------------------------

    def examine(self, error: BaseException, *, final: bool = False) -> None:
        """Find out whether a handler has damaged this process so that it causes the error; leave if that is certain.

        Args:
            final: the error ends the process; otherwise a few failures in a row are needed.
        """
        cause, gate = self.check.cause(error), self.gate
        gate.doubtful = cause != ""
        patience = OTHERS_WORK * self._patience
        alone = gate.failures >= CERTAIN and time.monotonic() - gate.failing_since > patience
        # It must have worked some turns of maintenance after our first failure: a success before that proves nothing.
        if not cause and alone and self.board.engine_worked_at() > (gate.failing_since + patience / 2) * 1e9:
            cause = f"the engine fails only here: {root_of(error)}"
        if cause and (final or gate.failures >= CERTAIN):
            self.ruin(cause)

    def ruin(self, cause: str) -> None:
        """Leave at once, so that a healthy process takes the slot. The job after which nothing could be settled is
        charged.

        A process that has run nothing yet stays: its successor would be in the same state and leave again, without end.
        """
        if not self.ruined and (self.jobs or self.used):
            self.ruined = cause
            rows = self.gate.rows()
            rows += [row.row for row in self.board.busy_rows(self.index) if row.row == self.blamed()]
            self.board.set_ruin(self.index, cause, rows[0] if rows else None)
            self.leave.leave(f"ruined: {cause}")
            self.gate.wake()


def _deadlines(options: QueueOptions) -> tuple[int, int]:
    """Return the (soft, hard) deadlines in ns after the start of a job; 0: the job has none."""
    if options.timeout is None:
        return 0, 0
    return int(options.timeout * 1e9), int((options.timeout + options.kill_after) * 1e9)


def resident() -> int:
    """Return the resident memory of this process in bytes; 0 where /proc does not tell."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE
    except OSError:
        return 0
