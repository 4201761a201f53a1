"""The commands `worker dead list|show|replay|discard`, for dead letters."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import click

from framework.cli import letters
from framework.cli.looks import Looks
from framework.cli.output import Column, confirm, counted, is_terminal, print_json, print_json_array, span, table, warn
from framework.cli.service import MODULE_HELP, OpenedEngine, Service, load_service, opened, take, take_some
from framework.engine.port import JobView
from framework.model.errors import UsageError

COLUMNS = (
    Column("id", style="bold", fit="whole"), Column("queue"), Column("on", detail=True), Column("state", fit="whole"),
    Column("since", fit="whole"), Column("reason", detail=True), Column("attempts", number=True, detail=True),
    Column("error", style="red", fit="cut"),
)  # fmt: skip
QUEUE_HELP = "Only letters from this queue, or that lie on this dead-letter queue."

queue_option = click.option("--queue", "queue", metavar="NAME", help=QUEUE_HELP)
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
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many; on a terminal 100 unless told.")
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
    home = _home(service, queue)
    short = limit is None and is_terminal(sys.stdout) and not as_json
    most = 100 if short else limit
    with opened(service) as engine:
        looks = Looks(service.refused)
        found = letters.letters(service, engine, looks, home)
        shown = islice(found, most)
        if as_json:
            print_json_array(letters.summary(view) for view in shown)
            return looks.say()
        table(COLUMNS, map(_row, shown), empty="no dead letters")
        if short and next(found, None) is not None:
            warn(f"these are the first {most}: see the others with --limit N, or in a pipe")
    return looks.say()


def _row(view: JobView) -> tuple[str, ...]:
    found = letters.summary(view)
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
    with opened(service) as engine:
        (view, *_) = letters.chosen(service, engine, Looks(service.refused), [job_id], _home(service, queue)).values()
    if as_json:
        print_json(letters.details(view))
        return 0
    from framework.cli import letter_page

    for line in letter_page.lines(view):
        print(line)
    return 0


@dead.command(epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE [ID]...")
@queue_option
@click.option("--all", "everything", is_flag=True, help="All dead letters, or all of --queue.")
def replay(given: tuple[str, ...], queue: str | None, everything: bool) -> int:
    """Return dead letters to the end of their home queue, with a full set of attempts.

    Each keeps its id and its history. If one of the ids is unknown, nothing is replayed.
    """
    module, ids = take_some(given)
    service = load_service(module)
    with opened(service) as engine:
        looks = Looks(service.refused)
        keys = _chosen_keys(service, engine, looks, ids, _home(service, queue), everything)
        code = _act(service, engine, looks, keys, engine.replay, "replayed")
    return looks.say() or code if everything else code


@dead.command(epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE [ID]...")
@queue_option
@click.option("--all", "everything", is_flag=True, help="All dead letters, or all of --queue.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(given: tuple[str, ...], queue: str | None, everything: bool, yes: bool) -> int:
    """Delete dead letters for ever.

    Asks first on a terminal; elsewhere --yes is needed. If one of the ids is unknown, nothing is deleted.
    """
    module, ids = take_some(given)
    service = load_service(module)
    with opened(service) as engine:
        looks = Looks(service.refused)
        keys = _chosen_keys(service, engine, looks, ids, _home(service, queue), everything)
        if keys and not yes:
            confirm(counted(len(keys), "dead letter"))
        code = _act(service, engine, looks, keys, engine.discard, "deleted")
    return looks.say() or code if everything else code


def _home(service: Service, queue: str | None) -> str | None:
    return None if queue is None else service.queue(queue).name


def _chosen_keys(
    service: Service, engine: OpenedEngine, looks: Looks, ids: Sequence[str], home: str | None, everything: bool
) -> set[letters.Key]:
    """Return the keys of the dead letters to act on, read before the user confirms: later ones are left alone."""
    if everything == bool(ids):
        raise UsageError("give the ids of dead letters, or --all")
    if everything:
        return {letters.key_of(view) for view in letters.letters(service, engine, looks, home)}
    return set(letters.chosen(service, engine, looks, ids, home))


def _act(
    service: Service,
    engine: OpenedEngine,
    looks: Looks,
    keys: set[letters.Key],
    verb: Callable[[JobView], bool],
    done: str,
) -> int:
    found: Iterator[JobView] = letters.letters(service, engine, looks)
    count, left = letters.act(found, keys, verb)
    for view, why in left:
        warn(f"{view.job.id} on {view.queue} {why}")
    print(f"{done} {count} dead {'letter' if count == 1 else 'letters'}")
    return 0 if count == len(keys) else 1
