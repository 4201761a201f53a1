"""The supervisor's look at the board: who became ready, and whom a deadline ends."""

from __future__ import annotations

import time
from collections.abc import Sequence

from framework.events import ProcessBecameReady
from framework.scoreboard import GONE, LEAVING, PLANNED, READY, TIMEOUT, RowState, SlotState, before_deadline
from framework.supervisor.drain import Drain
from framework.supervisor.notify import Notifier
from framework.supervisor.place import Place
from framework.supervisor.tree import Tree

STUCK_AFTER = 30.0  # seconds without a turn of an idle child's loop


class Watch:
    """Keeps the deadlines of the children and of what they run.

    Attributes:
        hard_at: monotonic seconds of the next hard deadline of a running job.
    """

    def __init__(self, tree: Tree, drain: Drain, notifier: Notifier) -> None:
        self._tree = tree
        self._drain = drain
        self._notifier = notifier
        self._began = time.monotonic()
        self._announced = False
        self._ever_ready = False
        self.hard_at = float("inf")

    def look(self, now: float) -> None:
        """Reads the board once, and acts on it."""
        tree = self._tree
        self.hard_at = float("inf")
        for place in tree.places:
            if place.pid is None or place.killed:
                continue
            slot = tree.board.slot(place.spec.index)
            if not place.ready and slot.ready:
                self._became_ready(place, slot)
            self._enforce(place, slot, now)
        if not self._announced and all(place.ready for place in tree.places if place.spec.vital):
            self._announced = True
            self._notifier.send("READY=1", f"STATUS={len(tree.workers)} workers ready")
        self._check_first_ready(now)

    def _became_ready(self, place: Place, slot: SlotState) -> None:
        place.ready = True
        self._ever_ready = self._ever_ready or not place.spec.last
        assert place.pid is not None
        self._tree.emit(ProcessBecameReady(place.spec.name, place.pid, slot.ready / 1e9 - place.born_at))

    def _enforce(self, place: Place, slot: SlotState, now: float) -> None:
        options, kill = self._tree.options, self._tree.kill
        busy = self._tree.board.busy_rows(place.spec.index)
        guilty = overdue(busy, int(now * 1e9), slot.tick)
        coming = (row.hard / 1e9 for row in busy if row.hard / 1e9 > now)
        self.hard_at = min(self.hard_at, *coming, float("inf"))
        if guilty is not None:
            kill(place, "timeout", TIMEOUT, f"{len(guilty)} jobs past their hard timeout", guilty)
        elif place.kill_at is not None and now >= place.kill_at:
            self._end_late(place, slot)
        elif not place.ready and now - place.born_at > options.ready_within:
            kill(place, "failed_to_start", PLANNED, f"not ready within {options.ready_within:g} s")
        elif slot.state in (LEAVING, GONE) and not busy and place.kill_at is None and options.drain is not None:
            place.kill_at = now + options.drain  # it leaves by itself: its lifespan may hang
        elif place.ready and not busy and slot.state == READY and now - slot.tick / 1e9 > STUCK_AFTER:
            kill(place, "stuck", PLANNED, f"idle, and its loop has not turned for {STUCK_AFTER:g} s")

    def _end_late(self, place: Place, slot: SlotState) -> None:
        """It was told to leave, and has not. One that has handed back everything and only sends its telemetry may go on
        until the deadline, and does not make the drain a failed one: a dead collector is no reason for exit code 5."""
        tree, settled = self._tree, slot.state == GONE
        if settled and not (place.flushing or place.spec.last):
            place.flushing = True
            place.kill_at = (place.kill_at or 0.0) + before_deadline(tree.options.drain or 0.0, 1.0)
            return
        if tree.draining and not settled and place.spec.vital:
            tree.exit_code = tree.exit_code or 5
        tree.kill(place, "drained", PLANNED, "told to leave, and did not in time")

    def _check_first_ready(self, now: float) -> None:
        tree = self._tree
        if self._ever_ready or tree.draining or now - self._began <= tree.options.ready_within:
            return
        if tree.workers:
            tree.exit_code = 1
            tree.note(f"no worker became ready within {tree.options.ready_within:g} s: giving up", "error")
            self._drain.begin("never ready")


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
