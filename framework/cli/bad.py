"""The commands `worker bad list|show|restore|discard`, for stored files that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import click

from framework.cli.letters import stays
from framework.cli.looks import Looks
from framework.cli.output import Column, confirm, counted, moment, one_line, print_json, print_json_array, table, warn
from framework.cli.service import MODULE_HELP, OpenedEngine, load_service, open_undeclared, opened, take, take_some
from framework.engine.port import JobView
from framework.model.errors import EngineUnavailable, UsageError, WorkerError
from framework.model.text.printable import escape

COLUMNS = (
    Column("file", style="bold", fit="whole"), Column("queue"), Column("since", fit="whole"),
    Column("flaw", style="red", fit="cut"),
)  # fmt: skip
READABLE = "none: it can be read now"

queue_option = click.option("--queue", "queue", metavar="NAME", help="Only files of this queue.")
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
    with _looking(module, queue) as look:
        found = islice(look.files(), limit)
        if as_json:
            print_json_array(map(_summary, found))
        else:
            table(COLUMNS, map(_row, found), empty="no bad files")
        return look.looks.say()


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
    with _looking(module, queue) as look:
        (view,) = look.chosen([file])
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
@click.option("--all", "everything", is_flag=True, help="All bad files, or all of --queue.")
def restore(given: tuple[str, ...], queue: str | None, everything: bool) -> int:
    """Put repaired files back among the jobs of their queue.

    A file that still cannot be read stays. If one of the names is unknown, nothing is restored.
    """
    module, files = take_some(given)
    with _looking(module, queue) as look:
        code = _act(look.wanted(files, everything), look.engine.restore, "restored")
    return look.looks.say() or code if everything else code


@bad.command(epilog=MODULE_HELP)
@click.argument("given", nargs=-1, metavar="MODULE [FILE]...")
@queue_option
@click.option("--all", "everything", is_flag=True, help="All bad files, or all of --queue.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(given: tuple[str, ...], queue: str | None, everything: bool, yes: bool) -> int:
    """Delete bad files for ever.

    Asks first on a terminal; elsewhere --yes is needed. If one of the names is unknown, nothing is deleted.
    """
    module, files = take_some(given)
    with _looking(module, queue) as look:
        views = look.wanted(files, everything)
        if views and not yes:
            confirm(counted(len(views), "bad file"))
        code = _act(views, lambda view: "" if look.engine.discard(view) else "is no longer there", "deleted")
    return look.looks.say() or code if everything else code


@dataclass(frozen=True)
class _Look:
    """The engine, and the queues that a command reads."""

    engine: OpenedEngine
    queues: Sequence[str]
    looks: Looks

    def files(self) -> Iterator[JobView]:
        for name in self.queues:
            yield from self.looks.each(self.engine.browse(name, "bad"))

    def chosen(self, files: Sequence[str]) -> list[JobView]:
        """Return the bad files with these names. Raises WorkerError: one is missing."""
        found = {view.job.id: view for view in self.files() if view.job.id in files}
        missing = [file for file in dict.fromkeys(files) if file not in found]
        if missing:
            self.looks.say()
            raise WorkerError(f"there is no bad file {missing[0][:100]!r}: see `worker bad list`")
        return list(found.values())

    def wanted(self, files: Sequence[str], everything: bool) -> list[JobView]:
        """Return the bad files to act on, read before the user confirms: files that come later are left alone."""
        if everything == bool(files):
            raise UsageError("give the names of bad files, or --all")
        return list(self.files()) if everything else self.chosen(files)


@contextmanager
def _looking(module: str, queue: str | None) -> Generator[_Look, None, None]:
    service = load_service(module)
    with opened(service) as engine:
        looks = Looks(service.refused)
        others = looks(lambda: open_undeclared(engine), list[str]())
        if queue is None:
            names = [*(found.name for found in service.open_queues), *others]
        else:
            name = queue if queue in others else service.queue(queue).name
            names = [] if name in service.refused else [name]
        yield _Look(engine, names, looks)


def _summary(view: JobView) -> dict[str, Any]:
    """Return what a list prints of a file; the help text promises these keys."""
    since = moment(view.since)
    return {"file": view.job.id, "queue": view.queue, "since": since, "flaw": view.flaw, "place": view.place}


def _row(view: JobView) -> tuple[str, ...]:
    return view.job.id, view.queue, moment(view.since), view.flaw or READABLE


def _act(views: Sequence[JobView], verb: Callable[[JobView], str], done: str) -> int:
    count = 0
    for view in views:
        try:
            why = verb(view)
        except EngineUnavailable as error:  # for this file only: the others may succeed
            why = stays(error)
        if why:
            warn(f"{view.job.id} {why}")
        count += not why
    print(f"{done} {counted(count, 'bad file')}")
    return 0 if count == len(views) else 1
