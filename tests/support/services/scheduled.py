"""A service with schedules, whose handler writes down each tick."""

from __future__ import annotations

from framework import Context, Cron, Every, Queue, RetryPolicy, WorkerApp
from tests.support.ledger import note


class Scheduled(WorkerApp):
    """Ticks of a second are as much as a test can wait for; all are made up for, so that none may be missing."""

    ticks = Queue[str](
        "ticks",
        retry=RetryPolicy(max_retries=1000, first_delay=0.1, factor=1),
        schedules=[
            Every(1, "second", missed="all"),
            Every(1.5, "more", missed="all"),
            Cron("0 0 1 1 *", "yearly", key="new year"),
        ],
    )

    @ticks.handler
    def tick(self, which: str, ctx: Context) -> None:
        assert ctx.scheduled_for is not None
        note(f"{which} {ctx.scheduled_for.timestamp():.3f} {ctx.job_id}")


PERIODS = {"second": 1.0, "more": 1.5}


def handled(lines: list[str], which: str) -> dict[float, set[str]]:
    """Return the ids of the jobs of each tick, from the lines of the ledger."""
    found: dict[float, set[str]] = {}
    for line in lines:
        name, tick, job_id = line.split()
        if name == which:
            found.setdefault(float(tick), set()).add(job_id)
    return dict(sorted(found.items()))


def broken(lines: list[str]) -> list[str]:
    """Return what is wrong: a tick between the first and the last without a job, or one with two."""
    found = []
    for which, period in PERIODS.items():
        ticks = handled(lines, which)
        found += [f"{which} {tick}: {len(ids)} jobs" for tick, ids in ticks.items() if len(ids) != 1]
        expected = [min(ticks, default=0.0) + period * number for number in range(len(ticks))]
        found += [f"{which}: no job for {tick}" for tick in expected if tick not in ticks]
    return found
