"""All interleavings of two or three processes in the small protocols, step by step at the seam.

MOST=schedules of each (0: all). Alone: `python -m tests.faults.explorer`.
"""

from __future__ import annotations

import itertools
import time

from .diskmodel import somewhere
from .protocol import Protocol, waiting_by_turns
from .report import Report, number, print_and_exit
from .scheduler import Deadlock, Turns, schedules
from .small_protocols import PROTOCOLS


def explore(name: str, *, most: int = 10**9, until: float = float("inf")) -> tuple[int, bool, str]:
    """(schedules, whether that was all, what is broken and in which schedule; empty = nothing) of one protocol."""
    current: list[Protocol] = []
    with somewhere() as place, waiting_by_turns() as clock:
        numbers = itertools.count()

        def start() -> Turns:
            clock.turns = None
            while current:  # a run for which another one stands
                current.pop().close()
            current.append(PROTOCOLS[name](place / str(next(numbers))))
            turns = clock.turns = Turns(current[-1].works)
            return turns

        def finish(turns: Turns) -> None:
            made = current.pop()
            clock.turns = None
            for process in turns.processes:
                process.seam.disarm()
                if process.error is not None:
                    raise AssertionError(repr(process.error)) from process.error
            made.check(turns)
            made.close()

        tried = 0
        try:
            for _ in schedules(start, finish, most=most):
                tried += 1
                if time.monotonic() > until:
                    return tried, False, ""
        except (AssertionError, Deadlock) as error:
            return tried, False, f"schedule {tried + 1}: {error}"
        return tried, tried < most, ""


def run(budget_seconds: float) -> Report:
    """All protocols."""
    report = Report("explorer")
    most = int(number("MOST", 0)) or 10**9
    end = time.monotonic() + budget_seconds
    total = 0
    for at, name in enumerate(PROTOCOLS):
        now = time.monotonic()
        tried, whole, broken = explore(name, most=most, until=now + max(1.0, (end - now) / (len(PROTOCOLS) - at)))
        total += tried
        report.tried[name] = f"{tried} schedules{'' if whole else ', not all'}"
        report.expect(not broken, f"{name}: {broken}")
        print(f"  {name:<48} {report.tried[name]} {broken}", flush=True)
    report.tried["schedules"] = total
    report.part = "not all schedules" if any("not all" in str(found) for found in report.tried.values()) else ""
    return report


if __name__ == "__main__":
    print_and_exit(run(60 * number("BUDGET", 10)))
