"""The values of each page, read from the store. Nothing here changes a job."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from framework.admin import bad, dead, jobs, processes, queues, schedules
from framework.admin.jobs import Filter, Page
from framework.admin.live.desk import Desk
from framework.admin.processes import Tree, silence
from framework.admin.queues import QueueView
from framework.admin.schedules import ScheduleView
from framework.admin.store import Store
from framework.engine.declarations import Declaration, Declarations
from framework.engine.port import JobView, QueueStats, Tick
from framework.model.errors import EngineError, WorkerError
from framework.model.schedules import named
from framework.process.speeds import Rates
from framework.web import forms, render
from framework.web.config import Config
from framework.web.forms import Given
from framework.web.history import History, Shown, shown
from framework.web.remembered import Remembered

PAGE = 50  # rows
GROUPED = 2000  # dead letters that are grouped, unless all are asked for
COUNTS = ("ready", "in_flight", "delayed", "dead", "bad")
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters of one reason and error, with the share of the largest group."""

    group: dead.Group
    share: int


class Pages:
    """The values of each page, by a store and what the request says."""

    def __init__(self, config: Config, desk: Desk, history: History, remembered: Remembered) -> None:
        self._config = config
        self._desk = desk
        self._remembered = remembered
        self._history = history
        self._rates = Rates()
        self._newer: dict[str, Sequence[JobView]] = {}
        self._look_again = 0.0

    def overview(self, store: Store, given: Given) -> Values:
        found, age = self._remembered.get(store, "views", self._views)
        if not age:
            self.note(found)
        trees, problems = self._trees(store)
        lines = {one.name: self._history.line(one.name, "ready") for one in found}
        speeds = {one.name: self._speed(one.name) for one in found}
        values = {"queues": found, "lines": lines, "speeds": speeds, "since": self._history.began, "trees": trees}
        values["age"] = age
        return self._said(store, values, problems) | {"silence": silence(found, trees)}

    def _speed(self, queue: str) -> Shown:
        self._rates.look(self._desk.root)
        return shown(self._rates.of(queue), time.time())

    def _views(self, store: Store) -> list[QueueView]:
        """Return all queues. Jobs of a newer version are looked for once a minute: that costs the most."""
        if time.monotonic() < self._look_again:
            found = queues.views(store, empty=True, newer=False)
            return [replace(one, newer=self._newer.get(one.name, ())) for one in found]
        found = queues.views(store, empty=True)
        self._newer = {one.name: one.newer for one in found}
        self._look_again = time.monotonic() + 60
        return found

    def queue(self, store: Store, given: Given) -> Values:
        name = forms.one(given, "name")
        every, age = self._remembered.get(store, "views", self._views)
        view = next((one for one in every if one.name == name), None) or queues.view(store, store.name(name))
        lines = {count: self._history.line(view.name, count) for count in COUNTS}
        trees, problems = self._trees(store)
        values = {"queue": view, "lines": lines, "since": self._history.began, "plans": self._plans(store, [view.name])}
        values |= {"speed": self._speed(view.name), "pause": None, "age": age}
        if not view.error:
            values["pause"] = store.read(lambda: store.engine.paused(view.name), None)
        return self._said(store, values, problems) | {"silence": silence([view], trees)}

    def jobs(self, store: Store, given: Given) -> Values:
        dead_letters = bool(forms.one(given, "letters"))
        wanted = forms.filter_of(given, dead_letters=dead_letters, hidden=self._config.hide)
        (page, names), age = self._page(store, wanted, forms.one(given, "after"))
        return self._said(store, {"page": page, "given": given, "names": names, "age": age})

    def _page(self, store: Store, wanted: Filter, after: str) -> tuple[tuple[Page, Sequence[str]], float]:
        """Return a page of jobs and the names of all queues, and how old both are. The next page is read as well."""

        def read(store: Store, after: str = after) -> tuple[Page, Sequence[str]]:
            return jobs.page(store, wanted, after=after, limit=PAGE), store.names()

        found, age = self._remembered.get(store, f"{wanted} {after}", read)
        if age and (behind := found[0].after):
            self._remembered.renew(f"{wanted} {behind}", partial(read, after=behind))
        return found, age

    def job(self, store: Store, given: Given) -> Values:
        job_id, queue = forms.one(given, "id"), forms.one(given, "queue")
        found = jobs.find(store, job_id, queue)
        if not found:
            self.raise_failed(store)
            raise WorkerError(f"there is no job {job_id[:100]!r}: it has ended, or was never in this store")
        if len({view.job.uid for view in found}) > 1:
            return self._said(store, {"several": found, "view": None})
        running, problems = self._running(store, found[0])
        values = self._one(found[0], bool(forms.one(given, "payload"))) | {"running": running}
        return self._said(store, values, problems)

    def _running(self, store: Store, view: JobView) -> tuple[list[Any], list[str]]:
        """Return the runs of a job on this machine, each with its tree, its process and what that uses."""
        trees, problems = self._trees(store) if view.state == "in_flight" else ([], [])
        runs = ((tree, process, run) for tree in trees for process in tree.processes for run in process.runs)
        return [(*one, processes.usage(one[1])) for one in runs if one[2].is_of(view.job.id, view.queue)], problems

    def _one(self, view: JobView, with_payload: bool) -> Values:
        hide = self._config.hide
        text, hid = render.payload_text(jobs.payload(view), hide) if with_payload else (None, False)
        extras = view.job.extras.other | view.job.extras.said()
        saved = extras.pop("saved", None)  # like a payload, it may have personal data
        return {
            "view": view,
            "several": (),
            "payload": text,
            "editable": render.editable(view) if with_payload and not hid and view.state != "in_flight" else None,
            "hid": hid,
            "headers": render.payload_text(dict(view.job.headers), hide)[0],
            "extras": render.payload_text(extras, hide)[0],
            "saved": render.payload_text(json.loads(saved), hide)[0] if saved and with_payload else None,
            "failures": list(reversed(view.job.history)),
        }

    def runs(self, store: Store, given: Given) -> Values:
        trees, problems = self._trees(store)
        every, age = self._remembered.get(store, "views", self._views)
        claimed = {one.name: one.stats.in_flight for one in every}
        rows = [(tree, process, run) for tree in trees for process in tree.processes for run in process.runs]
        values = {"rows": sorted(rows, key=lambda row: row[2].since), "claimed": claimed, "age": age}
        return self._said(store, values, problems)

    def dead(self, store: Store, given: Given) -> Values:
        wanted = forms.filter_of(given, dead_letters=True, hidden=self._config.hide)
        everything = bool(forms.one(given, "all"))
        grouped = None if everything else GROUPED
        found, age = self._remembered.get(
            store, f"{wanted} {grouped}", lambda store: dead.groups(store, wanted, most=grouped)
        )
        most = max((one.count for one in found), default=1)
        groups = [Group(one, max(1, round(100 * one.count / most))) for one in found]
        (page, names), older = self._page(store, wanted, forms.one(given, "after"))
        values: Values = {"groups": groups, "grouped": grouped, "page": page, "names": names, "given": given}
        return self._said(store, values | {"age": max(age, older)})

    def bad(self, store: Store, given: Given) -> Values:
        queue, after = forms.one(given, "queue"), forms.one(given, "after")
        listed = bad.files(store, queue, after)
        found = list(islice(listed, PAGE))
        more = found[-1][0] if len(found) == PAGE and next(listed, None) is not None else ""
        return self._said(store, {"files": [view for _, view in found], "after": more, "queue": queue})

    def bad_file(self, store: Store, given: Given) -> Values:
        (view,) = bad.find(store, [forms.one(given, "file")], forms.one(given, "queue"))
        start = view.job.payload.decode("utf-8", "backslashreplace")
        return self._said(store, {"view": view, "start": start if forms.one(given, "payload") else None})

    def schedules(self, store: Store, given: Given) -> Values:
        plans = self._plans(store, store.own)
        return self._said(store, {"plans": plans, "asked": store.declared is not None})

    def processes(self, store: Store, given: Given) -> Values:
        trees, problems = self._trees(store)
        engine, services = store.engine, list[Declaration]()
        if isinstance(engine, Declarations):
            services = store.read(lambda: list(engine.declarations()), services)
        return self._said(store, {"trees": trees, "root": self._desk.root, "services": services}, problems)

    def note(self, found: Sequence[QueueView]) -> None:
        """Keep a sample of the counts, if it is time."""
        if self._history.is_due():
            self._history.note({one.name: one.stats for one in found})

    def sample(self) -> None:
        """Count behind the requests, and keep a sample."""

        def read(store: Store) -> list[QueueView]:
            found = self._views(store)
            self.note(found)
            return found

        self._remembered.renew("views", read)

    def counts(self, store: Store) -> dict[str, QueueStats]:
        """Return the counts of all queues. Raises EngineError: one cannot be read."""
        found, _ = self._remembered.get(store, "views", self._views)
        self.raise_failed(store)
        return {one.name: one.stats for one in found}

    @staticmethod
    def raise_failed(store: Store) -> None:
        """Raise the first error of the store's reads, if any."""
        if store.failed:
            raise store.failed[0]

    def _trees(self, store: Store) -> tuple[list[Tree], list[str]]:
        handlers = None if store.declared is None else store.declared.handlers
        try:
            return processes.trees(self._desk.root, handlers)
        except EngineError as error:
            return [], [str(error)]

    @staticmethod
    def _plans(store: Store, names: Sequence[str]) -> list[ScheduleView]:
        found: list[ScheduleView] = []
        declared = {} if store.declared is None else store.declared.queues
        for name in names:
            plans = named(declared[name].schedules) if name in declared else ()
            if plans:
                call = partial(store.engine.ticks, name, [plan.key for plan in plans])
                unknown: tuple[float, Mapping[str, Tick]] = (time.time(), {})
                now, ticks = store.read(call, unknown)
                found += schedules.views(name, plans, now, ticks)
        return found

    @staticmethod
    def _said(store: Store, values: Values, problems: Sequence[str] = ()) -> Values:
        failed = dict.fromkeys([*map(str, store.failed), *problems])
        return values | {"failed": list(failed), "notes": store.notes}
