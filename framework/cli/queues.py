"""`worker queues`"""

from __future__ import annotations

import click

from framework.broker import QueueStats
from framework.cli.output import Column, print_json, span, table
from framework.cli.service import MODULE_HELP, load_service, opened, take

UNKNOWN = "-"


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
    running one declares, each marked (not declared).

    \b
    --json, in this order; more keys may come:
      queue       name (string)
      ready, delayed, in_flight, dead, bad       jobs (integers; null: the engine cannot know)
      oldest_age  seconds (number; null as above), 0 where none is ready
      declared    false: neither this service nor a running one declares it
    """
    (module,) = take(given)
    service = load_service(module)
    with opened(service) as engine:
        found = {queue.name: engine.stats(queue.name) for queue in service.queues}
        others = engine.undeclared()
    if as_json:
        shown = [_object(name, stats, declared=True) for name, stats in found.items()]
        print_json(shown + [_object(name, stats, declared=False) for name, stats in others.items()])
    else:
        marked = {f"{name} (not declared)": stats for name, stats in others.items()}
        table(COLUMNS, [_row(name, stats) for name, stats in {**found, **marked}.items()])
    return 0


def _object(name: str, stats: QueueStats, *, declared: bool) -> dict[str, object]:
    return {
        "queue": name,
        "ready": stats.ready,
        "delayed": stats.delayed,
        "in_flight": stats.in_flight,
        "dead": stats.dead,
        "bad": stats.bad,
        "oldest_age": None if stats.oldest_age is None else round(stats.oldest_age, 3),
        "declared": declared,
    }


def _row(name: str, stats: QueueStats) -> tuple[str, ...]:
    age = span(stats.oldest_age) if stats.ready and stats.oldest_age is not None else UNKNOWN
    return (name, *map(_cell, (stats.ready, age, stats.in_flight, stats.delayed, stats.dead, stats.bad)))


def _cell(value: int | str | None) -> str:
    return UNKNOWN if value is None else str(value)
