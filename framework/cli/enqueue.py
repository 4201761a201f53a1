"""The command `worker enqueue`, which stores jobs from arguments or JSON lines."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click

from framework.cli.output import complain, hear_warnings, is_terminal, warn
from framework.cli.service import MODULE_HELP, load_service, refuse_memory, take
from framework.model.errors import UsageError
from framework.model.options import QueueOptions
from framework.model.retry import RetryPolicy
from framework.model.text.printable import escape
from framework.service.keys import holder
from framework.service.options import resolve
from framework.service.queues import Queue
from framework.service.request import JobOptions


@click.command(short_help="Enqueue one job, or one for each line of standard input.", epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE QUEUE JSON|-")
@click.option("--delay", type=float, metavar="SECONDS", help="How long to wait before it may start.")
@click.option("--run-at", metavar="ISO", help="The moment before which it must not start, with a time zone.")
@click.option("--id", "job_id", metavar="ID", help="Your own id: while a job of that id exists, nothing is queued.")
@click.option(
    "--priority", type=click.IntRange(0, 9), metavar="0..9", help="Jobs with a lower number run first; usual is 5."
)
@click.option("--timeout", type=float, metavar="SECONDS", help="How long each of its attempts may take.")
@click.option("--max-retries", type=int, metavar="N", help="How often it runs again after failures.")
@click.option("--ttl", type=float, metavar="SECONDS", help="How long it may wait until it is a dead letter.")
@click.option("--header", "headers", multiple=True, metavar="NAME=TEXT", help="A header; may be repeated.")
def enqueue(
    given: tuple[str, ...],
    delay: float | None,
    run_at: str | None,
    job_id: str | None,
    priority: int | None,
    timeout: float | None,
    max_retries: int | None,
    ttl: float | None,
    headers: tuple[str, ...],
) -> int:
    """Enqueue one job and print its id, or with - one job for each JSON line of standard input.

    QUEUE is the queue's name or its attribute. The payload is strict JSON and must fit the queue's payload type: if it
    does not, nothing is queued and the exit code is 1. A bad line of many is named; what stood before it is queued,
    nothing after it. Put -- before a payload that begins with a minus sign.
    """
    module, name, text = take(given, "QUEUE", "JSON, or - for lines of standard input")
    when, service = _moment(run_at, delay), load_service(module)
    queue = service.queue(name)
    from framework.admin.jsonlines import payload_of, refuse_dead_letters

    refuse_dead_letters(queue)
    refuse_memory(service.settings)
    hear_warnings()
    options = resolve(queue, service.settings, service.app)
    retry = _retry(options.retry, max_retries)
    own = JobOptions(priority=priority, timeout=timeout, retry=retry, ttl=ttl, headers=_headers(headers))
    if text == "-":
        if job_id is not None:
            raise UsageError("--id names one job, standard input may hold many: leave it out")
        with service.app.connect(service.settings):
            return _enqueue_lines(queue, options, _delays(delay or 0.0, when), own)
    payload = payload_of(queue, text, full_errors=service.settings.payload_errors == "full")
    with service.app.connect(service.settings):
        found = queue.enqueue(payload, delay=delay or 0.0, run_at=when, job_id=job_id, **own)
    print(escape(found))
    if found.duplicate:
        warn(f"{holder(queue, found)} on {queue.name} already: nothing was queued")
    return 0


def _retry(policy: RetryPolicy, max_retries: int | None) -> RetryPolicy | None:
    if max_retries is None:
        return None
    try:
        return RetryPolicy(**{**policy.numbers, "max_retries": max_retries})  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(f"--max-retries: {error}") from None


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    for one in given:
        if "=" not in one:
            raise UsageError(f"--header {one[:60]!r}: write NAME=TEXT")
    return dict(one.split("=", 1) for one in given)


def _moment(text: str | None, delay: float | None) -> datetime | None:
    if text is None:
        return None
    if delay is not None:
        raise UsageError("--delay and --run-at exclude each other: give one")
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--run-at {text[:60]!r} is no moment: write it as 2030-01-31T12:00:00Z") from None
    if found.tzinfo is None:
        raise UsageError(f"--run-at {text} has no time zone: write {text}Z, or an offset like +02:00")
    return found


def _delays(delay: float, when: datetime | None) -> Callable[[], float]:
    """Return a function that gives the delay of a batch in seconds; for a moment it is computed for each batch."""
    if when is None:
        return lambda: delay
    moment = when.timestamp()
    return lambda: max(0.0, moment - time.time())


def _enqueue_lines(queue: Queue[Any], options: QueueOptions, delay: Callable[[], float], own: JobOptions) -> int:
    from framework.admin.jsonlines import LineFeed

    fd = sys.stdin.fileno()
    with _progress(fd, queue.name) as on_progress:
        # Escapes may be six times as long as their characters, and there may be blanks between the values.
        longest = 8 * options.max_payload_bytes + 65_536
        feed = LineFeed(
            queue, delay=delay, longest=longest, full_errors=options.full_errors, on_progress=on_progress, own=own
        )
        try:
            feed.run(fd)
        except KeyboardInterrupt:
            complain(f"worker: interrupted, {feed.queued:,} jobs were queued")
            raise
    print(f"queued {feed.queued} {'job' if feed.queued == 1 else 'jobs'} on {queue.name}")
    return 0


@contextmanager
def _progress(fd: int, queue: str) -> Generator[Callable[[int, int], None], None, None]:
    """Show a progress bar on standard error if that is a terminal; by bytes if the size of the input is known."""
    if not is_terminal(sys.stderr) or os.isatty(fd):
        yield lambda read, queued: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[queued]:,} jobs"),
    )
    found = os.fstat(fd)
    total = found.st_size if stat.S_ISREG(found.st_mode) else None
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(queue, total=total, queued=0)
        yield lambda read, queued: progress.update(task, advance=read, queued=queued)
