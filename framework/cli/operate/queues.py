"""The command `worker queues`, which prints the counts of each queue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from framework.admin.queues import QueueView, last_seen, views
from framework.cli.operate.common import STORE_HELP, json_option, looking, url_option
from framework.cli.output import Column, moment, print_json, table, warn
from framework.engine.port import QueueStats
from framework.model.options import QueueOptions
from framework.model.text.spans import span

UNKNOWN = "-"
LATE = 180.0  # seconds without a report, after which it is said: an idle queue has its turn about once a minute


def _alarming(cell: str) -> str:
    return "" if cell in ("0", UNKNOWN) else "bold red"


COLUMNS = (
    Column("queue", style="bold"), Column("ready", number=True), Column("oldest", number=True),
    Column("in flight", number=True), Column("delayed", number=True), Column("dead", number=True, style=_alarming),
    Column("bad", number=True, style=_alarming),
)  # fmt: skip


@click.command(short_help="Show how many jobs wait, run, are delayed or dead.", epilog=STORE_HELP)
@click.argument("given", nargs=-1, metavar="[MODULE]")
@url_option
@json_option
def queues(given: tuple[str, ...], url: str, as_json: bool) -> int:
    """Show how many jobs of each queue wait, run, are delayed or dead.

    ready: may run now. oldest: how long the oldest of those has been waiting. in flight: claimed by a worker. delayed:
    not yet due, or waiting for a retry. dead: dead letters that stay here, see `worker dead`. bad: files that cannot be
    read, see `worker bad`. Below them stand other queues of the store that have jobs, each marked (not declared). A
    queue with jobs that the service has no handler for is marked (no handler), one that its breaker holds (held). Where
    no running service has reported on any of them for three minutes, or never, standard error says since when. It
    also names jobs that only a newer version can read, and what cannot be looked at: exit code 1.

    \b
    --json is one array, an object for each queue, in this order; more keys may come:
      queue       name (string)
      ready, delayed, in_flight, dead, bad       jobs (integers; null: it cannot be known)
      oldest_age  seconds (number; null as above), 0 where none is ready
      declared    false: the service does not declare it; null: no MODULE was given
      newer       jobs that only a newer version can read, among the oldest of each state: objects with
                  file, state, since, flaw, place
      handler     name (string; empty: the service has none for it; null: no MODULE was given)
      dead_letters       it is a dead-letter queue (boolean)
      seen        when a running service last reported on it (ISO time, UTC; null: never, or it cannot be known)
      max_length  of the declaration (integer; null: no limit, or not declared)
      paused, held       true: no worker takes its jobs, see `worker pause`; its breaker holds it
      max_running, rate, group_limit, group_order   of the declaration (integer, text such as 100/s, integer,
                  "strict"; null: there is none, or it is not declared)
    """
    with looking(given, url) as (look, _):
        found = views(look.store)
    own = [one for one in found if one.declared]
    if look.failed and own and all(one.stats == QueueStats() for one in own):
        raise look.failed[0]
    code = look.say()
    if as_json:
        print_json([queue_object(one) for one in found])
        return code
    table(COLUMNS, [_row(one) for one in found], empty="no queues")
    for view in (view for one in found for view in one.newer):
        warn(f"{view.queue}: {view.state} job in file {view.job.id}: {view.flaw}")
    _say_silence(found)
    return code


def _say_silence(found: Sequence[QueueView]) -> None:
    """Warn where jobs lie there and no running service has reported for long."""
    seen = last_seen(found)
    if not any(one.stats.jobs_at_rest for one in found) or (seen is not None and time.time() - seen < LATE):
        return
    if seen is not None:
        warn(f"no running service has reported on these queues since {moment(seen)}, {span(time.time() - seen)} ago")


def queue_object(one: QueueView) -> dict[str, Any]:
    """Return what `worker queues --json` prints of a queue."""
    stats = one.stats
    return {
        "queue": one.name,
        "ready": stats.ready,
        "delayed": stats.delayed,
        "in_flight": stats.in_flight,
        "dead": stats.dead,
        "bad": stats.bad,
        "oldest_age": None if stats.oldest_age is None else round(stats.oldest_age, 3),
        "declared": one.declared,
        "newer": [
            {"file": v.job.id, "state": v.state, "since": moment(v.since), "flaw": v.flaw, "place": v.place}
            for v in one.newer
        ],
        "handler": one.handler,
        "dead_letters": one.dead_letters,
        "seen": None if one.seen is None else moment(one.seen),
        "max_length": None if one.options is None else one.options.max_length,
        "paused": stats.paused,
        "held": stats.held,
        "max_running": None if one.options is None else one.options.max_running,
        "rate": None if one.options is None or one.options.rate is None else str(one.options.rate),
        "group_limit": None if one.options is None else one.options.group_limit,
        "group_order": None if one.options is None else one.options.group_order,
    }


def _row(one: QueueView) -> tuple[str, ...]:
    stats = one.stats
    mark = " (not declared)" if one.declared is False else " (no handler)" if one.is_stranded else ""
    if limits := limits_of(one.options):
        mark += f" ({limits})"
    mark += " (paused)" if stats.paused else " (held)" if stats.held else ""
    age = span(stats.oldest_age) if stats.ready and stats.oldest_age is not None else UNKNOWN
    return (
        one.name + mark,
        *map(_cell, (stats.ready, age, stats.in_flight, stats.delayed, stats.dead, stats.bad)),
    )


def limits_of(options: QueueOptions | None) -> str:
    """Return the limits of a queue over all processes, as `max 8, 100/s`; empty: it has none."""
    if options is None:
        return ""
    most = None if options.max_running is None else f"max {options.max_running}"
    return ", ".join(str(limit) for limit in (most, options.rate, _groups_of(options)) if limit is not None)


def _groups_of(options: QueueOptions) -> str | None:
    if (groups := options.groups) is None:
        return None
    if groups.strict:
        return "a group in strict order"
    return "groups" if groups.limit is None else f"max {groups.limit} a group"


def _cell(value: int | str | None) -> str:
    return UNKNOWN if value is None else str(value)
