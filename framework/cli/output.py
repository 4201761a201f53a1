"""The output of commands: tables and colours for a terminal, plain text for a pipe, JSON on request."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

import click

from framework.model.errors import UsageError, WorkerError
from framework.model.text.printable import escape
from framework.model.text.redaction import hider

if TYPE_CHECKING:
    from rich.table import Table

WIDE = 150


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        number: aligned to the right.
        style: a rich style, or a function from the cell to one.
        fit: how a cell is shown in a narrow terminal: folded, cut, or whole.
        detail: the column is left out on a terminal with fewer than `WIDE` columns.
    """

    title: str
    number: bool = False
    style: str | Callable[[str], str] = ""
    fit: Literal["fold", "cut", "whole"] = "fold"
    detail: bool = False


def one_line(text: str) -> str:
    """Return any text on one line, safe to print."""
    return escape(" ".join(text.split()))


def moment(seconds: float) -> str:
    """Return seconds since the epoch as an ISO time in UTC; empty for 0."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds") if seconds else ""


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether the stream is a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def styled(text: str, code: int, stream: TextIO) -> str:
    """Return the text, with a colour if the stream is a terminal that accepts colours."""
    plain = not is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def complain(text: str) -> None:
    """Print to standard error. If that fails, only the exit code reports the error."""
    with suppress(OSError):
        print(text, file=sys.stderr)


def warn(text: str) -> None:
    """Print a warning as one line on standard error."""
    complain(f"worker: {styled('warning:', 33, sys.stderr)} {one_line(hider(os.environ)(text))}")


def fail(text: str) -> None:
    """Print the error that ends a command, as one line on standard error."""
    complain(f"worker: {styled('error:', 31, sys.stderr)} {one_line(hider(os.environ)(text))}")


def counted(count: int, thing: str) -> str:
    """Return a number and its noun: `1 queue`, `2 queues`."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def confirm(what: str, verb: str = "Delete", past: str = "deleted") -> None:
    """Ask for confirmation before `what` is deleted for ever, or what else the verb says.

    Raises UsageError: there is no terminal; WorkerError: the answer is no; click.Abort: there is no answer.
    """
    if not is_terminal(sys.stdin) or not is_terminal(sys.stderr):
        raise UsageError(f"nothing was {past}: not a terminal: pass --yes to confirm")
    if not click.confirm(f"{verb} {what} for ever?", err=True):
        raise WorkerError(f"nothing was {past}")


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, empty: str = "") -> None:
    """Print a table on a terminal; elsewhere a line of titles and one for each row at once, with tabs between cells."""
    if not is_terminal(sys.stdout):
        print("\t".join(column.title for column in columns))
        for row in rows:
            print("\t".join(map(one_line, row)))
        return
    from rich.console import Console

    console = Console()
    shown = [at for at, column in enumerate(columns) if not column.detail or console.width >= WIDE]
    cells = [[one_line(row[at]) for at in shown] for row in rows]
    if cells or not empty:
        console.print(_grid([columns[at] for at in shown], cells, console.width))
    else:
        print(empty)


def _grid(columns: Sequence[Column], rows: list[list[str]], width: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text  # never markup: cells contain foreign text

    room = _room(columns, rows, width) if rows else width
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.number else "left"
        word = max(map(len, column.title.split()))
        whole = column.fit == "whole"
        grid.add_column(column.title, justify=justify, overflow="fold", no_wrap=whole, min_width=word)
    for row in rows:
        cells = []
        for column, cell in zip(columns, row, strict=True):
            style = column.style(cell) if callable(column.style) else column.style
            text = Text(cell, style=style)
            if column.fit == "cut":
                text.truncate(room, overflow="ellipsis")
            cells.append(text)
        grid.add_row(*cells)
    return grid


def _room(columns: Sequence[Column], rows: list[list[str]], width: int) -> int:
    """Return the number of characters that the other columns leave for a cell that may be cut."""
    taken = 0
    for at, column in enumerate(columns):
        if column.fit != "cut":
            taken += max(len(column.title), *(len(row[at]) for row in rows))
        taken += 2  # between the columns
    return max(12, width - taken)


def print_json(value: Any) -> None:
    """Print one JSON document, ASCII only, so that no character acts on a terminal."""
    print(json.dumps(value, indent=2))


def print_json_array(items: Iterable[Any]) -> None:
    """Print a JSON array, ASCII only, item by item as they come, so that a million items need no memory."""
    count = 0
    for item in items:
        print("[" if count == 0 else ",")
        print(json.dumps(item), end="")
        count += 1
    print("\n]" if count else "[]")


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


def hear_warnings() -> None:
    """Print the framework's warnings as lines of this command; `worker run` logs them instead."""
    log = logging.getLogger("framework")
    if not any(isinstance(handler, _Warnings) for handler in log.handlers):
        log.addHandler(_Warnings(logging.WARNING))
