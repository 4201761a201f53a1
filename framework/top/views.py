"""The views of the screen: lists of queues, of what runs, of failures and of jobs, and all that is known of a job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from framework.admin import dead, jobs
from framework.admin.acts import Verb
from framework.admin.dead import Group
from framework.admin.filters import REASONS, age_of, field_of
from framework.admin.jobs import Filter
from framework.admin.queues import QueueView
from framework.admin.store import Store
from framework.engine.port import JobView
from framework.model.errors import UsageError
from framework.top import rows
from framework.top.rows import Column, Item, Row
from framework.top.watch import Gone, Overview, Target, find, running, shortened

Lines = Callable[[JobView], Iterator[str]]
GROUPED = 2000  # dead letters that are grouped; an act on a group is on all of them
PAGE = 200  # jobs
NARROWING: Final = ("queue", "state", "reason", "error", "older", "younger", "field")
DEAD_VERBS: tuple[Verb, ...] = ("replay", "discard")
EVERY_VERB: tuple[Verb, ...] = ("cancel", *DEAD_VERBS)


@dataclass
class View:
    """A list, or a text in its place.

    Attributes:
        look: reads anew what is shown, in the thread of the store. Raises WorkerError.
        columns: none: it is a text.
        empty: what stands there where it has no rows.
        verbs: the acts on a row.
        wanted: which jobs a list of jobs has. after, next: where its page begins, and the next one.
        rows, text: what the last look has found. read: there was one. note: what must be said of it.
        item: what a text is about.
        filter: as a person has typed it.
        at: key of the row that is marked.
    """

    name: str
    look: Callable[[View, Store, Overview], None] = lambda view, store, seen: None
    columns: Sequence[Column] = ()
    empty: str = ""
    verbs: Sequence[Verb] = ()
    wanted: Filter | None = None
    after: str = ""
    next: str = ""
    rows: Sequence[Row] = ()
    text: str = ""
    read: bool = False
    note: str = ""
    item: Item | None = None
    filter: str = ""
    at: str = ""

    def shown(self) -> list[Row]:
        """Return the rows that have all words of the filter, but for those that the store knows."""
        words = [word for word in self.filter.lower().split() if not (self.wanted and word.split("=")[0] in NARROWING)]
        return [row for row in self.rows if all(word in " ".join(row.cells).lower() for word in words)]

    def marked(self) -> Item | None:
        """Return what an act is on."""
        return next((row.item for row in self.shown() if row.key == self.at), self.item)


def tops() -> list[View]:
    """Return the three views that a screen begins with."""
    return [
        View("Queues", _queues, rows.QUEUES, "no queues", ("pause",)),
        View("Running", _running, rows.RUNNING, "nothing runs", ("cancel",)),
        View("Failures", _failures, rows.FAILURES, "no dead letters", DEAD_VERBS, Filter()),
    ]


def opened(item: Item, filter_: str, lines: Lines) -> View:
    """Return the view of the jobs of a queue or of a group, or of one job.

    Args:
        filter_: of the view in which it was marked.
        lines: yields all that is to be said of a job.
    """
    if isinstance(item, QueueView):
        return View(f"Jobs of {item.name}", _jobs, rows.JOBS, "no jobs", EVERY_VERB, Filter(queues=(item.name,)))
    if isinstance(item, Group):
        name, wanted = f"Dead letters of {item.queue}: {item.reason} {item.error_type}", of_group(item)
        return View(name, _jobs, rows.JOBS, "no dead letters", DEAD_VERBS, wanted, filter=filter_)
    return View(f"Job {rows.target(item)[1]}", _Job(rows.target(item), lines), verbs=EVERY_VERB)


def of_group(group: Group, filter_: str = "") -> Filter:
    """Return the filter of the dead letters of a group, narrowed by a text. Raises UsageError."""
    kind = group.error_type if group.reason else None
    found = narrowed(Filter(dead_letters=True), filter_)
    return replace(found, home=group.queue, reason=group.reason, error_type=kind)


def _queues(view: View, store: Store, seen: Overview) -> None:
    view.rows = rows.of_queues(seen)


def _running(view: View, store: Store, seen: Overview) -> None:
    view.rows = rows.of_running(running(store, seen))


def _failures(view: View, store: Store, seen: Overview) -> None:
    view.rows = rows.of_failures(dead.groups(store, narrowed(Filter(), view.filter), GROUPED))
    more = seen.dead_letters > GROUPED
    view.note = f"counts are of the first {GROUPED:,} of {seen.dead_letters:,} dead letters" if more else ""


def _jobs(view: View, store: Store, seen: Overview) -> None:
    assert view.wanted is not None
    page = jobs.page(store, narrowed(view.wanted, view.filter), after=view.after, limit=PAGE)
    view.next, view.rows = page.after, rows.of_jobs(page.jobs)
    view.note = "n: more jobs" if page.after else "n: the first jobs again" if view.after else ""


@dataclass
class _Job:
    """Looks at one job. Once it is gone, what was seen last stays."""

    target: Target
    lines: Lines

    def __call__(self, view: View, store: Store, seen: Overview) -> None:
        try:
            job = find(store, *self.target)
        except Gone as error:
            view.note, view.item = f"{error}{'; this is how it was seen last' if view.text else ''}", None
            return
        self.target, view.item = (job.queue, job.job.id, job.job.uid), job
        key = f"{job.queue}:{shortened(job.job.id)}"
        runs = [row for row in rows.of_running(running(store, seen)) if row.key == key and job.state == "in_flight"]
        cells = zip(rows.RUNNING, runs[0].cells, strict=True) if runs else ()
        view.text = "\n".join([*self.lines(job), "", *(f"{one.title:<11} {cell}" for one, cell in cells if cell)])


def narrowed(wanted: Filter, text: str) -> Filter:
    """Return a filter with what a text such as `reason=timeout older=2h` adds to it. Raises UsageError."""
    given = dict(word.split("=", 1) for word in text.split() if "=" in word)
    found = {name: given[name] for name in NARROWING if given.get(name)}
    for name, known in (("state", jobs.STATES), ("reason", REASONS)):
        if name in found and found[name] not in known:
            raise UsageError(f"{name}={found[name][:40]}: choose one of {', '.join(known)}")
    return replace(
        wanted,
        states=tuple(state for state in jobs.STATES if state == found.get("state", state)),
        home=found.get("queue", wanted.home),
        reason=found.get("reason", wanted.reason),
        error=found.get("error", wanted.error),
        older=age_of(found.get("older", ""), "older="),
        younger=age_of(found.get("younger", ""), "younger="),
        fields=dict([field_of(found["field"], "field=")]) if "field" in found else wanted.fields,
    )
