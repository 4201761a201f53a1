"""The gate to an engine that is not local: one thread calls it, and successes are settled together."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from framework.engine.answers import OddAnswer, lost_of
from framework.engine.ledger import Ledger
from framework.engine.port import Engine
from framework.model.errors import answer
from framework.model.events import EngineFailed, LeasesLost
from framework.model.job import Lease, Run
from framework.model.outcome import Kind, Outcome, Settlement
from framework.worker.gate.engine_thread import EngineThread
from framework.worker.gate.gate import WAIT, Gate
from framework.worker.gate.unsettled import Unsettled

if TYPE_CHECKING:
    from framework.worker.core import WorkerCore

MOST = 256  # settlements that are collected for one call
LOOK_EVERY = 1.0  # seconds between questions whether this process still owns the leases of its running jobs
FIRST_LOOK = 0.05  # age in seconds of a run at its first question, with which the engine notes that it has started
LAST_CALLS = 5.0  # seconds at the end for the calls in progress


class ThreadGate(Gate):
    """The gate to a remote engine. One thread makes all calls, so none runs on an event loop, and no two at the same
    time.

    A success waits up to `settle_delay` for others; any other outcome is settled at once, and the waiting successes
    with it. All are settled before the next claim. A claim waits in the same thread: when another call or a settlement
    is due, the claim is ended, returns nothing and is repeated. So an engine needs no second connection for claims.

    While handlers run, the engine is asked whether this process still owns their leases: see `on_lost`. The first
    question of a run tells a shared engine that the job has started, so that it is charged if this machine dies.

    Attributes:
        later: calls a function after some seconds in the thread that settles (an event loop's `call_later`); None:
            there is no loop, and a waiting claim is ended at the first settlement.
    """

    def __init__(self, engine: Engine, ledger: Ledger, host: WorkerCore) -> None:
        super().__init__(engine, ledger, host)
        self.settle_delay = engine.features.settle_delay
        self._running: dict[int, tuple[float, Lease]] = {}  # by id() of the lease, with the moment of the first look
        self._looked, self._look_at = 0.0, math.inf
        self._thread = EngineThread(self.wake, self._on_due)
        self._retrying = False
        self._durations: deque[float] = deque(maxlen=16)  # of claims that found jobs
        self.later: Callable[[float, Callable[[], None]], object] | None = None

    def claim(self, limit: int, wait: float) -> Sequence[Lease]:
        """Claim in the thread, and wait for the result."""
        leases: Sequence[Lease] = self._thread.call(self._claim, limit, wait).result()
        return leases

    async def aclaim(self, limit: int) -> Sequence[Lease]:
        """Claim in the thread while the event loop turns."""
        leases: Sequence[Lease] = await asyncio.wrap_future(self._thread.call(self._claim, limit, WAIT))
        return leases

    def start(self, lease: Lease, run: Run) -> bool:
        """Write the run into the ledger, and have its lease checked regularly."""
        if not super().start(lease, run):
            return False
        first = time.monotonic() + FIRST_LOOK
        self._running[id(lease)] = first, lease
        if first < self._look_at:
            self._look_at = first
            self._thread.by(first)
            if self.later is not None:  # a claim may wait already
                self.later(FIRST_LOOK, self._make_way)
        return True

    def _make_way(self) -> None:
        """End a waiting claim for the first look at a run, if one lasts that long."""
        now = time.monotonic()
        if any(self._looked < first <= now for first, _ in list(self._running.values())):
            self._thread.step_aside()

    def _make_room(self) -> bool:
        return False  # the thread makes room, but not at once

    def settle(self, lease: Lease, outcome: Outcome, row: int | None = None) -> None:
        """Collect a settlement, and have all settled in time."""
        self._running.pop(id(lease), None)
        if outcome.kind is Kind.LEASE_LOST:
            self._ledger.free(lease)
            self.emit(LeasesLost(lease.queue, [lease.job.id]))
            return
        first = not self._later
        self._later.append(Unsettled(Settlement(lease, outcome), row))
        if outcome.kind is not Kind.SUCCEEDED or len(self._later) >= MOST or not self.settle_delay:
            self.flush()
        elif first:
            self._thread.by(time.monotonic() + self.settle_delay)
            if self.later is None:
                self._thread.step_aside()
            else:
                self.later(self.settle_delay, self._thread.step_aside)

    def settle_soon(self, lease: Lease, outcome: Outcome, row: int) -> None:
        """Settle as `settle` does, which collects successes anyway."""
        self.settle(lease, outcome, row)

    def give_back(self, leases: Sequence[Lease]) -> None:
        """Release unstarted leases in the thread, soon."""
        if leases:
            self._thread.tell(super().give_back, leases)

    def hold(self, queue: str, seconds: float) -> None:
        """Hold the queue, or reopen it, in the thread, soon."""
        self._thread.tell(super().hold, queue, seconds)

    def flush(self) -> None:
        """Have the thread settle now what was collected."""
        if self._later:
            self._thread.by(time.monotonic())
            self._thread.step_aside()

    def settle_late(self) -> bool:
        """Have the thread try again what could not be settled. Return True when nothing is left. Raises what an earlier
        call raised whose result nothing waited for."""
        self._thread.check()
        if self._unsettled and not self._retrying and self._unsettled.is_due():
            self._retrying = True
            self._thread.tell(self._retry)
        return not (self._later or self._thread.busy or self._unsettled)  # in this order, so that nothing is missed

    def close(self) -> None:
        """Settle what was collected, and end the thread."""
        self._thread.close(LAST_CALLS)
        super().close()

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _claim(self, limit: int, wait: float) -> Sequence[Lease]:
        self._flush()
        claim = super().claim
        leases: Sequence[Lease] = self._thread.waiting(lambda seconds: claim(limit, seconds), wait)
        return leases

    def _claimed(self, leases: Sequence[Lease], duration: float) -> None:
        self._durations.append(duration)
        self.claim_seconds = min(self._durations)  # mostly one that did not have to wait
        super()._claimed(leases, duration)

    def _pause(self, seconds: float) -> None:
        self._thread.pause(seconds)

    def _on_due(self) -> None:
        self._flush()
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = math.inf  # first: a job that starts now and that this look misses schedules the next one
            running = list(self._running.values())
            if any(self._looked < first <= now for first, _ in running) or now >= self._looked + LOOK_EVERY:
                self._looked = now
                self._look([lease for first, lease in running if first <= now])
            later = [first if first > now else self._looked + LOOK_EVERY for first, _ in running]
            self._look_at = min(self._look_at, *later) if later else self._look_at
        if self._look_at < math.inf:
            self._thread.by(self._look_at)

    def _look(self, running: Sequence[Lease]) -> None:
        if not running:
            return
        try:
            for lease in lost_of(self._engine, running):
                self.on_lost(lease)
            self._host.cancelled.look(running)
        except OddAnswer as error:
            if "lost" not in self._failing:
                self._failing["lost"] = (time.monotonic(), 0.0)
                self.emit(EngineFailed("lost", str(error), LOOK_EVERY))
        except Exception as error:  # other calls report that the engine fails
            answer(error)

    def _flush(self) -> None:
        items: list[Unsettled] = []
        while self._later and len(items) < MOST:
            items.append(self._later.popleft())
        self._settle(items)
        if self._later:
            self._thread.by(time.monotonic())

    def _retry(self) -> None:
        self._retrying = False
        super().settle_late()
