"""The commands `worker check` and `worker schedules`, which show what a service declares."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from framework.admin.schedules import ScheduleView, local, views
from framework.cli.against import SAMPLES, print_against
from framework.cli.operate.queues import limits_of
from framework.cli.output import Column, moment, print_json, table, warn
from framework.cli.service import MODULE_HELP, Service, load_service, opened, take
from framework.engine.port import Engine
from framework.model.errors import UsageError
from framework.model.options import QueueOptions
from framework.model.retry import RetryPolicy
from framework.model.schedules import Named, named
from framework.model.text.spans import span
from framework.service.options import resolve
from framework.service.queues import Queue

QUEUES = (
    Column("queue", style="bold", fit="whole"),
    Column("payload"),
    Column("handler"),
    Column("at", detail=True),
    Column("pool"),
    Column("workers", number=True),
    Column("concurrency", number=True),
    Column("limits"),
    Column("timeout", number=True),
    Column("retry"),
    Column("dead letter"),
)


@click.command(short_help="Check a service's declarations, and whether it can read what is stored.", epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE")
@click.option("--against", metavar="URL", help="Try the payloads in this store; with --against= in WORKER_ENGINE_URL.")
@click.option("--samples", type=click.IntRange(1), metavar="N", help=f"Try so many of a kind, not {SAMPLES:,}.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, see above; only with --against.")
def check(given: tuple[str, ...], against: str | None, samples: int | None, as_json: bool) -> int:
    """Check a service's declarations and settings without running it; without --against the engine is not asked.

    Prints its queues as they would run, settings included. What is doubtful is a warning on standard error; what is
    wrong is an error with exit code 2.

    With --against it is for a pipeline, before a deploy, while workers run or not: it reads the jobs that are queued,
    delayed, claimed or dead in that store now, tries to read their payloads with the models and upgrade functions of
    MODULE, and prints how many could not be read and why: declared fields and types of errors, no values. Exit code 1:
    some payloads could not be read, or this service has dropped a queue that has jobs. All jobs are counted; of those
    with the same fingerprint and version, the oldest are tried, up to --samples.

    \b
    --json: an object for each queue, fingerprint and version, and for each other queue with jobs; more keys may come:
      queue        name (string)
      declared     false: MODULE does not declare it
      fingerprint, version     of the model and the service that enqueued these jobs (string; empty: unknown)
      own          the fingerprint is that of MODULE's model
      upgraded     an upgrade function is for them
      jobs, tried, unreadable  integers; tried and unreadable are 0 where the queue is not declared
      causes       [{cause, count}, ...] why they could not be read, the most frequent ones
      declared_by  services that declared the queue last; only where MODULE does not
    """
    (module,) = take(given)
    if against is None and (samples is not None or as_json):
        raise UsageError(f"{'--json' if as_json else '--samples'} is for --against URL")
    service = load_service(module)
    from framework.runner import resolving

    warnings = resolving.check(service.app, service.settings)
    if against is None:
        _print_queues(service)
    for text in warnings:
        warn(text)
    return 0 if against is None else print_against(service, against, samples or SAMPLES, as_json=as_json)


def _print_queues(service: Service) -> None:
    """Print the queues of a service; the columns of pools and limits only if a queue has one."""
    rows = [_queue_row(service, queue) for queue in service.app.worker_queues.values()]
    rare = [at for at, column in enumerate(QUEUES) if column.title in ("pool", "limits")]
    kept = [at for at in range(len(QUEUES)) if at not in rare or any(row[at] != "-" for row in rows)]
    table([QUEUES[at] for at in kept], [tuple(row[at] for at in kept) for row in rows])


def _queue_row(service: Service, queue: Queue[Any]) -> tuple[str, ...]:
    options = resolve(queue, service.settings, service.app)
    handler = service.app.worker_handlers.get(queue.name)
    in_threads = options.concurrency > 1
    kind = "" if handler is None else " async" if handler.is_async else " sync, threads" if in_threads else " sync"
    return (
        queue.name,
        _type_name(queue),
        f"{handler.name}{kind}" if handler else "none",
        handler.location if handler else "-",
        _pool(options),
        str(options.workers) if handler else "-",
        str(options.concurrency) if handler else "-",
        limits_of(options) or "-",
        "none" if options.timeout is None else span(options.timeout),
        _retry(options.retry),
        options.dead_letter or "-",
    )


def _pool(options: QueueOptions) -> str:
    if not options.pool:
        return "-"
    return options.pool if options.weight == 1 else f"{options.pool}, weight {options.weight}"


def _retry(policy: RetryPolicy) -> str:
    if not policy.max_retries:
        return "never"
    last = policy.delay(policy.max_retries, uniform=lambda least, most: most)
    return f"{policy.max_retries}x {span(policy.first_delay)} to {span(last)}"


def _type_name(queue: Queue[Any]) -> str:
    carried = queue.payload_type
    return carried.__name__ if isinstance(carried, type) and not hasattr(carried, "__args__") else str(carried)


SCHEDULES = (
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
                found += look.read(partial(_views, look.engine, queue.name, plans), [])
    code = look.say()
    if as_json:
        print_json([_object(view) for view in found])
    else:
        table(SCHEDULES, [row for view in found for row in _rows(view)], empty="no queue has a schedule")
    return code


def _views(engine: Engine, queue: str, plans: Sequence[Named]) -> list[ScheduleView]:
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
