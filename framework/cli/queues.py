"""The command `worker queues`, which prints the counts of each queue."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain

import click

from framework.cli.output import Column, moment, print_json, span, table, warn
from framework.cli.service import MODULE_HELP, Look, load_service, opened, take
from framework.engine.port import JobView, QueueStats

UNKNOWN = "-"
_UNKNOWN = QueueStats()


def _alarming(cell: str) -> str:
    return "" if cell in ("0", UNKNOWN) else "bold red"


COLUMNS = (
    Column("queue", style="bold"), Column("ready", number=True), Column("oldest", number=True),
    Column("in flight", number=True), Column("delayed", number=True), Column("dead", number=True, style=_alarming),
    Column("bad", number=True, style=_alarming),
)  # fmt: skip


@click.command(short_help="Show how many jobs wait, run, are delayed or dead.", epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, an object for each queue.")
def queues(given: tuple[str, ...], as_json: bool) -> int:
    """Show how many jobs of each queue wait, run, are delayed or dead.

    ready: may run now. oldest: how long the oldest of those has been waiting. in flight: claimed by a worker. delayed:
    not yet due, or waiting for a retry. dead: dead letters that stay here, see `worker dead`. bad: files that cannot be
    read, see `worker bad`. Below them stand queues of the spool that have jobs and that neither this service nor a
    running one declares, each marked (not declared). Jobs that only a newer version of the framework can read count,
    and those among the oldest are named on standard error. What cannot be looked at is named there, too: exit code 1.

    \b
    --json, in this order; more keys may come:
      queue       name (string)
      ready, delayed, in_flight, dead, bad       jobs (integers; null: it cannot be known)
      oldest_age  seconds (number; null as above), 0 where none is ready
      declared    false: neither this service nor a running one declares it
      newer       jobs that only a newer version can read, among the oldest of each state: objects with
                  file, state, since, flaw, place
      paused      true: no worker takes its jobs, see `worker pause`
    """
    (module,) = take(given)
    with opened(load_service(module)) as look:
        found, others, newer = _counts(look)
    if look.failed and all(stats is _UNKNOWN for stats in found.values()):
        raise look.failed[0]
    code = look.say()
    if as_json:
        every = {**found, **others}
        print_json([_object(name, every[name], newer[name], declared=name in found) for name in every])
    else:
        shown = {f"{name} (paused)" if stats.paused else name: stats for name, stats in found.items()}
        marked = {f"{name} (not declared)": stats for name, stats in others.items()}
        table(COLUMNS, [_row(name, stats) for name, stats in {**shown, **marked}.items()])
        for view in chain.from_iterable(newer.values()):
            warn(f"{view.queue}: {view.state} job in file {view.job.id}: {view.flaw}")
    return code


def _counts(look: Look) -> tuple[dict[str, QueueStats], dict[str, QueueStats], dict[str, list[JobView]]]:
    """Return the counts of the service's queues and of undeclared ones, and jobs that a newer version can read."""
    found = {queue.name: _UNKNOWN for queue in look.service.queues}
    for queue in look.queues:
        found[queue.name] = look.read(partial(look.engine.stats, queue.name), _UNKNOWN)
    others = look.read(look.undeclared, dict[str, QueueStats]())
    newer: dict[str, list[JobView]] = {name: [] for name in found}
    for name in (*found, *others):
        if name not in look.refused:
            newer[name] = list(look.each(look.engine.newer(name)))
    return found, others, newer


def _object(name: str, stats: QueueStats, newer: Sequence[JobView], *, declared: bool) -> dict[str, object]:
    return {
        "queue": name,
        "ready": stats.ready,
        "delayed": stats.delayed,
        "in_flight": stats.in_flight,
        "dead": stats.dead,
        "bad": stats.bad,
        "oldest_age": None if stats.oldest_age is None else round(stats.oldest_age, 3),
        "declared": declared,
        "newer": [
            {"file": v.job.id, "state": v.state, "since": moment(v.since), "flaw": v.flaw, "place": v.place}
            for v in newer
        ],
        "paused": stats.paused,
    }


def _row(name: str, stats: QueueStats) -> tuple[str, ...]:
    age = span(stats.oldest_age) if stats.ready and stats.oldest_age is not None else UNKNOWN
    return (name, *map(_cell, (stats.ready, age, stats.in_flight, stats.delayed, stats.dead, stats.bad)))


def _cell(value: int | str | None) -> str:
    return UNKNOWN if value is None else str(value)
