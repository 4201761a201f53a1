"""The command `worker check`, which checks declarations and settings without running jobs."""

from __future__ import annotations

from typing import Any

import click

from framework.cli.output import Column, span, table, warn
from framework.cli.service import MODULE_HELP, Service, load_service, take
from framework.model.options import QueueOptions
from framework.model.retry import RetryPolicy
from framework.service.options import resolve
from framework.service.queues import Queue

COLUMNS = (
    Column("queue", style="bold", fit="whole"),
    Column("payload"),
    Column("handler"),
    Column("at", detail=True),
    Column("pool"),
    Column("workers", number=True),
    Column("concurrency", number=True),
    Column("timeout", number=True),
    Column("retry"),
    Column("dead letter"),
)


@click.command(short_help="Check a service's declarations and settings without running it.", epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE")
def check(given: tuple[str, ...]) -> int:
    """Check a service's declarations and settings without running it; the engine is not asked.

    Prints its queues as they would run, settings included. What is doubtful is a warning on standard error; what is
    wrong is an error with exit code 2.
    """
    (module,) = take(given)
    service = load_service(module)
    from framework.runner import resolving

    warnings = resolving.check(service.app, service.settings)
    pooled = bool(service.app.worker_pools)
    rows = [_row(service, queue) for queue in service.app.worker_queues.values()]
    # The column of pools is shown only if there are pools.
    kept = [at for at, column in enumerate(COLUMNS) if pooled or column.title != "pool"]
    table([COLUMNS[at] for at in kept], [tuple(row[at] for at in kept) for row in rows])
    for text in warnings:
        warn(text)
    return 0


def _row(service: Service, queue: Queue[Any]) -> tuple[str, ...]:
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
