"""What both kinds of worker share: leaving, settling with patience, the scoreboard, the limits of a process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

from framework.broker import VERBS, Broker, settle
from framework.errors import EngineUnavailable, LeaseLost, WorkerError
from framework.events import (
    EngineFailed,
    EngineRecovered,
    Event,
    JobsClaimed,
    JobsExpired,
    JobsSettled,
    LeasesLost,
    ServiceMistake,
    WorkerLeaving,
)
from framework.executor import Attempt, Executor
from framework.job import Lease, RunRecord
from framework.ledger import Ledger
from framework.outcome import Kind, Outcome
from framework.process.forks import leave_if_forked
from framework.queues import QueueOptions
from framework.scoreboard import LEAVING, READY, RowWriter, Scoreboard, before_deadline
from framework.stuck import StuckJobs
from framework.worker.putback import Identity
from framework.worker.ruin import SelfCheck, root_of
from framework.worker.unsettled import FIRST_RETRY, LAST_RETRY, Unsettled, UnsettledLeases

CERTAIN = 3  # failures of the engine in a row after which a process believes that it is ruined
OTHERS_WORK = 5.0  # seconds that the engine must fail here alone
LONE = 1.5  # seconds for which a lease could not be settled while the engine works: a drain does not wait for it
MOST_NAMED = 5  # jobs in one line
_PAGE = os.sysconf("SC_PAGE_SIZE")


class LeaveSignal:
    """Whether and why this process stops claiming, and by when it must be gone. Set from a signal handler, too.

    Args:
        drain: seconds that a drain takes at most; None = as long as it takes.
        board_deadline: the tree's drain deadline in monotonic ns, 0 = none.
        stood_still: seconds for which the tree has stood still.

    Attributes:
        why: empty while it shall go on.
    """

    def __init__(
        self, drain: float | None, board_deadline: Callable[[], int], stood_still: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._drain = drain
        self._board_deadline = board_deadline
        self._stood_still = stood_still
        self._interrupt_at: float | None = None  # less what the tree had stood still
        self.why = ""

    @property
    def interrupt_at(self) -> float | None:
        """Monotonic seconds at which running handlers are interrupted; later when the tree stood still."""
        return None if self._interrupt_at is None else self._interrupt_at + self._stood_still()

    def __bool__(self) -> bool:
        return self.why != ""

    def leave(self, why: str) -> bool:
        """First call wins; False if it was leaving already. Takes the tree's deadline where there is one."""
        if self.why and not (self.interrupt_at is None and why == "drain"):
            return False
        self.why = why
        if why == "drain" and self._drain is not None:
            deadline = self._board_deadline() / 1e9 or time.monotonic() + self._drain
            self._interrupt_at = deadline - before_deadline(self._drain, 2.0) - self._stood_still()
        return True


class WorkerCore:
    """One process's dealings with its engine and its scoreboard slot.

    Args:
        process: name, `deliveries/0`.
        index: its slot on the board.
        broker: open engine.
        executor: runs the jobs.
        emit: takes events.
        leave: shared with the signal handlers.
        held: descriptors that the engine has opened.
        ledger: of this process.

    Attributes:
        doubtful: the engine fails, and the state of this process would explain it.
        ruined: why this process can do nothing more, empty = it can; what it could not settle is left to the rescuer.
        blamed: the row whose code ran last.
    """

    def __init__(
        self,
        process: str,
        index: int,
        *,
        board: Scoreboard,
        broker: Broker,
        executor: Executor,
        emit: Callable[[Event], None],
        leave: LeaveSignal,
        ledger: Ledger,
        held: Mapping[int, Identity] | None = None,
    ) -> None:
        self.process = process
        self.index = index
        self.board = board
        self.broker = broker
        self.executor = executor
        executor.record = self._ended
        self.ledger = ledger
        self.options: QueueOptions = executor.options
        self.emit = emit
        self._stuck = StuckJobs(broker, emit)
        self.leave = leave
        self._tells_settled = executor.wants(JobsSettled, "")
        timeout = self.options.timeout
        self._soft = None if timeout is None else int(timeout * 1e9)  # ns after the start
        self._hard = None if timeout is None else int((timeout + self.options.kill_after) * 1e9)
        self.rows: list[RowWriter] = [board.row_writer(index, row) for row in range(self.options.concurrency)]
        self.on_ready: Callable[[], None] = lambda: None
        self.jobs = 0
        self.used = 0
        self._unsettled = UnsettledLeases()
        self._failing: dict[str, tuple[float, float]] = {}  # verb: since when, wait before the next try
        self._retry_at = 0.0
        self._next_memory_check = self._next_look = 0.0
        self._pid, self._parent = os.getpid(), os.getppid()
        self.check = SelfCheck(held or {})
        self.doubtful, self.ruined = False, ""
        self.blamed: Callable[[], int | None] = lambda: 0
        self._failures = 0  # in a row, of any verb
        self._failing_since = 0.0

    # --- the board --------------------------------------------------------------------------------------------------

    def ready(self) -> None:
        """The process can take jobs. Raises WorkerError: `max_memory` is below what it has now."""
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
        """The loop turns."""
        self.board.tick(self.index, time.monotonic_ns(), used=self.used, jobs=self.jobs)

    def told(self) -> bool:
        """Return whether this process shall leave. Its own handler of SIGTERM may not know: a job may have taken the
        signal. The death of the parent comes as SIGTERM, too."""
        return self.board.told_to_leave(self.index) or os.getppid() != self._parent

    def look_after_ledger(self) -> None:
        """Write the ledger anew where it was deleted; looked at once a second."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + 1.0
        try:
            if self.ledger.restore():
                self.complain("the ledger of its runs was deleted: written anew")
        except OSError as error:
            self.complain(f"the ledger of its runs was deleted, and cannot be written anew: {error}")

    def complain(self, text: str) -> None:
        """Report a mistake in the service."""
        self.emit(ServiceMistake(self.process, f"{self.process}: {text}"))

    def leaving(self) -> None:
        """Says once why."""
        self.tick()  # with the number of its jobs: by that the supervisor tells recycling from leaving in vain
        self.board.set_state(self.index, LEAVING, time.monotonic_ns())
        orphaned = self.leave.why == "drain" and os.getppid() != self._parent
        self.emit(WorkerLeaving(self.process, os.getpid(), "supervisor gone" if orphaned else self.leave.why))

    def check_limits(self) -> None:
        """Leaves after `max_jobs_per_process` jobs, or above `max_memory`."""
        most = self.options.max_jobs_per_process
        if most is not None and self.jobs >= most:
            self.leave.leave("max_jobs_per_process")
        limit = self.options.max_memory
        if limit is not None and time.monotonic() >= self._next_memory_check:
            self._next_memory_check = time.monotonic() + 0.1
            if resident() > limit:
                self.leave.leave("max_memory")

    def room(self, running: int = 0) -> int | None:
        """Jobs that this process may still start besides those that run; None = no limit."""
        most = self.options.max_jobs_per_process
        return None if most is None else max(0, most - self.jobs - running)

    # --- the engine -------------------------------------------------------------------------------------------------

    def claim(self, limit: int, wait: float) -> Sequence[Lease]:
        """Leases, or none; an engine that fails is asked again later and later."""
        now = time.monotonic()
        if now < self._retry_at:
            time.sleep(min(wait, self._retry_at - now))
            return ()
        try:
            leases = self.broker.claim(self.options.name, limit=limit, wait=wait)
        except EngineUnavailable as error:
            self._failed("claim", error)
            return ()
        self._recovered("claim")
        self._stuck.tell()
        for queue, count in self.broker.expired().items():
            self.emit(JobsExpired(queue, count))
        if leases:
            self.emit(JobsClaimed(self.options.name, len(leases), time.monotonic() - now))
        return leases

    def begin(self, attempt: Attempt, row: int) -> bool:
        """Run record first, board row second. False: the engine cannot write it, the job went back unstarted."""
        lease, who = attempt.lease, attempt.identity
        record = RunRecord(
            row, lease.delivery, lease.attempt, attempt.started_at, who.trace_id, who.span_id, who.sampled
        )
        try:
            self.ledger.begin(lease, record)
        except OSError as error:
            self._failed("start", error)
            self.give_back([lease])
            return False
        if self._failing:
            self._recovered("start")
        now = time.monotonic_ns()
        soft = 0 if self._soft is None else now + self._soft
        hard = 0 if self._hard is None else now + self._hard
        self.used += 1
        self.rows[row].start(lease.job.id, lease.delivery, now, soft, hard)
        return True

    def _ended(self, attempt: Attempt) -> None:
        """The outcome first: from here on a rescuer finishes the job, and sends what telemetry does not have yet."""
        assert attempt.outcome is not None
        self.ledger.end(attempt.lease, attempt.outcome)

    def finish(self, attempt: Attempt, row: int) -> None:
        """Telemetry has the outcome: settle, free the row."""
        assert attempt.outcome is not None
        self.ledger.told(attempt.lease)
        self.rows[row].ended()
        self.tick()  # a job may take long: the time without a turn begins here
        self.settle(attempt.lease, attempt.outcome, row)
        self.rows[row].clear()
        self.used -= 1
        self.jobs += 1
        self.check_limits()

    def settle(self, lease: Lease, outcome: Outcome, row: int | None = None) -> None:
        """Once, or again later: what cannot be settled now is kept, and tried until the process ends.

        Args:
            row: where it ran; None = it has not started.
        """
        self._settle(Unsettled(lease, outcome, row))

    def _settle(self, item: Unsettled) -> None:
        started, verb = time.monotonic(), VERBS[item.outcome.kind]
        try:
            settle(self.broker, item.lease, item.outcome)
        except LeaseLost as lost:
            self._lost(item, lost)
            return
        except EngineUnavailable as error:
            self._keep(item, verb, error)
            return
        self.ledger.free(item.lease)
        if self._failing or self._failures:
            self._recovered(verb)
        if item.failures:
            self.emit(EngineRecovered("settle", started - item.since))
        if self._tells_settled:
            self.emit(JobsSettled(item.lease.queue, verb, 1, time.monotonic() - started))

    def _keep(self, item: Unsettled, verb: str, error: EngineUnavailable) -> None:
        """Try a lease again later. Other jobs go on meanwhile, unless nothing works for a while: then the engine fails,
        and not this lease (a bad sector, an attribute of one file)."""
        delay = self._unsettled.add(item)
        if item.failures == 1:
            self.emit(EngineFailed("settle", f"job {item.lease.job.id!r}: {error}", delay))
        if self._count_failure(error) >= CERTAIN:
            self._hold(verb)

    def _lost(self, item: Unsettled, lost: LeaseLost) -> None:
        """Report a lost lease, unless the process only looks in the wrong place: a handler has closed descriptors."""
        cause = self.check.cause(lost)
        if cause:
            self._unsettled.add(item)
            self.ruin(cause)
        else:
            self.ledger.free(item.lease)
            self.emit(LeasesLost(item.lease.queue, lost.job_ids))

    def give_back(self, leases: Sequence[Lease]) -> None:
        """Unstarted leases return to their place; no attempt is spent. Safe in threads."""
        for lease in reversed(leases):
            self.settle(lease, Outcome(Kind.RELEASED))

    def settle_late(self) -> bool:
        """Tries what could not be settled; True when nothing is left. Cheap when nothing is."""
        if not self._unsettled or self.ruined:
            return True
        for item in self._unsettled.due():
            self._settle(item)
        if not self._unsettled:
            for verb in list(self._failing):
                self._recovered(verb)
        return not self._unsettled

    def leave_behind(self) -> bool:
        """At the end of a drain: whether only these leases fail, while the engine works for others. Then they stay
        claimed, with their outcomes in the ledger: the next rescue finishes them."""
        items = self._unsettled.items()
        since = min((item.since for item in items), default=0.0)
        if not items or self.board.engine_worked_at() <= (since + LONE) * 1e9:
            return False
        ids = ", ".join(repr(item.lease.job.id) for item in items[:MOST_NAMED])
        more = f" and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ""
        self.complain(f"jobs that cannot be settled stay claimed, for the next rescue: {ids}{more}")
        return True

    def _failed(self, verb: str, error: Exception) -> None:
        self.emit(EngineFailed(verb, str(error), self._hold(verb)))
        self._count_failure(error)

    def _hold(self, verb: str) -> float:
        """Claim nothing for a while, longer at each failure. Return the seconds."""
        now = time.monotonic()
        since, wait = self._failing.get(verb, (now, 0.0))
        wait = min(LAST_RETRY, max(FIRST_RETRY, wait * 2))
        self._failing[verb] = (since, wait)
        self._retry_at = max(self._retry_at, now + wait)
        return wait

    def _count_failure(self, error: Exception) -> int:
        """Return how many calls of the engine have failed in a row."""
        self._failures += 1
        self._failing_since = self._failing_since if self._failures > 1 else time.monotonic()
        self.examine(error)
        return self._failures

    def _recovered(self, verb: str) -> None:
        self._failures, self.doubtful = 0, False
        found = self._failing.pop(verb, None)
        if found is not None:
            self.emit(EngineRecovered(verb, time.monotonic() - found[0]))

    # --- ruin -------------------------------------------------------------------------------------------------------

    def examine(self, error: BaseException, *, final: bool = False) -> None:
        """Look whether an error comes of what a handler has done to this process, and leave if it is certain.

        Args:
            final: it ends the process; otherwise a few failures in a row are needed.
        """
        cause, now = self.check.cause(error), time.monotonic()
        self.doubtful = cause != ""
        alone = self._failures >= CERTAIN and now - self._failing_since > OTHERS_WORK
        # Later by some turns of maintenance than our first failure: that it worked before says nothing.
        if not cause and alone and self.board.engine_worked_at() > (self._failing_since + OTHERS_WORK / 2) * 1e9:
            cause = f"the engine fails only here: {root_of(error)}"
        if cause and (final or self._failures >= CERTAIN):
            self.ruin(cause)

    def ruin(self, cause: str) -> None:
        """Leave at once, for a process that can work. The job after which nothing could be settled is charged.

        A process that has run nothing yet is as it was born: another would be no better, and so on for ever.
        """
        if not self.ruined and (self.jobs or self.used):
            self.ruined = cause
            rows = [item.row for item in self._unsettled.items() if item.row is not None]
            rows += [row.row for row in self.board.busy_rows(self.index) if row.row == self.blamed()]
            self.board.set_ruin(self.index, cause, rows[0] if rows else None)
            self.leave.leave(f"ruined: {cause}")


def resident() -> int:
    """Resident memory of this process in bytes; 0 where /proc does not say."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE
    except OSError:
        return 0
