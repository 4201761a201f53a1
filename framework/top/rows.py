"""Columns and cells of queues, of what runs, of failures and of jobs: plain text, with all foreign text escaped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from framework.admin.dead import Group
from framework.admin.jobs import last_failure
from framework.admin.queues import QueueView
from framework.engine.port import JobView
from framework.model.text.printable import escape
from framework.model.text.spans import span
from framework.top.watch import Overview, Running, Target, shortened

UNKNOWN = "-"
Item = QueueView | Running | Group | JobView


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        number: aligned to the right.
        alarming: anything in it but 0 is.
        rank: where there is not enough room, columns of a high rank are left out first; 0: never.
        most: characters at most; None: this column gets the room that the others leave.
    """

    title: str
    number: bool = False
    alarming: bool = False
    rank: int = 0
    most: int | None = 30


@dataclass(frozen=True, slots=True)
class Row:
    """A row. `key` tells it from the others, also in the next look; `item` is what it shows."""

    key: str
    cells: Sequence[str]
    item: Item


QUEUES = (
    Column("queue", most=None), Column("state", alarming=True, rank=1, most=12), Column("ready", number=True),
    Column("oldest", number=True), Column("running", number=True, rank=2),
    Column("delayed", number=True, rank=4), Column("dead", number=True, alarming=True),
    Column("bad", number=True, alarming=True, rank=5), Column("done/s", number=True, rank=3),
)  # fmt: skip
RUNNING = (
    Column("job", most=36), Column("queue", rank=2), Column("worker", rank=3), Column("for", number=True),
    Column("left", number=True, rank=4), Column("progress", rank=1, most=None),
)  # fmt: skip
FAILURES = (
    Column("count", number=True, alarming=True), Column("queue", rank=1), Column("reason", rank=3),
    Column("error"), Column("last", number=True, rank=2), Column("message", rank=4, most=None),
)  # fmt: skip
JOBS = (
    Column("job", most=36), Column("state"), Column("on", rank=2), Column("since", number=True, rank=1),
    Column("tries", number=True, rank=3), Column("error", rank=4, most=None),
)  # fmt: skip


def target(item: Item) -> Target:
    """Return what a job is found by."""
    if isinstance(item, JobView):
        return item.queue, item.job.id, item.job.uid
    assert isinstance(item, Running)
    return item.queue, item.job_id, None


def of_queues(seen: Overview) -> list[Row]:
    """Return a row for each queue."""
    return [Row(one.name, _queue(one, seen.rates.get(one.name)), one) for one in seen.queues]


def _queue(one: QueueView, rate: float | None) -> tuple[str, ...]:
    stats = one.stats
    oldest = span(stats.oldest_age) if stats.ready and stats.oldest_age is not None else UNKNOWN
    counts = (_count(count) for count in (stats.in_flight, stats.delayed, stats.dead, stats.bad))
    done = UNKNOWN if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
    return (_line(one.name), state_of(one), _count(stats.ready), oldest, *counts, done)


def state_of(one: QueueView) -> str:
    """Return a word for what is unusual about a queue; empty: nothing is."""
    stats = one.stats
    if one.error:
        return "unreadable"
    if stats.paused or stats.held:
        return "paused" if stats.paused else "held"
    return "no handler" if one.is_stranded else ""


def of_running(found: Sequence[Running]) -> list[Row]:
    """Return a row for each job that runs or is claimed."""
    return [Row(f"{one.queue}:{shortened(one.job_id)}", _running(one), one) for one in found]


def _running(one: Running) -> tuple[str, ...]:
    hard, far = (None, None) if one.run is None else (one.run.hard, one.run.progress)
    left = UNKNOWN if hard is None else span(max(0.0, hard - time.time()))
    worker = _line(one.worker) or "(claimed)"
    return _line(one.job_id), _line(one.queue), worker, _ago(one.since), left, "" if far is None else _line(str(far))


def of_failures(found: Sequence[Group]) -> list[Row]:
    """Return a row for each group of dead letters."""
    return [
        Row(
            f"{one.queue}:{one.reason}:{one.error_type}",
            (f"{one.count:,}", _line(one.queue), _line(one.reason) or UNKNOWN, _line(one.error_type) or UNKNOWN,
             _ago(one.last), _line(one.message)),
            one,
        )
        for one in found
    ]  # fmt: skip


def of_jobs(found: Sequence[JobView]) -> list[Row]:
    """Return a row for each job."""
    return [Row(f"{view.queue}:{view.state}:{view.cursor}", _job(view), view) for view in found]


def _job(view: JobView) -> tuple[str, ...]:
    failure = last_failure(view)
    tries = failure.attempt if failure and view.is_dead_letter else view.attempt
    error = ": ".join(filter(None, (failure.error_type, failure.message))) if failure else view.flaw
    return _line(view.job.id), view.state, _line(view.queue), _ago(view.since), str(tries), _line(error)


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _ago(moment: float) -> str:
    return span(round(max(0.0, time.time() - moment), 1)) if moment else UNKNOWN


def _line(text: str) -> str:
    """Return foreign text on one line, without characters that act on a terminal."""
    return escape(" ".join(text.split()))
