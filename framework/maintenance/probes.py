"""The state of a tree's processes, taken from the scoreboard for an orchestrator's probes and for metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from framework.maintenance import LONGEST_PAUSE, Maintenance
from framework.process.scoreboard import EXIT_REASONS, READY, STATES, Scoreboard, SlotState

ANSWERS = 5.0  # seconds after which an engine that does not answer fails


def processes(board: Scoreboard) -> list[tuple[str, int]]:
    """Return (state, number of slots in it) for all states."""
    counts = dict.fromkeys(STATES[1:4], 0)
    for slot in board.all_slots():
        if STATES[slot.state] in counts:
            counts[STATES[slot.state]] += 1
    return list(counts.items())


def restarts(board: Scoreboard) -> Mapping[str, int]:
    """Return how many processes have ended since the start, by reason."""
    totals = dict.fromkeys(EXIT_REASONS, 0)
    for slot in board.all_slots():
        for reason, count in zip(EXIT_REASONS, slot.exits, strict=True):
            totals[reason] += count
    del totals["drained"]  # an end, not a restart
    return totals


def probes(maintenance: Maintenance, board: Scoreboard) -> dict[str, Callable[[], str]]:
    """Return the probes by their names in the URL; each returns what is wrong, or an empty string."""

    def workers() -> list[SlotState]:
        return [slot for slot in board.all_slots() if slot.is_worker]

    def live() -> str:
        age = time.monotonic() - maintenance.turned_at
        if age >= 30:  # it may have stood still until a moment ago, like this thread: then it turns now
            time.sleep(LONGEST_PAUSE)
            age = time.monotonic() - maintenance.turned_at
        return "" if age < 30 else f"maintenance has not turned for {age:.0f} s"

    def ready() -> str:
        if not maintenance.engine_ok:
            return "the engine fails"
        if (waits := maintenance.waits) > ANSWERS:
            return f"the engine has not answered for {waits:.0f} s"
        return "" if any(slot.state == READY for slot in workers()) else "no worker is ready"

    def started() -> str:
        return "" if any(slot.ready for slot in workers()) else "no worker was ready yet"

    return {"livez": live, "readyz": ready, "startupz": started}
