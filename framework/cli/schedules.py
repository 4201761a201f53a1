"""The command `worker schedules`, which shows what the framework enqueues by itself, and when."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import click

from framework.admin.schedules import ScheduleView, local, views
from framework.cli.output import Column, moment, print_json, table
from framework.cli.service import MODULE_HELP, load_service, opened, take
from framework.engine.port import Engine
from framework.model.schedules import Named, named

COLUMNS = (
    Column("queue", style="bold"), Column("schedule"), Column("when"), Column("last", fit="whole"),
    Column("next", fit="whole"), Column("next (UTC)", fit="whole", detail=True), Column("missed", number=True),
)  # fmt: skip


@click.command(short_help="Show the schedules, with their last and next runs.", epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, an object for each schedule.")
def schedules(given: tuple[str, ...], as_json: bool) -> int:
    """Show the schedules of a service's queues.

    schedule: its key. last: the latest planned moment that was handled, at first the moment when a supervisor saw the
    schedule; "-": none has seen it yet.
    next: the next three, in the schedule's own time zone. missed: moments that got no job, because no supervisor was
    running and the schedule's `missed=` says so. A queue that cannot be looked at is named on standard error: exit code
    1.

    \b
    --json, in this order; more keys may come:
      queue, key, rule, words     strings
      policy      skip, once or all: what happens to missed moments
      last        time in UTC (string; null: no supervisor has seen the schedule yet)
      next        the next three, in UTC (strings)
      missed      moments that got no job (integer)
    """
    (module,) = take(given)
    found: list[ScheduleView] = []
    with opened(load_service(module)) as look:
        for queue in look.queues:
            if plans := named(queue.schedules):
                found += look.read(partial(_look, look.engine, queue.name, plans), [])
    code = look.say()
    if as_json:
        print_json([_object(view) for view in found])
    else:
        table(COLUMNS, [row for view in found for row in _rows(view)], empty="no queue has a schedule")
    return code


def _look(engine: Engine, queue: str, plans: Sequence[Named]) -> list[ScheduleView]:
    now, ticks = engine.ticks(queue, [plan.key for plan in plans])
    return views(queue, plans, now, ticks)


def _object(view: ScheduleView) -> dict[str, object]:
    return {
        "queue": view.queue,
        "key": view.key,
        "rule": view.rule,
        "words": view.words,
        "policy": view.policy,
        "last": None if view.last is None else moment(view.last),
        "next": [moment(tick) for tick in view.next],
        "missed": view.missed,
    }


def _rows(view: ScheduleView) -> list[tuple[str, ...]]:
    """Return a row for each of the next ticks; the first one says the rest, too."""
    last = "-" if view.last is None else local(view, view.last)
    rows = [(local(view, tick), moment(tick)) for tick in view.next]
    head = (view.queue, view.key, view.words, last, *rows[0], str(view.missed))
    return [head, *(("", "", "", "", *row, "") for row in rows[1:])]
