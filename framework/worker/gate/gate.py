"""The calls of a worker to the engine: claims, starts and settlements, and retries while the engine fails."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING

from framework.engine.answers import OddAnswer, are_claimed, checked, failure_of, name_of, sort_out
from framework.engine.ledger import Ledger
from framework.engine.port import VERBS, Engine
from framework.engine.stuck import StuckJobs
from framework.model.errors import EngineUnavailable, LeaseLost, answer
from framework.model.events import EngineFailed, EngineRecovered, JobsClaimed, JobsExpired, JobsSettled, LeasesLost
from framework.model.job import Lease, Run
from framework.model.outcome import SUCCEEDED, Kind, Outcome, Settlement
from framework.model.retry import Later
from framework.worker.gate.claims import Turns
from framework.worker.gate.unsettled import FIRST_RETRY, LAST_RETRY, Unsettled, names, parted

if TYPE_CHECKING:
    from framework.worker.core import WorkerCore

WAIT = 1.0  # seconds that one claim waits for a job; a worker's loop turns at least this often
LONG_WAIT = 5.0  # the same on an event loop, which turns during the claim
CERTAIN = 3  # failures in a row after which the engine counts as failing, not single leases
LONE = 1.5  # seconds after which a drain no longer waits for a lease that fails while the engine works
TOGETHER = 32  # settlements that are collected for one call; each keeps its slot of the ledger
EMPTY, PAUSE = 1000, 0.05  # claims in a row that did not wait, after which each is followed by a pause in seconds
SURPRISE = "its engine failed in an unknown way"
_RELEASED = Outcome(Kind.RELEASED)
_queue = attrgetter("queue")


class Gate:
    """The gate to a local engine: calls run in the thread that asks. For other engines see `ThreadGate`.

    A lease that cannot be settled is kept and tried again until the process ends; other jobs go on.

    Args:
        engine: the open engine.
        ledger: the ledger of this process, in which each lease has a slot until it is settled.
        host: the process whose gate this is; it examines failures of the engine, and decides to leave.

    Attributes:
        settle_delay: seconds that a settlement may wait for others.
        claim_seconds: what a claim costs besides its system calls: the round trip to a server.
        failures: calls that have failed in a row; failing_since: when the first of them failed, monotonic seconds.
        doubtful: the engine fails, and a defect of this process would explain it.
        on_lost: takes a lease that another worker owns by now while its handler still runs; called again and again
            until the handler ends. In any thread.
    """

    def __init__(self, engine: Engine, ledger: Ledger, host: WorkerCore) -> None:
        executors = list(host.executors.values())
        self._engine = engine
        self._ledger = ledger
        self._host = host
        self._turns = Turns({executor.options.name: executor.options.weight for executor in executors})
        self.emit = emit = host.emit
        self._tells_settled = any(executor.wants(JobsSettled, "") for executor in executors)
        self._count_settled = executors[0].settled
        self._stuck = StuckJobs(engine, emit)
        self._unsettled = Later[Unsettled](FIRST_RETRY, LAST_RETRY)  # the helper thread of the claims adds some, too
        self._later: deque[Unsettled] = deque()
        self._failing: dict[str, tuple[float, float]] = {}  # by verb: (failing since when, seconds before the next try)
        self._retry_at = 0.0
        self._empty = 0  # claims in a row that found nothing and did not wait
        self._wake_error: Exception | None = None
        self._waiters: ThreadPoolExecutor | None = None
        self.settle_delay = self.claim_seconds = 0.0
        self.failures, self.failing_since = 0, 0.0
        self.doubtful = False
        self.on_lost: Callable[[Lease], object] = lambda lease: None

    # --- claiming and starting --------------------------------------------------------------------------------------

    def claim(self, limit: int, wait: float) -> Sequence[Lease]:
        """Claim up to `limit` leases, or none; an engine that fails is asked again after growing delays."""
        now = time.monotonic()
        if now < self._retry_at:
            self._pause(min(wait, self._retry_at - now))
            return ()
        order = self._turns.order
        try:
            leases = self._engine.claim(order, limit=limit, wait=wait)
        except Exception as error:
            known = answer(error)
            self._failed("claim", known)
            if known is not error:  # it may hold jobs that it did not return: the end of this process frees them
                self._host.leave.leave(SURPRISE)
            return ()
        if not are_claimed(leases, limit, order):
            leases = self._sort_out(leases, limit)
        elif self.failures or self._failing:
            self._recovered("claim")
        self._tell()
        if leases:
            self._empty = 0
            self._claimed(leases, time.monotonic() - now)
        elif wait:
            self._found_none(time.monotonic() - now < wait / EMPTY)
        return leases

    def _sort_out(self, found: object, limit: int) -> list[Lease]:
        """Report an answer of `claim` that is not as the contract says; return the leases of it that can run."""
        claimed = sort_out(found, limit, self._turns.order)
        self._failed("claim", OddAnswer(self._engine, "claim", "; it ".join(claimed.flaws)))
        if claimed.unknown:  # as above
            self._host.leave.leave(SURPRISE)
        if claimed.surplus:
            Gate.give_back(self, claimed.surplus)  # in this thread, which calls the engine
        return claimed.kept

    def _tell(self) -> None:
        """Report what the engine has noted about its jobs. An engine that fails here still serves jobs."""
        verb, failed = "wake", self._wake_error
        try:
            if failed is not None:
                self._wake_error = None
                raise failed
            verb = "stuck"
            self._stuck.tell()
            verb = "expired"
            for queue, count in checked(self._engine, verb, self._engine.expired(), Mapping).items():
                self.emit(JobsExpired(queue, count))
        except Exception as error:
            if verb not in self._failing:
                self._failing[verb] = (time.monotonic(), 0.0)
                self.emit(EngineFailed(verb, failure_of(self._engine, verb, error), 0.0))
        else:
            if self._failing:
                self._recovered("stuck")
                self._recovered("expired")

    def _found_none(self, at_once: bool) -> None:
        """Keep an engine that does not wait for jobs from making this process spin."""
        self._empty = self._empty + 1 if at_once else 0
        if self._empty == EMPTY:
            text = f"{name_of(self._engine)}.claim() returns nothing {EMPTY} times in a row without waiting for jobs"
            self.emit(EngineFailed("claim", text, PAUSE))
        if self._empty >= EMPTY:
            self._pause(PAUSE)

    async def aclaim(self, limit: int) -> Sequence[Lease]:
        """Claim at once if jobs are ready; otherwise wait in a thread, because the loop must turn."""
        leases = self.claim(limit, 0)
        if leases:
            return leases
        if self._waiters is None:
            self._waiters = ThreadPoolExecutor(max_workers=1, thread_name_prefix="claim")
        return await asyncio.get_running_loop().run_in_executor(self._waiters, self.claim, limit, LONG_WAIT)

    def _claimed(self, leases: Sequence[Lease], duration: float) -> None:
        self._turns.took(leases)
        counts = Counter(map(_queue, leases)) if len(self._turns.order) > 1 else {leases[0].queue: len(leases)}
        for queue, count in counts.items():
            self.emit(JobsClaimed(queue, count, duration))

    def start(self, lease: Lease, run: Run) -> bool:
        """Write the run into the ledger. Return False if the ledger is full: the job is released unstarted."""
        try:
            self._ledger.begin(lease, run)
        except OSError as error:
            if self._make_room():
                return self.start(lease, run)
            self._failed("start", error)
            self.give_back([lease])
            return False
        if self._failing:
            self._recovered("start")
        return True

    def _make_room(self) -> bool:
        """Free the ledger slots of collected settlements by settling them; return whether there were any."""
        waiting = bool(self._later)
        self.flush()
        return waiting

    def hold(self, queue: str, seconds: float) -> None:
        """Hold a queue for all processes on the store, or reopen it. Safe in threads."""
        try:
            self._engine.hold(queue, seconds)
        except Exception as error:  # nothing is lost: the next failures hold it
            self.emit(EngineFailed("hold", failure_of(self._engine, "hold", error), 0.0))

    def wake(self) -> None:
        """End the waiting claim, or the next one. Safe in a signal handler, and raises nothing."""
        self._empty = 0
        try:
            self._engine.wake()
        except Exception as error:  # the next claim reports it: a signal handler must not write a log
            self._wake_error = error

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)

    # --- settling ---------------------------------------------------------------------------------------------------

    def settle(self, lease: Lease, outcome: Outcome, row: int | None = None) -> None:
        """Settle a lease, now or later.

        Args:
            row: the row on which the job ran; None: it has not started.
        """
        started, settlement = time.monotonic(), Settlement(lease, outcome)
        if self._later:
            self._later.append(Unsettled(settlement, row))
            self.flush()
            return
        try:
            self._engine.settle((settlement,))
        except Exception as error:
            self._keep([Unsettled(settlement, row)], answer(error))
            return
        self._ledger.free(lease)
        if self.failures or self._failing:
            self._recovered("settle")
        if self._tells_settled:
            verb, seconds = VERBS[outcome.kind], time.monotonic() - started
            if not self._count_settled(lease.queue, verb, seconds):
                self.emit(JobsSettled(lease.queue, verb, 1, seconds))

    def settle_soon(self, lease: Lease, outcome: Outcome, row: int) -> None:
        """Collect a success, to settle it with others at the next `flush`. A rescuer needs only its outcome in the
        ledger."""
        if outcome is not SUCCEEDED or self._unsettled or self.failures:
            self.settle(lease, outcome, row)
        else:
            self._later.append(Unsettled(Settlement(lease, outcome), row))
            if len(self._later) >= TOGETHER:
                self.flush()

    def give_back(self, leases: Sequence[Lease]) -> None:
        """Release unstarted leases; no attempt is spent. Safe in threads."""
        if leases:
            leases = leases[::-1]  # the last released is the first in the queue
            items = [Unsettled(Settlement(lease, _RELEASED)) for lease in leases]
            self._end(items, lambda: self._engine.release(leases))

    def flush(self) -> None:
        """Settle now what was collected. Safe in threads."""
        items: list[Unsettled] = []
        with suppress(IndexError):
            while True:
                items.append(self._later.popleft())
        self._settle(items)

    def settle_late(self) -> bool:
        """Try again what could not be settled. Return True when nothing is left. Costs little in that case."""
        if self._unsettled and (due := self._unsettled.due()):
            self._settle(due)
            if not self._unsettled:
                for verb in list(self._failing):
                    self._recovered(verb)
        return not self._unsettled

    def rows(self) -> list[int]:
        """Return the rows on which the jobs ran that could not be settled."""
        return [item.row for item in self._unsettled.items() if item.row is not None]

    def leave_behind(self, engine_worked_at: float) -> str:
        """Decide, at the end of a drain, to leave leases that fail while the engine works for other processes.

        They stay claimed, with their outcomes in the ledger: the next rescue settles them.

        Args:
            engine_worked_at: when the engine last worked in another process, monotonic seconds.

        Returns:
            One line that names them; empty: the drain waits for them.
        """
        items = self._unsettled.items()
        if not items or engine_worked_at <= min(item.since for item in items) + LONE:
            return ""
        return f"jobs that cannot be settled stay claimed, for the next rescue: {names(items)}"

    def close(self) -> None:
        """Let the threads end; what is not settled by now stays claimed. Idempotent."""
        if self._waiters is not None:
            self.wake()  # a claim may wait for long, and Python waits for its thread at exit
            self._waiters.shutdown(wait=False, cancel_futures=True)

    def _settle(self, items: Sequence[Unsettled]) -> None:
        if items:
            self._end(items, lambda: self._engine.settle([item.settlement for item in items]))

    def _end(self, items: Sequence[Unsettled], call: Callable[[], None]) -> None:
        started = time.monotonic()
        try:
            call()
        except Exception as error:
            items = self._keep(items, answer(error))
            if not items:
                return
        for item in items:
            self._ledger.free(item.settlement.lease)
        failing = [item.since for item in items if item.failures]
        if failing or self.failures or self._failing:
            self._recovered("settle", *failing)
        if not self._tells_settled:
            return
        duration = time.monotonic() - started
        counts = Counter((item.settlement.lease.queue, item.settlement.outcome.kind) for item in items)
        for (queue, kind), count in counts.items():
            self.emit(JobsSettled(queue, VERBS[kind], count, duration))

    def _lost(self, items: Sequence[Unsettled], lost: LeaseLost) -> list[Unsettled]:
        """Report lost leases, unless a handler has closed descriptors and this process only looks in the wrong place.
        Return what was settled."""
        gone, others = parted(items, lost.leases)
        cause = self._host.check.cause(lost)  # why leases only seem to be lost
        if cause:
            for item in gone:
                self._unsettled.add(item)
            self._host.ruin(cause)
        else:
            leases = [item.settlement.lease for item in gone]
            for lease in leases:
                self._ledger.free(lease)
            for queue in {lease.queue for lease in leases}:
                self.emit(LeasesLost(queue, [lease.job.id for lease in leases if lease.queue == queue]))
        return others

    def _keep(self, items: Sequence[Unsettled], error: LeaseLost | EngineUnavailable) -> list[Unsettled]:
        """Keep leases for another try, or report them as lost; return what was settled. Other jobs go on, unless
        nothing works for a while: then the engine counts as failing, not these leases (a bad sector, an attribute of
        one file)."""
        if isinstance(error, LeaseLost):
            return self._lost(items, error)
        left, settled = parted(items, error.unsettled)
        if not left:  # it named none of them: perhaps none is settled
            left, settled = list(items), []
        delay = max((self._unsettled.add(item) for item in left), default=0.0)
        if new := [item for item in left if item.failures == 1]:
            self.emit(EngineFailed("settle", f"job {names(new)}: {error}", delay))
        if not settled and self._count_failure(error) >= CERTAIN:
            self._hold("settle")
        return settled

    # --- an engine that fails ---------------------------------------------------------------------------------------

    def _failed(self, verb: str, error: Exception) -> None:
        self.emit(EngineFailed(verb, str(error), self._hold(verb)))
        self._count_failure(error)

    def _hold(self, verb: str) -> float:
        """Stop claiming for a while, longer after each failure. Return the seconds."""
        now = time.monotonic()
        since, wait = self._failing.get(verb, (now, 0.0))
        wait = min(LAST_RETRY, max(FIRST_RETRY, wait * 2))
        self._failing[verb] = (since, wait)
        self._retry_at = max(self._retry_at, now + wait)
        return wait

    def _count_failure(self, error: Exception) -> int:
        """Count a failure; return how many calls to the engine have failed in a row."""
        self.failures += 1
        self.failing_since = self.failing_since if self.failures > 1 else time.monotonic()
        self._host.examine(error)
        return self.failures

    def _recovered(self, verb: str, *since: float) -> None:
        """Note that a verb works again, and report that.

        Args:
            since: when the leases failed that are settled now, monotonic seconds.
        """
        self.failures, self.doubtful = 0, False
        found = self._failing.pop(verb, None)
        failing = [*since, found[0]] if found is not None else since
        if failing:
            self.emit(EngineRecovered(verb, time.monotonic() - min(failing)))
