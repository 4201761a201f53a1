"""The supervisor's loop: signals, deaths, deadlines, restarts, and the drain."""

from __future__ import annotations

import faulthandler
import os
import secrets
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from framework.events import (
    Draining,
    Event,
    ProcessBecameReady,
    ProcessExited,
    ProcessKilled,
    ProcessStarted,
    SupervisorNote,
)
from framework.scoreboard import (
    GONE,
    LEAVING,
    PLANNED,
    READY,
    TIMEOUT,
    RowState,
    Scoreboard,
    SlotState,
    before_deadline,
    process_start,
)
from framework.signals import SignalQueue, poke
from framework.supervisor import children, platform
from framework.supervisor.children import Birth, ChildSpec
from framework.supervisor.notify import Notifier
from framework.supervisor.place import Place, describe_exit, exit_reason
from framework.supervisor.policy import Budget

TURN = 0.5  # seconds between looks at the board: how late the SIGKILL may be of a job that began since the last one
LAST_BACKOFF = 1.0  # seconds: the jobs of the dead wait for whoever leaves last
DUMP_APART = 0.1  # seconds between the stack dumps of two processes
STUCK_AFTER = 30.0  # seconds without a turn of an idle child's loop
LEAST_GRACE = 0.1  # seconds that each of them has
LAST_GRACE = 0.5  # seconds after the drain deadline for the children that leave last
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
_FAILURES = ("crashed", "killed", "out_of_memory", "stuck", "failed_to_start")


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """Seconds; `drain` None = as long as it takes."""

    drain: float | None = 25.0
    restart_budget: int = 10
    restart_window: float = 60.0
    ready_within: float = 60.0


class Supervisor:
    """Keeps children alive until told to stop. Call `run` once, in the main thread of a process without threads.

    Args:
        specs: the children; those with `last` leave after the others.
        board: the scoreboard with a slot for each.
        options: times and budget.
        emit: takes the events.
        start: starts a child and returns its pid; `children.fork` unless the service's import made threads.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        board: Scoreboard,
        options: SupervisorOptions,
        emit: Callable[[Event], None],
        *,
        start: Callable[[ChildSpec, Birth], int] = children.fork,
    ) -> None:
        self._places = [Place(spec, start_at=0.0) for spec in specs]
        self._workers = [place for place in self._places if not place.spec.last]
        self._last = [place for place in self._places if place.spec.last]
        self._board = board
        self._options = options
        self._emit = emit
        self._start_child = start
        self._budget = Budget(options.restart_budget, options.restart_window)
        self._notifier = Notifier()
        self._exit_code = 0
        self._draining = False
        self._deadline: float | None = None
        self._ever_ready = False
        self._hard_at = float("inf")  # monotonic seconds: the next hard deadline of a running job
        self._announced = False
        self._renewing: list[tuple[Place, str]] = []  # and the life that shall end
        self._to_dump: list[Place] = []
        self._oom_kills = platform.oom_kills()

    def run(self) -> int:
        """Blocks until everything has ended; returns the exit code of DESIGN.md: 0, 1, 4 or 5."""
        if not platform.become_subreaper():
            self._note("no subreaper on this platform: processes that leave their group may be left behind", "warning")
        self._strangers_allowed = platform.children()
        self._signals = SignalQueue(_SIGNALS)
        self._poke_reader, self._poke = os.pipe()
        for descriptor in (self._poke_reader, self._poke):
            os.set_blocking(descriptor, False)
        self._began = time.monotonic()
        try:
            while not self._turn():
                self._signals.wait(self._patience())
        finally:
            self._kill_everything()
            self._signals.close()
        return self._exit_code

    # --- one turn ---------------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Everything that is due; True when nothing is left to do."""
        while (number := self._signals.take()) is not None:
            self._act_on(number)
        now = time.monotonic()
        self._notifier.watchdog(now)
        self._reap(now)
        self._look_at_board(now)
        self._check_first_ready(now)
        if self._draining and self._advance_drain(now):
            return True
        self._start_due(now)
        self._renew_next(now)
        self._dump_next()
        return False

    def _patience(self) -> float:
        """Seconds until something may be due."""
        if self._to_dump:
            return DUMP_APART
        now = time.monotonic()
        due = [at for place in self._places for at in (place.start_at, place.kill_at) if at is not None]
        return min([TURN, *(max(0.0, at - now) for at in (*due, self._hard_at))])

    def _act_on(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._draining:
                self._kill_workers("second signal")
            else:
                self._drain(number.name)
        elif number == signal.SIGHUP and not self._draining:
            self._note("SIGHUP: renewing the processes one by one (the code stays the one that was loaded)")
            self._renewing = [(place, place.incarnation) for place in self._workers if place.pid is not None]
        elif number == signal.SIGUSR1:
            faulthandler.dump_traceback(all_threads=True)
            self._to_dump = [place for place in self._places if place.ready]

    def _dump_next(self) -> None:
        """One process at a time: they write to the same place, and their stacks must not mix."""
        if self._to_dump:
            place = self._to_dump.pop(0)
            if place.pid is not None:
                children.dump_stacks(place.pid)

    # --- births -----------------------------------------------------------------------------------------------------

    def _start_due(self, now: float) -> None:
        # The last to leave come first: they rescue what an earlier life of this service left behind.
        for place in [*self._last, *self._workers]:
            if place.pid is None and place.start_at is not None and place.start_at <= now:
                self._start(place, now)

    def _start(self, place: Place, now: float) -> None:
        spec = place.spec
        incarnation = f"{spec.index:x}-{secrets.token_hex(8)}"
        birth = Birth(spec.name, spec.index, incarnation, os.getpid(), self._signals.waker, self._poke_reader)
        self._board.occupy(spec.index, incarnation)
        try:
            pid = self._start_child(spec, birth)
        except OSError as error:  # no memory, too many processes
            place.start_at = now + max(1.0, place.backoff.delay(uptime=0.0, failed=True))
            self._note(f"{spec.name} cannot be started: {error}", "error")
            return
        self._board.set_pid(spec.index, pid, process_start(pid))
        place.begin(pid, incarnation, now)
        self._emit(ProcessStarted(spec.name, pid))

    def _renew_next(self, now: float) -> None:
        """Tells the next process to leave once the previous one's successor is ready."""
        while self._renewing:
            place, old = self._renewing[0]
            if not place.ready or place.pid is None:
                return
            if place.incarnation == old:
                self._tell_to_leave(place, now)
                return
            self._renewing.pop(0)

    def _tell_to_leave(self, place: Place, now: float) -> None:
        if place.pid is None or place.leaving:
            return
        place.leaving = True
        if self._options.drain is not None:
            place.kill_at = now + self._options.drain - before_deadline(self._options.drain, 1.0)
        children.terminate(place.pid)

    # --- deaths -----------------------------------------------------------------------------------------------------

    def _reap(self, now: float) -> None:
        died = False
        while (pid := children.next_dead()) is not None:
            place = next((place for place in self._places if place.pid == pid), None)
            busy = self._board.busy_rows(place.spec.index) if place else []
            code = children.reap(pid)
            if place is not None:
                died = True
                self._bury(place, pid, code, busy, now)
        if died:
            known = {place.pid for place in self._places if place.pid is not None}
            strangers = children.kill_strangers(known | self._strangers_allowed)
            if strangers:
                self._note(f"killed {len(strangers)} processes that a dead worker left behind: {strangers}", "warning")
            poke(self._poke)

    def _bury(self, place: Place, pid: int, code: int, busy: list[RowState], now: float) -> None:
        place.ready = place.ready or bool(self._board.slot(place.spec.index).ready)
        kills = platform.oom_kills()
        reason = exit_reason(place, code, draining=self._draining, out_of_memory=kills > self._oom_kills)
        self._oom_kills = kills
        self._board.count_exit(place.spec.index, reason)
        if not place.killed:
            detail = "out of memory" if reason == "out_of_memory" else describe_exit(code)
            self._board.write_death(place.incarnation, detail)
        expected = reason in ("drained", "recycled", "timeout") or (place.leaving and place.killed != "")
        failed = reason in _FAILURES and not expected
        # A death under a job is charged to the job: it must not stop the service, nor slow the slot's neighbours.
        counts = failed and reason != "failed_to_start" and not (busy and place.ready)
        delay: float = place.backoff.delay(uptime=now - place.born_at, failed=failed and not busy)
        if place.spec.last:
            delay = min(delay, LAST_BACKOFF)
        place.end()
        again = not self._draining or (place.spec.last and self._still_needed(place))
        place.start_at = now + delay if again else None
        self._emit(ProcessExited(place.spec.name, pid, reason, code, delay if again else None, describe_exit(code)))
        if counts and place.spec.vital and not self._draining and self._budget.exceeded(now):
            self._exit_code = 4
            self._note(
                f"more than {self._options.restart_budget} processes died while idle or before they were ready within "
                f"{self._options.restart_window:g} s: giving up; last: {place.spec.name}, {describe_exit(code)}",
                "error",
            )
            self._drain("restart budget exceeded")

    def _still_needed(self, place: Place) -> bool:
        """One that leaves last and died early has work left: it hands back the jobs of the others."""
        return not place.leaving

    # --- what the board says ----------------------------------------------------------------------------------------

    def _look_at_board(self, now: float) -> None:
        self._hard_at = float("inf")
        for place in self._places:
            if place.pid is None or place.killed:
                continue
            slot = self._board.slot(place.spec.index)
            if not place.ready and slot.ready:
                self._became_ready(place, slot)
            self._enforce(place, slot, now)
        if not self._announced and all(place.ready for place in self._places if place.spec.vital):
            self._announced = True
            self._notifier.send("READY=1", f"STATUS={len(self._workers)} workers ready")

    def _became_ready(self, place: Place, slot: SlotState) -> None:
        place.ready = True
        self._ever_ready = self._ever_ready or not place.spec.last
        assert place.pid is not None
        self._emit(ProcessBecameReady(place.spec.name, place.pid, slot.ready / 1e9 - place.born_at))

    def _enforce(self, place: Place, slot: SlotState, now: float) -> None:
        busy = self._board.busy_rows(place.spec.index)
        guilty = overdue(busy, int(now * 1e9), slot.tick)
        coming = (row.hard / 1e9 for row in busy if row.hard / 1e9 > now)
        self._hard_at = min(self._hard_at, *coming, float("inf"))
        if guilty is not None:
            self._kill(place, "timeout", TIMEOUT, f"{len(guilty)} jobs past their hard timeout", guilty)
        elif place.kill_at is not None and now >= place.kill_at:
            self._end_late(place, slot)
        elif not place.ready and now - place.born_at > self._options.ready_within:
            self._kill(place, "failed_to_start", PLANNED, f"not ready within {self._options.ready_within:g} s")
        elif slot.state in (LEAVING, GONE) and not busy and place.kill_at is None and self._options.drain is not None:
            place.kill_at = now + self._options.drain  # it leaves by itself: its lifespan may hang
        elif place.ready and not busy and slot.state == READY and now - slot.tick / 1e9 > STUCK_AFTER:
            self._kill(place, "stuck", PLANNED, f"idle, and its loop has not turned for {STUCK_AFTER:g} s")

    def _end_late(self, place: Place, slot: SlotState) -> None:
        """It was told to leave, and has not. One that has handed back everything and only sends its telemetry may go on
        until the deadline, and does not make the drain a failed one: a dead collector is no reason for exit code 5."""
        settled = slot.state == GONE
        if settled and not (place.flushing or place.spec.last):
            place.flushing = True
            place.kill_at = (place.kill_at or 0.0) + before_deadline(self._options.drain or 0.0, 1.0)
            return
        if self._draining and not settled and place.spec.vital:
            self._exit_code = self._exit_code or 5
        self._kill(place, "drained", PLANNED, "told to leave, and did not in time")

    def _kill(self, place: Place, reason: str, kind: int, why: str, guilty: Sequence[int] | None = None) -> None:
        assert place.pid is not None
        # The verdict first: a rescuer that finds the body must already find it.
        self._board.write_verdict(place.incarnation, kind, guilty)
        place.killed = reason
        self._emit(ProcessKilled(place.spec.name, place.pid, "timeout" if kind == TIMEOUT else "planned", why))
        children.kill_group(place.pid)

    def _check_first_ready(self, now: float) -> None:
        if self._ever_ready or self._draining or now - self._began <= self._options.ready_within:
            return
        if self._workers:
            self._exit_code = 1
            self._note(f"no worker became ready within {self._options.ready_within:g} s: giving up", "error")
            self._drain("never ready")

    # --- the end ----------------------------------------------------------------------------------------------------

    def _drain(self, why: str) -> None:
        """One monotonic deadline for everything that follows."""
        now = time.monotonic()
        self._draining = True
        self._renewing = []
        self._notifier.send("STOPPING=1", f"STATUS=draining: {why}")
        drain = self._options.drain
        if drain is not None:
            self._deadline = now + drain
            self._board.deadline = int(self._deadline * 1e9)
        self._emit(Draining(why, drain if drain is not None else 0.0))
        for place in self._workers:
            place.start_at = None
            if place.pid is not None:
                place.leaving = True
                if self._deadline is not None and drain is not None:
                    place.kill_at = self._deadline - before_deadline(drain, 1.0)
                children.terminate(place.pid)

    def _advance_drain(self, now: float) -> bool:
        """True when the last process is gone."""
        if any(place.pid is not None for place in self._workers):
            return False
        for place in self._last:
            if place.pid is not None and not place.leaving:
                place.leaving = True
                # One deadline for all that leave last, whenever their turn comes.
                end = now if self._deadline is None else self._deadline
                place.kill_at = max(end + LAST_GRACE, now + LEAST_GRACE)
                children.terminate(place.pid)
            elif place.pid is None and place.start_at is not None and now < (self._deadline or now + 1):
                place.start_at = now  # died while the others drained: it has work left, and no time for a backoff
                break
            elif place.pid is None:
                place.leaving = True
                place.start_at = None
            if place.pid is not None:
                break  # the next one may still be needed by this one
        return all(place.pid is None and place.start_at is None for place in self._last)

    def _kill_workers(self, why: str) -> None:
        for place in self._workers:
            if place.pid is not None and not place.killed:
                self._kill(place, "drained", PLANNED, why)
                self._exit_code = self._exit_code or 5

    def _kill_everything(self) -> None:
        """Nothing is left behind, whatever made the loop end."""
        for place in self._places:
            if place.pid is not None:
                self._board.write_verdict(place.incarnation, PLANNED)
                children.kill_group(place.pid)
                children.reap(place.pid)
                place.end()
        children.kill_strangers(self._strangers_allowed)

    def _note(self, text: str, level: str = "info") -> None:
        self._emit(SupervisorNote(text, level))  # type: ignore[arg-type]


def overdue(busy: Sequence[RowState], now: int, tick: int) -> list[int] | None:
    """Rows to charge when the process must be killed now; None: it must not (yet).

    The others get the time that their own deadlines give them: the process dies when every job that still runs is past
    its hard one. Where one job's code holds the event loop they cannot use that time: then it dies at that job's hard
    deadline, and only that job is charged.
    """
    late = [row for row in busy if row.hard and now >= row.hard]
    if not late:
        return None
    blocking = [row for row in late if row.on_cpu]
    loop_stands_still = len(busy) > 1 and now - tick > 2_000_000_000
    if blocking and loop_stands_still:
        return [row.row for row in blocking]
    return [row.row for row in late] if len(late) == len(busy) else None
