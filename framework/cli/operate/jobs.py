"""The commands `worker jobs list|show|retry|cancel|discard|edit`, for jobs of every state."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from framework.admin import jobs as model
from framework.admin.acts import Acts, Done
from framework.admin.jobs import STATES, Filter
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
from framework.cli.output import Column, confirm, counted
from framework.cli.service import Look
from framework.engine.port import JobView, State
from framework.model.errors import UsageError, WorkerError
from framework.model.text.printable import escape

COLUMNS = (
    Column("id", style="bold", fit="whole"), Column("queue"), Column("on", detail=True), Column("state", fit="whole"),
    Column("since", fit="whole"), Column("reason", detail=True), Column("attempts", number=True, detail=True),
    Column("error", style="red", fit="cut"),
)  # fmt: skip
LIVE: tuple[State, ...] = ("ready", "in_flight", "delayed")
LONGEST = 64 << 20  # bytes of a payload from standard input


@click.group(short_help="List, show, retry, cancel, discard or edit jobs of every state.", invoke_without_command=True)
@click.pass_context
def jobs(ctx: click.Context) -> int:
    """Jobs of every state: ready, in_flight (claimed by a worker), delayed, dead, and cancelled.

    Files that cannot be read as jobs are those of `worker bad`.
    """
    if ctx.invoked_subcommand is None:
        raise UsageError("choose one of list, show, retry, cancel, discard, edit (see worker jobs --help)")
    return 0


@jobs.command("list", epilog=STORE_HELP)
@on_store("[MODULE]")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only these; may be repeated.")
@filter_options
@list_options
def list_(
    given: tuple[str, ...],
    url: str,
    queue: str,
    states: Sequence[State],
    limit: int | None,
    after: str,
    as_json: bool,
    **filters: Any,
) -> int:
    """List jobs, by queue and state, oldest first.

    \b
    --json is one array of objects with the keys of `worker dead list --json`, in its order; more may come.
      reason, error_type, message      of the last failed attempt, or of the one that made it a dead letter
      attempts        that were spent on it (integer)
      after           the position behind it, for --after
    """
    with looking(given, url) as (look, _):
        wanted = filter_of(states=states or STATES, home=queue_of(look, queue), **filters)
        print_list(
            model.browse(look.store, wanted, after),
            limit=limit,
            as_json=as_json,
            to_json=shown.summary,
            columns=COLUMNS,
            row=shown.row,
            empty="no jobs",
        )
        return look.say()


@jobs.command(epilog=STORE_HELP)
@on_store("[MODULE] ID")
@json_option
def show(given: tuple[str, ...], url: str, queue: str, as_json: bool) -> int:
    """Show a job: where it is, its payload and headers, and each failed attempt.

    \b
    --json is one object with the keys of `worker dead show --json`; more may come.
    """
    with looking(given, url, "ID") as (look, (job_id,)):
        (view,) = _chosen(look, [job_id], queue)
    shown.print_job(view, as_json=as_json)
    return 0


@jobs.command(epilog=STORE_HELP)
@on_store("[MODULE] ID...")
def retry(given: tuple[str, ...], url: str, queue: str) -> int:
    """Return dead letters to the end of their home queue, as `worker dead replay`.

    Jobs of other states run by themselves: each is named, and stays. If one of the ids is unknown, nothing is done.
    """
    return _change(given, url, queue, lambda acts: acts.replay, "returned")


@jobs.command(epilog=STORE_HELP)
@on_store("[MODULE] [ID]...")
@click.option("--state", "states", multiple=True, type=click.Choice(LIVE), help="Only these; may be repeated.")
@filter_options
@click.option("--all", "everything", is_flag=True, help="All that pass the filters, or all of --queue.")
@yes_option
def cancel(
    given: tuple[str, ...], url: str, queue: str, states: Sequence[State], everything: bool, yes: bool, **filters: Any
) -> int:
    """Cancel jobs that wait or run.

    A waiting job never runs. A running one is stopped: within about a second its `ctx.should_stop` is true, after the
    queue's kill_after (at most 5 s) JobInterrupted is raised in its handler, and after kill_after more its process is
    killed. Under `worker run --solo` a running job goes on to its end. Cancelled jobs are listed for the queue's
    ttl, or a day, then they are deleted.

    Asks first on a terminal; elsewhere --yes is needed. If one of the ids is unknown, nothing is cancelled. Dead
    letters are named, and stay.
    """
    with looking_for_some(given, url) as (look, ids):
        wanted = filter_of(states=states or LIVE, home=queue_of(look, queue), **filters)
        everything = everything or wanted != Filter(states=LIVE, home=wanted.home)
        if everything == bool(ids):
            both = f": {ids[0][:100]!r} is taken for an id, beside --all or a filter" if ids else ""
            raise UsageError(f"give the ids of jobs, or --all{both}")
        if everything:  # those that come after this look are left alone
            uids = {view.job.uid for view in model.each(look.store, wanted) if not view.is_dead_letter}
            views, count = _again(look, wanted, uids), len(uids)
        else:
            with all_or_none(ids):
                chosen = _chosen(look, ids, queue)
            views, count = iter(chosen), len(chosen)
        return _act(look, views, count, lambda acts: acts.cancel, "cancelled", ask=not yes and count > 0)


def _again(look: Look, wanted: Filter, uids: set[bytes]) -> Iterator[JobView]:
    left = set(uids)
    for view in model.each(look.store, wanted):
        if view.job.uid in left:
            left.discard(view.job.uid)
            yield view


@jobs.command(epilog=STORE_HELP)
@on_store("[MODULE] ID...")
@yes_option
def discard(given: tuple[str, ...], url: str, queue: str, yes: bool) -> int:
    """Delete jobs that no worker has claimed, for ever.

    Asks first on a terminal; elsewhere --yes is needed. If one of the ids is unknown, nothing is deleted.
    """
    return _change(given, url, queue, lambda acts: acts.discard, "deleted", ask=not yes)


@jobs.command(epilog=STORE_HELP)
@on_store("[MODULE] ID JSON|-")
@click.option("--keep", is_flag=True, help="Leave the job where it is.")
def edit(given: tuple[str, ...], url: str, queue: str, keep: bool) -> int:
    """Queue a copy of a job with another payload, then delete the job; print the id of the copy.

    The payload is strict JSON; - reads it from standard input. With MODULE it must fit the queue's payload type: if it
    does not, nothing is done. The copy has a new id and all its attempts. If this is killed in between, both exist.
    """
    with looking(given, url, "ID", "JSON") as (look, (job_id, text)):
        (view,) = _chosen(look, [job_id], queue)
        if text == "-":
            data = sys.stdin.buffer.read(LONGEST)
            text = data.decode("utf-8", "surrogateescape").strip()
        with acting(look) as acts:
            print(escape(acts.edit(view, text, keep=keep)))
    return 0


def _change(
    given: Sequence[str],
    url: str,
    queue: str,
    verb: Callable[[Acts], Callable[[JobView], str]],
    what: str,
    *,
    ask: bool = False,
) -> int:
    with looking_for_some(given, url) as (look, ids):
        if not ids:
            raise UsageError("give the ids of jobs")
        with all_or_none(ids):
            views = _chosen(look, ids, queue)
        return _act(look, iter(views), len(views), verb, what, ask=ask)


def _act(
    look: Look,
    views: Iterator[JobView],
    count: int,
    verb: Callable[[Acts], Callable[[JobView], str]],
    what: str,
    *,
    ask: bool,
) -> int:
    if ask:
        confirm(counted(count, "job"), "Cancel" if what == "cancelled" else "Delete", what)
    with acting(look) as acts:
        result: Done = acts.many(views, warning(verb(acts)))
    return done(look, result.count, count, what, "job", acts.still_running())


def _chosen(look: Look, ids: Sequence[str], queue: str) -> list[JobView]:
    """Return the jobs of these ids, each once. Raises WorkerError: one is missing; UsageError: which of several?"""
    home = queue_of(look, queue)
    try:
        return [model.one(look.store, job_id, home) for job_id in dict.fromkeys(ids)]
    except WorkerError:
        look.say()
        raise
