"""The lines of the screen: a table that fits the width of a terminal, and what stands above it. No text is markup."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from textual.content import Content

from framework.model.text.printable import escape
from framework.model.text.spans import span
from framework.top.rows import UNKNOWN, Column, Row
from framework.top.views import View
from framework.top.watch import Overview

MOST = 3  # problems
GAP = 2
LEAST = 10  # characters of the column that gets what is left


class Fitted:
    """The columns that are shown of a table in a width, and how wide each is."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Row], width: int) -> None:
        self._columns = columns
        used = {at for row in rows for at, cell in enumerate(row.cells) if cell}
        wide = [max(_wide(one.title), *(_wide(row.cells[at]) for row in rows), 1) if rows else _wide(one.title)
                for at, one in enumerate(columns)]  # fmt: skip
        need = [min(wide[at], LEAST if one.most is None else one.most) for at, one in enumerate(columns)]
        chosen = [at for at in range(len(columns)) if at in used or not rows]
        while len(chosen) > 1 and _sum(need, chosen) > width:
            last = max(chosen, key=lambda at: columns[at].rank)
            if columns[last].rank == 0:
                break
            chosen.remove(last)
        for at in chosen:
            if columns[at].most is None:
                need[at] = max(1, min(wide[at], width - _sum(need, chosen) + need[at]))
        if (over := _sum(need, chosen) - width) > 0:
            need[chosen[0]] = max(1, need[chosen[0]] - over)
        self._sizes = [(at, need[at]) for at in chosen]

    def titles(self) -> Content:
        """Return the line of titles."""
        return self._joined([Content(one.title).stylize("bold") for one in self._columns])

    def line(self, row: Row) -> Content:
        """Return the line of a row."""
        cells = zip(self._columns, row.cells, strict=True)
        return self._joined([_styled(Content(cell), column, cell) for column, cell in cells])

    def _joined(self, cells: Sequence[Content]) -> Content:
        parts = []
        for at, size in self._sizes:
            cut = cells[at].truncate(size, ellipsis=True)
            room = size - cut.cell_length
            parts.append(cut.pad_left(room) if self._columns[at].number else cut.pad_right(room))
        return Content(" " * GAP).join(parts)


def _styled(cell: Content, column: Column, text: str) -> Content:
    return cell.stylize("bold $text-error") if column.alarming and text not in ("", "0", UNKNOWN) else cell


def _wide(text: str) -> int:
    return len(text) if text.isascii() else Content(text).cell_length


def _sum(sizes: Sequence[int], chosen: Sequence[int]) -> int:
    return sum(sizes[at] for at in chosen) + GAP * (len(chosen) - 1)


def head(place: str, seen: Overview | None, problems: Sequence[str], width: int) -> Content:
    """Return the lines above the views: which store and when, who reports, and what went wrong.

    What is only a name or a count is cut at the width, so that in a narrow terminal the rows keep their room.
    """
    where = Content(escape(place)).stylize("bold")
    lines = [where.truncate(width, ellipsis=True)]
    if seen is not None:
        clock = f"  {_clock(seen.at)}"
        lines = [where.truncate(max(1, width - len(clock)), ellipsis=True) + clock]
        reports = _reports(seen)
        lines.append(reports if seen.silent else reports.truncate(width, ellipsis=True))
    lines += [Content(escape(" ".join(text.split()))).stylize("$text-error") for text in problems[:MOST]]
    if len(problems) > MOST:
        lines.append(Content(f"and {len(problems) - MOST} more problems: see worker queues"))
    return Content("\n").join(lines)


def _clock(moment: float, date: str = "") -> str:
    return datetime.fromtimestamp(moment, UTC).strftime(f"{date}%H:%M:%S UTC")


def _reports(seen: Overview) -> Content:
    """Return the line that says which services report."""
    if seen.silent:
        ago = "" if seen.seen is None else span(max(0.0, seen.at - seen.seen))
        when = "here" if seen.seen is None else f"since {_clock(seen.seen, '%Y-%m-%d ')}, {ago} ago"
        return Content(f"no running service has reported {when}").stylize("bold $text-warning")
    who = [f"{tree.app} (supervisor {tree.supervisor})" for tree in seen.living] or ["a service on another machine"]
    ready, runs, delayed = (
        sum(getattr(one.stats, count) or 0 for one in seen.queues) for count in ("ready", "in_flight", "delayed")
    )
    return Content(escape(f"{', '.join(who)}: {ready:,} ready, {runs:,} claimed, {delayed:,} delayed"))


def tabs(tops: Sequence[View], trail: Sequence[View], seen: Overview | None) -> Content:
    """Return the line of the views, or what was opened."""
    runs = sum(len(one.runs) for tree in seen.living for one in tree.processes) if seen else 0
    counts = (0, runs, seen.dead_letters if seen else 0)
    names = [f" {at} {view.name}{f' {count:,}' if count else ''} " for at, (view, count) in
             enumerate(zip(tops, counts, strict=True), 1)]  # fmt: skip
    parts = [Content(name).stylize("bold reverse") if view is trail[0] else Content(name)
             for view, name in zip(tops, names, strict=True)]  # fmt: skip
    line = Content(f"‹ {escape(trail[-1].name)}").stylize("bold") if len(trail) > 1 else Content("").join(parts)
    return line + f"  filter: {escape(trail[-1].filter)}" if trail[-1].filter else line
