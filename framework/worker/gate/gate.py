"""The only caller of the engine in a worker: claims, starts, settlements, and patience with an engine that fails."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from framework.engine.ledger import Ledger
from framework.engine.port import VERBS, Broker
from framework.engine.stuck import StuckJobs
from framework.model.errors import EngineUnavailable, LeaseLost, answer
from framework.model.events import (
    EngineFailed,
    EngineRecovered,
    Event,
    JobsClaimed,
    JobsExpired,
    JobsSettled,
    LeasesLost,
)
from framework.model.job import Lease, Run
from framework.model.outcome import SUCCEEDED, Kind, Outcome, Settlement
from framework.worker.gate.turns import Turns
from framework.worker.gate.unsettled import FIRST_RETRY, LAST_RETRY, Unsettled, UnsettledLeases

WAIT = 1.0  # seconds that one claim waits for a job: a worker's loop turns at least so often
LONG_WAIT = 5.0  # the same, where a loop turns beside it
CERTAIN = 3  # failures of the engine in a row after which it fails, and not these leases
LONE = 1.5  # seconds for which a lease could not be settled while the engine works: a drain does not wait for it
TOGETHER = 32  # settlements that wait for each other, each with its slot of the ledger
MOST_NAMED = 5  # jobs in one line
_RELEASED = Outcome(Kind.RELEASED)


class Gate:
    """Calls a local engine where it is asked to. For others see `ThreadGate`.

    A lease that cannot be settled is kept and tried again, until the process ends; other jobs go on meanwhile.

    Args:
        broker: open engine.
        ledger: of this process: a lease has its slot until it is settled.
        weights: of the queues from which this worker claims, by name.
        emit: takes events.
        tells_settled: whether JobsSettled are wanted.
        count_settled: counts one (queue, verb, seconds) without an event; False: it does not.
        doubt: is asked after each failure whether this process itself is the cause.
        lost_here: why leases only seem to be lost: this process looks in the wrong place. Empty: they are lost.
        ruin: ends a process that can do nothing more.

    Attributes:
        failures: calls that have failed in a row; failing_since: monotonic seconds.
        doubtful: the engine fails, and the state of this process would explain it.
        on_surprise: called when a claim has raised what the contract does not know. In any thread.
        on_lost: takes a lease that has become another worker's while its handler runs, again and again until that ends.
            In any thread.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        weights: Mapping[str, int],
        *,
        emit: Callable[[Event], None],
        tells_settled: bool,
        count_settled: Callable[[str, str, float], bool],
        doubt: Callable[[BaseException], None],
        lost_here: Callable[[LeaseLost], str],
        ruin: Callable[[str], None],
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._turns = Turns(weights)
        self.emit = emit
        self._tells_settled = tells_settled
        self._count_settled = count_settled
        self._doubt = doubt
        self._lost_here = lost_here
        self._ruin = ruin
        self._stuck = StuckJobs(broker, emit)
        self._unsettled = UnsettledLeases()
        self._later: deque[Unsettled] = deque()
        self._failing: dict[str, tuple[float, float]] = {}  # verb: since when, wait before the next try
        self._retry_at = 0.0
        self._waiters: ThreadPoolExecutor | None = None
        self.failures, self.failing_since = 0, 0.0
        self.doubtful = False
        self.on_surprise: Callable[[], object] = lambda: None
        self.on_lost: Callable[[Lease], object] = lambda lease: None

    # --- claiming and starting --------------------------------------------------------------------------------------

    def claim(self, limit: int, wait: float) -> Sequence[Lease]:
        """Leases, or none; an engine that fails is asked again later and later."""
        now = time.monotonic()
        if now < self._retry_at:
            self._pause(min(wait, self._retry_at - now))
            return ()
        try:
            leases = self._broker.claim(self._turns.order, limit=limit, wait=wait)
        except Exception as error:
            known = answer(error)
            self._failed("claim", known)
            if known is not error:  # who knows what it has claimed and not returned: the end of this process frees that
                self.on_surprise()
            return ()
        self._recovered("claim")
        self._stuck.tell()
        for queue, count in self._broker.expired().items():
            self.emit(JobsExpired(queue, count))
        if leases:
            self._claimed(leases, time.monotonic() - now)
        return leases

    async def aclaim(self, limit: int) -> Sequence[Lease]:
        """Claim at once, else wait in a thread: the loop must turn meanwhile."""
        leases = self.claim(limit, 0)
        if leases:
            return leases
        if self._waiters is None:
            self._waiters = ThreadPoolExecutor(max_workers=1, thread_name_prefix="claim")
        return await asyncio.get_running_loop().run_in_executor(self._waiters, self.claim, limit, LONG_WAIT)

    @property
    def settle_delay(self) -> float:
        """Return for how long a settlement may wait for others, in seconds."""
        return 0.0

    @property
    def claim_seconds(self) -> float:
        """Return what a claim costs beside its system calls, in seconds: a way to a server and back."""
        return 0.0

    def _claimed(self, leases: Sequence[Lease], duration: float) -> None:
        self._turns.took(leases)
        if len(self._turns.order) == 1:
            self.emit(JobsClaimed(leases[0].queue, len(leases), duration))
        else:
            for queue, count in Counter(lease.queue for lease in leases).items():
                self.emit(JobsClaimed(queue, count, duration))

    def start(self, lease: Lease, run: Run) -> bool:
        """Write the run into the ledger. False: it has no room, and the job goes back unstarted."""
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
        """Free the ledger's slots of those that wait to be settled; return whether there were any."""
        waiting = bool(self._later)
        self.flush()
        return waiting

    def wake(self) -> None:
        """End a claim that waits, or the next one. Safe in a signal handler."""
        self._broker.wake()

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)

    # --- settling ---------------------------------------------------------------------------------------------------

    def settle(self, lease: Lease, outcome: Outcome, row: int | None = None) -> None:
        """Settle a lease, now or later.

        Args:
            row: where it ran; None = it has not started.
        """
        started, settlement = time.monotonic(), Settlement(lease, outcome)
        if self._later:
            self._later.append(Unsettled(settlement, row))
            self.flush()
            return
        try:
            self._broker.settle((settlement,))
        except Exception as error:
            self._in_part([Unsettled(settlement, row)], answer(error))
            return
        self._ledger.free(lease)
        if self.failures or self._failing:
            self._recovered("settle")
        if self._tells_settled:
            verb, seconds = VERBS[outcome.kind], time.monotonic() - started
            if not self._count_settled(lease.queue, verb, seconds):
                self.emit(JobsSettled(lease.queue, verb, 1, seconds))

    def settle_soon(self, lease: Lease, outcome: Outcome, row: int) -> None:
        """Settle a success with those after it, at the next `flush`; what the ledger says is enough for a rescuer."""
        if outcome is not SUCCEEDED or self._unsettled or self.failures:
            self.settle(lease, outcome, row)
        else:
            self._later.append(Unsettled(Settlement(lease, outcome), row))
            if len(self._later) >= TOGETHER:
                self.flush()

    def give_back(self, leases: Sequence[Lease]) -> None:
        """Unstarted leases return to their place; no attempt is spent. Safe in threads."""
        if leases:
            self._give_back(leases)

    def flush(self) -> None:
        """Settle now what waits to be settled with others. Safe in threads."""
        items: list[Unsettled] = []
        with suppress(IndexError):
            while True:
                items.append(self._later.popleft())
        if items:
            self._settle(items)

    def settle_late(self) -> bool:
        """Try what could not be settled; True when nothing is left. Cheap when nothing is."""
        if self._unsettled and (due := self._unsettled.due()):
            self._settle(due)
            if not self._unsettled:
                for verb in list(self._failing):
                    self._recovered(verb)
        return not self._unsettled

    def rows(self) -> list[int]:
        """Return where the jobs ran that could not be settled."""
        return [item.row for item in self._unsettled.items() if item.row is not None]

    def leave_behind(self, engine_worked_at: float) -> str:
        """At the end of a drain: leave leases that fail while the engine works for others. They stay claimed, with
        their outcomes in the ledger: the next rescue finishes them.

        Args:
            engine_worked_at: when it last did in another process, monotonic seconds.

        Returns:
            a line that names them; empty: the drain waits for them.
        """
        items = self._unsettled.items()
        if not items or engine_worked_at <= min(item.since for item in items) + LONE:
            return ""
        return f"jobs that cannot be settled stay claimed, for the next rescue: {_names(items)}"

    def close(self) -> None:
        """Let go of threads; what is not settled by now stays claimed. Idempotent."""
        if self._waiters is not None:
            self.wake()  # a claim may wait for long, and Python waits for its thread
            self._waiters.shutdown(wait=False, cancel_futures=True)

    def _give_back(self, leases: Sequence[Lease]) -> None:
        leases = leases[::-1]  # what is released last comes first again
        items = [Unsettled(Settlement(lease, _RELEASED)) for lease in leases]
        self._end(items, lambda: self._broker.release(leases))

    def _settle(self, items: Sequence[Unsettled]) -> None:
        self._end(items, lambda: self._broker.settle([item.settlement for item in items]))

    def _end(self, items: Sequence[Unsettled], call: Callable[[], None]) -> None:
        started = time.monotonic()
        try:
            call()
        except Exception as error:
            items = self._in_part(items, answer(error))
        if items:
            self._settled(items, started)

    def _in_part(self, items: Sequence[Unsettled], error: LeaseLost | EngineUnavailable) -> list[Unsettled]:
        """Keep or report what a call could not settle; return what it has settled."""
        return self._lost(items, error) if isinstance(error, LeaseLost) else self._keep(items, error)

    def _settled(self, items: Sequence[Unsettled], started: float) -> None:
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
        """Report lost leases, unless the process only looks in the wrong place: a handler has closed descriptors.
        Return what was settled."""
        gone, others = _parted(items, lost.leases)
        cause = self._lost_here(lost)
        if cause:
            for item in gone:
                self._unsettled.add(item)
            self._ruin(cause)
        else:
            for item in gone:
                self._ledger.free(item.settlement.lease)
            for queue in {item.settlement.lease.queue for item in gone}:
                ids = [item.job_id for item in gone if item.settlement.lease.queue == queue]
                self.emit(LeasesLost(queue, ids))
        return others

    def _keep(self, items: Sequence[Unsettled], error: EngineUnavailable) -> list[Unsettled]:
        """Try leases again later. Other jobs go on meanwhile, unless nothing works for a while: then the engine fails,
        and not these leases (a bad sector, an attribute of one file). Return what was settled."""
        left, settled = _parted(items, error.unsettled or [item.settlement.lease for item in items])
        delay = max((self._unsettled.add(item) for item in left), default=0.0)
        if new := [item for item in left if item.failures == 1]:
            self.emit(EngineFailed("settle", f"job {_names(new)}: {error}", delay))
        if not settled and self._count_failure(error) >= CERTAIN:
            self._hold("settle")
        return settled

    # --- an engine that fails ---------------------------------------------------------------------------------------

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
        self.failures += 1
        self.failing_since = self.failing_since if self.failures > 1 else time.monotonic()
        self._doubt(error)
        return self.failures

    def _recovered(self, verb: str, *since: float) -> None:
        """A verb works.

        Args:
            since: when leases had failed that are settled now, monotonic seconds.
        """
        self.failures, self.doubtful = 0, False
        found = self._failing.pop(verb, None)
        failing = [*since, found[0]] if found is not None else since
        if failing:
            self.emit(EngineRecovered(verb, time.monotonic() - min(failing)))


def _parted(items: Sequence[Unsettled], leases: Sequence[Lease]) -> tuple[list[Unsettled], list[Unsettled]]:
    """Return the items of these leases, and the others."""
    wanted = {_key(lease) for lease in leases}
    named = [item for item in items if _key(item.settlement.lease) in wanted]
    return named, [item for item in items if _key(item.settlement.lease) not in wanted]


def _key(lease: Lease) -> tuple[bytes, int]:
    return lease.job.uid, lease.delivery


def _names(items: Sequence[Unsettled]) -> str:
    ids = ", ".join(repr(item.job_id) for item in items[:MOST_NAMED])
    return f"{ids} and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ids
