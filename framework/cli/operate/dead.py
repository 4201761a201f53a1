"""The commands `worker dead list|show|groups|replay|discard`, for dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from framework.admin import dead as model
from framework.admin import jobs
from framework.admin.acts import rate_of
from framework.admin.jobs import Filter
from framework.cli.operate import shown
from framework.cli.operate.common import (
    STORE_HELP,
    acting,
    all_or_none,
    done,
    filter_of,
    filter_options,
    json_option,
    list_options,
    looking,
    looking_for_some,
    on_store,
    print_list,
    queue_of,
    warning,
    yes_option,
)
from framework.cli.output import Column, confirm, counted, moment, print_json, table, warn
from framework.cli.service import Look
from framework.engine.port import JobView
from framework.model.errors import UsageError, WorkerError

COLUMNS = (
    Column("id", style="bold", fit="whole"), Column("queue"), Column("on", detail=True), Column("state", fit="whole"),
    Column("since", fit="whole"), Column("reason", detail=True), Column("attempts", number=True, detail=True),
    Column("error", style="red", fit="cut"),
)  # fmt: skip
GROUPS = (
    Column("queue", style="bold"), Column("reason"), Column("error", style="red"), Column("count", number=True),
    Column("first", fit="whole"), Column("last", fit="whole"), Column("message", fit="cut"),
)  # fmt: skip
all_option = click.option("--all", "everything", is_flag=True, help="All that pass the filters, or all of --queue.")


@click.group(short_help="List, show, group, replay or discard dead letters.", invoke_without_command=True)
@click.pass_context
def dead(ctx: click.Context) -> int:
    """Dead letters: jobs that will not run again by themselves.

    A job becomes one when its retries are used up, when it expires, or when its handler rejects it. It goes to its
    queue's dead-letter queue, where a handler may work on it, and stays there; without one it stays on its own
    queue.
    """
    if ctx.invoked_subcommand is None:
        raise UsageError("choose one of list, show, groups, replay, discard (see worker dead --help)")
    return 0


@dead.command("list", epilog=STORE_HELP)
@on_store("[MODULE]")
@filter_options
@list_options
def list_(
    given: tuple[str, ...], url: str, queue: str, limit: int | None, after: str, as_json: bool, **filters: Any
) -> int:
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
      after           the position behind it, for --after
    """
    with looking(given, url) as (look, _):
        wanted = filter_of(dead_letters=True, home=queue_of(look, queue), **filters)
        listed = jobs.browse(look.store, wanted, after)
        print_list(
            listed, limit=limit, as_json=as_json, to_json=shown.summary, columns=COLUMNS, row=shown.row,
            empty="no dead letters",
        )  # fmt: skip
        return look.say()


@dead.command(epilog=STORE_HELP)
@on_store("[MODULE] ID")
@json_option
def show(given: tuple[str, ...], url: str, queue: str, as_json: bool) -> int:
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
      due, ttl        the moment before which it must not start (ISO time), and how long it may wait (seconds), or null
      chosen_id       its id was chosen: another job of that id cannot be enqueued while it is here (boolean)
    """
    with looking(given, url, "ID") as (look, (job_id,)):
        (view,) = _chosen(look, [job_id], queue)
    shown.print_job(view, as_json=as_json)
    return 0


@dead.command(epilog=STORE_HELP)
@on_store("[MODULE]")
@filter_options
@json_option
def groups(given: tuple[str, ...], url: str, queue: str, as_json: bool, **filters: Any) -> int:
    """Show how many dead letters each queue has of each reason and type of error, the most first.

    \b
    --json is one array of objects with these keys, in this order; more may come:
      queue           home queue
      reason, error_type        of the last attempt
      count           dead letters (integer)
      first, last     when the first and the last of them came there (ISO time, UTC)
      message, example          text of the last one's error, and its id
    """
    with looking(given, url) as (look, _):
        found = model.groups(look.store, filter_of(home=queue_of(look, queue), **filters))
        code = look.say()
    if as_json:
        print_json([group_object(group) for group in found])
    else:
        table(GROUPS, [tuple(map(str, group_object(group).values()))[:-1] for group in found], empty="no dead letters")
    return code


def group_object(group: model.Group) -> dict[str, Any]:
    """Return what `worker dead groups --json` prints of a group."""
    return {
        "queue": group.queue,
        "reason": group.reason,
        "error_type": group.error_type,
        "count": group.count,
        "first": moment(group.first),
        "last": moment(group.last),
        "message": group.message,
        "example": group.example,
    }


@dead.command(epilog=STORE_HELP)
@on_store("[MODULE] [ID]...")
@filter_options
@all_option
@click.option("--rate", metavar="RATE", default="", help="At most so many, as 5/s, 300/m or 1000/h.")
@click.option("--stop-after-failures", "stop", type=click.IntRange(1), metavar="N", help="Stop once so many stay.")
def replay(
    given: tuple[str, ...], url: str, queue: str, everything: bool, rate: str, stop: int | None, **filters: Any
) -> int:
    """Return dead letters to the end of their home queue, with a full set of attempts.

    Each keeps its id and its history. If one of the ids is unknown, nothing is replayed.
    """
    slowly = rate_of(rate) if rate else None
    return _change(given, url, queue, everything, filters, "replayed", rate=slowly, stop=stop)


@dead.command(epilog=STORE_HELP)
@on_store("[MODULE] [ID]...")
@filter_options
@all_option
@yes_option
def discard(given: tuple[str, ...], url: str, queue: str, everything: bool, yes: bool, **filters: Any) -> int:
    """Delete dead letters for ever.

    Asks first on a terminal; elsewhere --yes is needed. If one of the ids is unknown, nothing is deleted.
    """
    return _change(given, url, queue, everything, filters, "deleted", ask=not yes)


def _change(
    given: Sequence[str], url: str, queue: str, everything: bool, filters: dict[str, Any], what: str, *,
    ask: bool = False, rate: float | None = None, stop: int | None = None,
) -> int:  # fmt: skip
    with looking_for_some(given, url) as (look, ids):
        wanted = filter_of(home=queue_of(look, queue), **filters)
        everything = everything or wanted != Filter(home=wanted.home)
        if everything == bool(ids):
            raise UsageError("give the ids of dead letters, or --all")
        # Read before the user confirms: dead letters that come later are left alone.
        if everything:
            keys = {model.key_of(view) for view in model.each(look.store, wanted)}
            views, count = model.again(look.store, wanted, keys), len(keys)
        else:
            with all_or_none(ids):
                chosen = _chosen(look, ids, queue)
            views = iter(chosen)
            count = len(chosen)
        if count and ask:
            confirm(counted(count, "dead letter"))
        with acting(look) as acts:
            verb: Callable[[JobView], str] = acts.replay if what == "replayed" else acts.discard
            result = acts.many(views, warning(verb), rate=rate, stop_after=stop)
        if result.stopped:
            warn(f"stopped: {counted(len(result.stays), 'dead letter')} stayed")
        code = done(look, result.count, count, what, "dead letter")
        return code if everything else int(result.count != count)


def _chosen(look: Look, ids: Sequence[str], queue: str) -> list[JobView]:
    try:
        return model.chosen(look.store, ids, queue_of(look, queue))
    except WorkerError:
        look.say()
        raise
