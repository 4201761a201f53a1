"""The commands `worker dead list|show|replay|discard`, for dead letters."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice

import click

from framework.cli import dead_letters
from framework.cli.output import Column, confirm, counted, is_terminal, print_json, print_json_array, span, table, warn
from framework.cli.service import MODULE_HELP, OpenedEngine, load_service, opened, take, take_some
from framework.engine.port import JobView
from framework.model.errors import UsageError

COLUMNS = (
    Column("id", style="bold", fit="whole"), Column("queue"), Column("on", detail=True), Column("state", fit="whole"),
    Column("since", fit="whole"), Column("reason", detail=True), Column("attempts", number=True, detail=True),
    Column("error", style="red", fit="cut"),
)  # fmt: skip
QUEUE_HELP = "Only dead letters from this queue, or that lie on this dead-letter queue."

queue_option = click.option("--queue", "queue", metavar="NAME", help=QUEUE_HELP)
all_option = click.option("--all", "everything", is_flag=True, help="All dead letters, or all of --queue.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, see above.")


@click.group(short_help="List, show, replay or discard dead letters.", invoke_without_command=True)
@click.pass_context
def dead(ctx: click.Context) -> int:
    """Dead letters: jobs that will not run again by themselves.

    A job becomes one when its retries are used up, when it expires, or when its handler rejects it. It goes to its
    queue's dead-letter queue, where a handler may work on it, and stays there; without one it stays on its own
    queue.
    """
    if ctx.invoked_subcommand is None:
        raise UsageError("choose one of list, show, replay, discard (see worker dead --help)")
    return 0


@dead.command("list", epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE")
@queue_option
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many; on a terminal 100 by default.")
@json_option
def list_(given: tuple[str, ...], queue: str | None, limit: int | None, as_json: bool) -> int:
    """List dead letters, oldest first within each queue.

    state: on a dead-letter queue with a handler, a dead letter is first ready, in_flight or delayed (its handler is
    tried again). dead: it stays here until you replay or discard it, or the queue's ttl ends. One that only a newer
    version of the framework can read is listed by the name of its file.

    \b
    --json is one array of objects with these keys, in this order; more may come:
      id, queue       of the job: its id and its home queue
      on, state       the queue where it lies, and its state there
      since           when it came there (ISO time, UTC)
      reason          error, timeout, worker_lost, rejected, expired, invalid_payload, or null
      attempts        that were spent on it (integer)
      error_type, message       of the last of them
    """
    (module,) = take(given)
    service = load_service(module)
    home = None if queue is None else service.queue(queue).name
    short = limit is None and is_terminal(sys.stdout) and not as_json
    most = 100 if short else limit
    with opened(service) as look:
        found = dead_letters.dead_letters(look, home)
        shown = islice(found, most)
        if as_json:
            print_json_array(map(dead_letters.summary, shown))
            return look.say()
        table(COLUMNS, map(_row, shown), empty="no dead letters")
        if short and next(found, None) is not None:
            warn(f"these are the first {most}: see the others with --limit N, or in a pipe")
    return look.say()


def _row(view: JobView) -> tuple[str, ...]:
    found = dead_letters.summary(view)
    since = f"{span(max(0.0, time.time() - view.since))} ago" if is_terminal(sys.stdout) else found["since"]
    error = ": ".join(filter(None, (found["error_type"], found["message"])))
    reason, attempts = found["reason"] or "-", str(found["attempts"])
    return (found["id"], found["queue"], found["on"], found["state"], since, reason, attempts, error)


@dead.command(epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE ID")
@queue_option
@json_option
def show(given: tuple[str, ...], queue: str | None, as_json: bool) -> int:
    """Show a dead letter: its payload, and each attempt with its error, traceback and trace id.

    \b
    --json is one object with the keys of `worker dead list --json`, and these; more may come:
      enqueued_at     ISO time, UTC
      payload         the JSON that was enqueued, or text where it is none
      payload_bytes   its size (integer)
      headers         of the job, trace context included (object of strings)
      failures        oldest first: attempt, queue, delivery, started_at, ended_at, reason, error_type, message,
                      trace_id, span_id, traceback; the first and the last ten are kept
      extras          what else is stored with it, as priority, or fingerprint of the payload's type (object)
      ignored         names of extras with values that no job can have: it ran as if they were not there
    """
    module, job_id = take(given, "ID")
    service = load_service(module)
    home = None if queue is None else service.queue(queue).name
    with opened(service) as look:
        (view, *_) = dead_letters.chosen(look, [job_id], home).values()
    if as_json:
        print_json(dead_letters.details(view))
    else:
        for line in dead_letters.lines(view):
            print(line)
    return 0


@dead.command(epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE [ID]...")
@queue_option
@all_option
def replay(given: tuple[str, ...], queue: str | None, everything: bool) -> int:
    """Return dead letters to the end of their home queue, with a full set of attempts.

    Each keeps its id and its history. If one of the ids is unknown, nothing is replayed.
    """
    return _change(given, queue, everything, lambda engine, view: engine.replay(view), "replayed")


@dead.command(epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE [ID]...")
@queue_option
@all_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(given: tuple[str, ...], queue: str | None, everything: bool, yes: bool) -> int:
    """Delete dead letters for ever.

    Asks first on a terminal; elsewhere --yes is needed. If one of the ids is unknown, nothing is deleted.
    """
    return _change(given, queue, everything, lambda engine, view: engine.discard(view), "deleted", ask=not yes)


def _change(
    given: Sequence[str],
    queue: str | None,
    everything: bool,
    verb: Callable[[OpenedEngine, JobView], bool],
    done: str,
    *,
    ask: bool = False,
) -> int:
    module, ids = take_some(given)
    service = load_service(module)
    home = None if queue is None else service.queue(queue).name
    with opened(service) as look:
        if everything == bool(ids):
            raise UsageError("give the ids of dead letters, or --all")
        # Read before the user confirms: dead letters that come later are left alone.
        if everything:
            keys = {dead_letters.key_of(view) for view in dead_letters.dead_letters(look, home)}
        else:
            keys = set(dead_letters.chosen(look, ids, home))
        if keys and ask:
            confirm(counted(len(keys), "dead letter"))
        count = look.change(
            dead_letters.meant(look, keys),
            lambda view: dead_letters.tried(view, lambda view: verb(look.engine, view)),
            name=lambda view: f"{view.job.id} on {view.queue}",
        )
    print(f"{done} {count} dead letter{'s' * (count != 1)}")
    failed = look.say() if everything else 0
    return failed or int(count != len(keys))
