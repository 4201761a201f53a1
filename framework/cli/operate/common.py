"""The parts that these commands share: the store that they look at, options of lists, and the filters."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from framework.admin import acts
from framework.admin.actor import actor
from framework.admin.filters import REASONS, age_of, field_of
from framework.admin.jobs import STATES, Filter
from framework.cli.output import Column, counted, is_terminal, print_json_array, table, warn
from framework.cli.service import Look, is_module, is_module_name, load_service, opened_at
from framework.engine.port import JobView, State
from framework.model.errors import UsageError, WorkerError

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
STORE_HELP = (
    "MODULE is the service's module, or module:Name. It may be left out where WORKER_MODULE is set. Where --url or "
    "WORKER_ENGINE_URL names a store, it may be left out as well: then the queues are those that lie there."
)
SHORT = 100  # rows on a terminal without --limit

url_option = click.option("--url", metavar="URL", default="", help="The store, instead of WORKER_ENGINE_URL.")
queue_option = click.option(
    "--queue",
    metavar="NAME",
    default="",
    help="Only of this queue, or that lie on it.",
    shell_complete=lambda *given: _queues(*given),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, see above.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def on_store(metavar: str) -> Callable[[F], F]:
    """Return a decorator that adds the arguments, named by `metavar`, and the options --url and --queue."""

    def add(command: F) -> F:
        for option in (queue_option, url_option, click.argument("given", nargs=-1, metavar=metavar)):
            command = option(command)
        return command

    return add


def list_options(command: F) -> F:
    """Add the options of a list: --limit, --after, --json."""
    for option in (
        json_option,
        click.option("--after", metavar="POSITION", default="", help="Go on behind this position, from `after`."),
        click.option("--limit", type=click.IntRange(1), metavar="N", help=f"At most so many; on a terminal {SHORT}."),
    ):
        command = option(command)
    return command


def filter_options(command: F) -> F:
    """Add the filters of jobs: --reason, --error, --older, --younger, --field."""
    for option in (
        click.option("--field", "fields", multiple=True, metavar="PATH=TEXT", help="In the payload; may be repeated."),
        click.option("--younger", metavar="AGE", default="", help="In its state for at most so long, as 30m or 2d."),
        click.option("--older", metavar="AGE", default="", help="In its state for at least so long."),
        click.option("--error", metavar="TEXT", default="", help="A part of the last error's type or message."),
        click.option("--reason", type=click.Choice(REASONS), default=None, help="Why the last attempt failed."),
    ):
        command = option(command)
    return command


def filter_of(
    *,
    states: Sequence[State] = STATES,
    home: str = "",
    dead_letters: bool = False,
    reason: str | None,
    error: str,
    older: str,
    younger: str,
    fields: Sequence[str],
) -> Filter:
    """Return the filter that these options say. Raises UsageError."""
    pairs = dict(field_of(text, "--field") for text in fields)
    ages = age_of(older, "--older"), age_of(younger, "--younger")
    return Filter((), states, home, dead_letters, reason or "", error, *ages, pairs)


# --- the store --------------------------------------------------------------------------------------------------------


@contextmanager
def looking(given: Sequence[str], url: str, *wanted: str) -> Generator[tuple[Look, list[str]], None, None]:
    """Open the store that a command names; yield it and the wanted arguments behind MODULE. Raises UsageError."""
    default = "" if url else os.environ.get("WORKER_MODULE", "")
    if len(given) == len(wanted) + 1:
        module, rest = given[0], list(given[1:])
    elif len(given) == len(wanted) and (default or _any_store(url)):
        module, rest = default, list(given)
    else:
        hint = "; MODULE comes first, or set WORKER_MODULE, or name a store by --url" * (len(given) <= len(wanted))
        expected, count = " ".join(("MODULE", *wanted)), len(given)
        raise UsageError(f"expected {expected}, got {count or 'no'} argument{'s' * (count != 1)}{hint}")
    with _opened(module, url) as look:
        yield look, rest


@contextmanager
def looking_for_some(given: Sequence[str], url: str) -> Generator[tuple[Look, list[str]], None, None]:
    """Open the store that a command names; yield it and any number of other arguments. Raises UsageError."""
    default = os.environ.get("WORKER_MODULE", "")
    named = bool(given) and (given[0] == default or is_module(given[0]))
    if named or (given and not default and not _any_store(url)):
        module, rest = given[0], list(given[1:])
    else:
        module, rest = ("" if url else default), list(given)
    if not module and not _any_store(url):
        raise UsageError("MODULE is missing: name it first, or set WORKER_MODULE, or name a store by --url")
    with _opened(module, url) as look, _hinting(rest if len(given) > 1 and not named else []):
        yield look, rest


@contextmanager
def _hinting(ids: Sequence[str]) -> Generator[None, None, None]:
    """Add to an error about the first of several ids that it may have been meant as MODULE."""
    try:
        yield
    except WorkerError as error:
        meant = bool(ids) and is_module_name(ids[0]) and repr(ids[0]) in str(error)
        if meant and type(error) in (WorkerError, UsageError):
            raise type(error)(f"{error}; nor is there a module {ids[0]} (searched from {os.getcwd()})") from None
        raise


def module_of(given: Sequence[str], url: str) -> str:
    """Return MODULE, or empty where none is named: for a command that does without. Raises UsageError."""
    if len(given) > 1:
        raise UsageError(f"expected MODULE, got {len(given)} arguments")
    return given[0] if given else "" if url else os.environ.get("WORKER_MODULE", "")


def _any_store(url: str) -> bool:
    """Return whether a store is named without a service."""
    return bool(url or os.environ.get("WORKER_ENGINE_URL"))


@contextmanager
def _opened(module: str, url: str) -> Generator[Look, None, None]:
    service = load_service(module) if module else None
    with opened_at(url, service) as look:
        yield look


def queue_of(look: Look, queue: str) -> str:
    """Return the name of a queue that an option names, by its name or attribute; empty for empty. Raises UsageError."""
    if not queue:
        return ""
    if look.service is None or queue in look.store.others():
        return look.store.name(queue)
    return look.service.queue(queue).name


# --- lists ------------------------------------------------------------------------------------------------------------


def print_list(
    listed: Iterator[tuple[str, T | None]],
    *,
    limit: int | None,
    as_json: bool,
    to_json: Callable[[T], dict[str, Any]],
    columns: Sequence[Column],
    row: Callable[[T], Sequence[str]],
    empty: str,
) -> None:
    """Print a list, item by item, up to the limit. On a terminal it says where to go on.

    Args:
        listed: pairs of the position behind an item, and the item; None: it is left out.
    """
    short = limit is None and is_terminal(sys.stdout) and not as_json
    most = SHORT if short else limit
    last = [""]

    def shown() -> Iterator[T]:
        count = 0
        for position, item in listed:
            if item is None:
                continue
            last[0] = position
            yield item
            count += 1
            if count == most:
                return

    if as_json:
        print_json_array(to_json(item) | {"after": last[0]} for item in shown())
        return
    table(columns, map(row, shown()), empty=empty)
    if is_terminal(sys.stdout) and any(item is not None for _, item in listed):
        warn(f"these are the first {most}: see the others with --limit N, or in a pipe, or --after {last[0]}")


@contextmanager
def all_or_none(ids: Sequence[str]) -> Generator[None, None, None]:
    """Say of an error with one of several ids that nothing was done with the others."""
    try:
        yield
    except WorkerError as error:
        if len(ids) > 1 and type(error) in (WorkerError, UsageError):
            raise type(error)(f"{error}; nothing was done") from None
        raise


def done(look: Look, count: int, wanted: int, what: str, thing: str, more: str = "") -> int:
    """Print how many were done, and what more is to say of them; return the exit code."""
    print(f"{what} {counted(count, thing)}{more}")
    return look.say() or int(count != wanted)


def warning(verb: Callable[[JobView], str]) -> Callable[[JobView], str]:
    """Return a verb that warns of each job that stays."""

    def tried(view: JobView) -> str:
        if why := verb(view):
            warn(f"{view.job.id} on {view.queue} {why}")
        return why

    return tried


def acting(look: Look) -> acts.Acts:
    """Return the acts of whoever calls this command."""
    return acts.Acts(look.store, actor(), acts.noted(look.store))


def _queues(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the queues of WORKER_ENGINE_URL or --url that begin like this, for the shell."""
    from framework.admin.completing import queue_names

    return [name for name in queue_names(ctx.params.get("url") or "") if name.startswith(incomplete)]
