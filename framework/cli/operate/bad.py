"""The commands `worker bad list|show|restore|discard`, for stored files that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from framework.admin import bad as model
from framework.admin.acts import Acts
from framework.cli.operate.common import (
    STORE_HELP,
    acting,
    done,
    json_option,
    list_options,
    looking,
    looking_for_some,
    on_store,
    print_list,
    queue_of,
    yes_option,
)
from framework.cli.output import Column, confirm, counted, moment, one_line, print_json
from framework.cli.service import Look
from framework.engine.port import JobView
from framework.model.errors import UsageError, WorkerError
from framework.model.text.printable import escape

COLUMNS = (
    Column("file", style="bold", fit="whole"), Column("queue"), Column("since", fit="whole"),
    Column("flaw", style="red", fit="cut"),
)  # fmt: skip
READABLE = "none: it can be read now"

all_option = click.option("--all", "everything", is_flag=True, help="All bad files, or all of --queue.")


@click.group(short_help="List, show, restore or discard stored files that cannot be read.", invoke_without_command=True)
@click.pass_context
def bad(ctx: click.Context) -> int:
    """Files that were stored as jobs and cannot be read: damaged, or not a job's.

    They are kept, never run and never deleted automatically. The commands also see the files of queues that no running
    service declares. To repair one, edit or replace the file in its place, which `list --json` and `show` print, and
    then restore it.
    """
    if ctx.invoked_subcommand is None:
        raise UsageError("choose one of list, show, restore, discard (see worker bad --help)")
    return 0


@bad.command("list", epilog=STORE_HELP)
@on_store("[MODULE]")
@list_options
def list_(given: tuple[str, ...], url: str, queue: str, limit: int | None, after: str, as_json: bool) -> int:
    """List bad files, by queue and name.

    \b
    --json is one array of objects with these keys, in this order; more may come:
      file, queue     its name, and the queue where it lies
      since           when it was put aside (ISO time, UTC)
      flaw            what is wrong with it; empty where it can be read now
      place           where it is (path)
      after           the position behind it, for --after
    """
    with looking(given, url) as (look, _):
        listed = model.files(look.store, queue_of(look, queue), after)
        print_list(
            listed, limit=limit, as_json=as_json, to_json=_summary, columns=COLUMNS, row=_row, empty="no bad files"
        )
        return look.say()


@bad.command(epilog=STORE_HELP)
@on_store("[MODULE] FILE")
@json_option
def show(given: tuple[str, ...], url: str, queue: str, as_json: bool) -> int:
    """Show where a bad file is, what is wrong with it, and how it begins.

    \b
    --json is one object with the keys of `worker bad list --json`, and this; more may come:
      start           its first 4,096 bytes, as text
      extras          of the job, where it can be read now; see `worker dead show` (object)
    """
    with looking(given, url, "FILE") as (look, (file,)):
        (view,) = _chosen(look, [file], queue)
    start = view.job.payload.decode("utf-8", "backslashreplace")
    if as_json:
        print_json(_summary(view) | {"start": start, "extras": view.job.extras.said()})
        return 0
    for title, value in _summary(view).items():
        print(f"{title:<8}{one_line(value) or READABLE}")
    for name, value in view.job.extras.said().items():
        print(f"{name:<11} {one_line(str(value))}")
    print(escape(start, keep="\n"))
    return 0


@bad.command(epilog=STORE_HELP)
@on_store("[MODULE] [FILE]...")
@all_option
def restore(given: tuple[str, ...], url: str, queue: str, everything: bool) -> int:
    """Put repaired files back among the jobs of their queue.

    A file that still cannot be read stays. If one of the names is unknown, nothing is restored.
    """
    with looking_for_some(given, url) as (look, names):
        views = _meant(look, names, queue, everything)
        with acting(look) as acts:
            return _change(look, views, acts, "restored", everything)


@bad.command(epilog=STORE_HELP)
@on_store("[MODULE] [FILE]...")
@all_option
@yes_option
def discard(given: tuple[str, ...], url: str, queue: str, everything: bool, yes: bool) -> int:
    """Delete bad files for ever.

    Asks first on a terminal; elsewhere --yes is needed. If one of the names is unknown, nothing is deleted.
    """
    with looking_for_some(given, url) as (look, names):
        views = _meant(look, names, queue, everything)
        if views and not yes:
            confirm(counted(len(views), "bad file"))
        with acting(look) as acts:
            return _change(look, views, acts, "deleted", everything)


def _meant(look: Look, names: Sequence[str], queue: str, everything: bool) -> list[JobView]:
    """Return the files that a command means. Those that come while the user confirms are left alone."""
    home = queue_of(look, queue)
    if everything == bool(names):
        raise UsageError("give the names of bad files, or --all")
    return [view for _, view in model.files(look.store, home)] if everything else _chosen(look, names, queue)


def _change(look: Look, views: Sequence[JobView], acts: Acts, what: str, everything: bool) -> int:
    verb = acts.restore if what == "restored" else acts.discard
    count = look.change(views, verb, name=lambda view: view.job.id)
    code = done(look, count, len(views), what, "bad file")
    return code if everything else int(count != len(views))


def _chosen(look: Look, names: Sequence[str], queue: str) -> list[JobView]:
    try:
        return model.find(look.store, names, queue_of(look, queue))
    except WorkerError:
        look.say()
        raise


def _summary(view: JobView) -> dict[str, Any]:
    """Return what a list prints of a file; the help text promises these keys."""
    since = moment(view.since)
    return {"file": view.job.id, "queue": view.queue, "since": since, "flaw": view.flaw, "place": view.place}


def _row(view: JobView) -> tuple[str, ...]:
    return view.job.id, view.queue, moment(view.since), view.flaw or READABLE
