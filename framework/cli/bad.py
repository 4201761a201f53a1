"""The commands `worker bad list|show|restore|discard`, for stored files that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import click

from framework.cli.output import Column, confirm, counted, moment, one_line, print_json, print_json_array, table
from framework.cli.service import MODULE_HELP, Look, OpenedEngine, load_service, opened, take, take_some
from framework.engine.port import JobView, QueueStats
from framework.model.errors import UsageError, WorkerError
from framework.model.text.printable import escape

COLUMNS = (
    Column("file", style="bold", fit="whole"), Column("queue"), Column("since", fit="whole"),
    Column("flaw", style="red", fit="cut"),
)  # fmt: skip
READABLE = "none: it can be read now"

queue_option = click.option("--queue", "queue", metavar="NAME", help="Only files of this queue.")
all_option = click.option("--all", "everything", is_flag=True, help="All bad files, or all of --queue.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, see above.")


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


@bad.command("list", epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE")
@queue_option
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many.")
@json_option
def list_(given: tuple[str, ...], queue: str | None, limit: int | None, as_json: bool) -> int:
    """List bad files, oldest first within each queue.

    \b
    --json is one array of objects with these keys, in this order; more may come:
      file, queue     its name, and the queue where it lies
      since           when it was put aside (ISO time, UTC)
      flaw            what is wrong with it; empty where it can be read now
      place           where it is (path)
    """
    (module,) = take(given)
    with _opened(module, queue) as (look, files):
        found = islice(files, limit)
        if as_json:
            print_json_array(map(_summary, found))
        else:
            table(COLUMNS, map(_row, found), empty="no bad files")
        return look.say()


@bad.command(epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE FILE")
@queue_option
@json_option
def show(given: tuple[str, ...], queue: str | None, as_json: bool) -> int:
    """Show where a bad file is, what is wrong with it, and how it begins.

    \b
    --json is one object with the keys of `worker bad list --json`, and this; more may come:
      start           its first 4,096 bytes, as text
      extras          of the job, where it can be read now; see `worker dead show` (object)
    """
    module, file = take(given, "FILE")
    with _opened(module, queue) as (look, files):
        (view,) = _chosen(look, files, [file])
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


@bad.command(epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE [FILE]...")
@queue_option
@all_option
def restore(given: tuple[str, ...], queue: str | None, everything: bool) -> int:
    """Put repaired files back among the jobs of their queue.

    A file that still cannot be read stays. If one of the names is unknown, nothing is restored.
    """
    return _change(given, queue, everything, lambda engine, view: engine.restore(view), "restored")


@bad.command(epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE [FILE]...")
@queue_option
@all_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(given: tuple[str, ...], queue: str | None, everything: bool, yes: bool) -> int:
    """Delete bad files for ever.

    Asks first on a terminal; elsewhere --yes is needed. If one of the names is unknown, nothing is deleted.
    """
    return _change(given, queue, everything, _discarded, "deleted", ask=not yes)


def _discarded(engine: OpenedEngine, view: JobView) -> str:
    return "" if engine.discard(view) else "is no longer there"


def _change(
    given: Sequence[str],
    queue: str | None,
    everything: bool,
    verb: Callable[[OpenedEngine, JobView], str],
    done: str,
    *,
    ask: bool = False,
) -> int:
    module, names = take_some(given)
    with _opened(module, queue) as (look, files):
        if everything == bool(names):
            raise UsageError("give the names of bad files, or --all")
        # Read before the user confirms: files that come later are left alone.
        views = list(files) if everything else _chosen(look, files, names)
        if views and ask:
            confirm(counted(len(views), "bad file"))
        count = look.change(views, lambda view: verb(look.engine, view), name=lambda view: view.job.id)
    print(f"{done} {counted(count, 'bad file')}")
    failed = look.say() if everything else 0
    return failed or int(count != len(views))


def _chosen(look: Look, files: Iterator[JobView], names: Sequence[str]) -> list[JobView]:
    """Return the bad files with these names. Raises WorkerError: one is missing."""
    found = {view.job.id: view for view in files if view.job.id in names}
    missing = [name for name in names if name not in found]
    if missing:
        look.say()
        raise WorkerError(f"there is no bad file {missing[0][:100]!r}: see `worker bad list`")
    return list(found.values())


@contextmanager
def _opened(module: str, queue: str | None) -> Iterator[tuple[Look, Iterator[JobView]]]:
    """Open the engine inside the block, with the bad files of all queues, undeclared ones included, or of one queue."""
    service = load_service(module)
    with opened(service) as look:
        others = list(look.read(look.undeclared, dict[str, QueueStats]()))
        if queue is None:
            names = [*(found.name for found in look.queues), *others]
        else:
            name = queue if queue in others else service.queue(queue).name
            names = [] if name in look.refused else [name]
        yield look, (view for name in names for view in look.each(look.engine.browse(name, "bad")))


def _summary(view: JobView) -> dict[str, Any]:
    """Return what a list prints of a file; the help text promises these keys."""
    since = moment(view.since)
    return {"file": view.job.id, "queue": view.queue, "since": since, "flaw": view.flaw, "place": view.place}


def _row(view: JobView) -> tuple[str, ...]:
    return view.job.id, view.queue, moment(view.since), view.flaw or READABLE
