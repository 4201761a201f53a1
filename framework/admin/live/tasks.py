"""Acts on many jobs beside the page or `worker top`: they keep to a rate, tell how far they are, and can be stopped."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from framework.admin import dead
from framework.admin.acts import Acts
from framework.admin.jobs import Filter
from framework.admin.live.desk import Desk, fresh
from framework.admin.store import Store
from framework.engine.port import JobView
from framework.model.errors import UsageError, WorkerError
from framework.model.events import Event
from framework.model.text.exceptions import describe

AT_ONCE, KEPT = 3, 50  # tasks that run, and tasks that are remembered
STEP = 0.05  # seconds for which a task may keep pages waiting
Many = Literal["replay", "discard"]
log = logging.getLogger("framework.admin")


@dataclass
class Task:
    """An act on all dead letters that pass a filter.

    Attributes:
        rate: jobs a second at most; None: as fast as the store allows.
        total: how many there were at its start; None: not counted yet.
        done, stayed: jobs so far. why: why the last one stayed.
        state: running, done, stopped, or failed.
    """

    number: int
    verb: Many
    wanted: Filter
    words: str
    who: str
    rate: float | None
    began: float
    total: int | None = None
    done: int = 0
    stayed: int = 0
    why: str = ""
    state: str = "running"
    ended: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)


class Tasks:
    """The tasks of this process."""

    def __init__(self, desk: Desk, noted: Callable[[Task], None]) -> None:
        self._desk = desk
        self._noted = noted
        self._numbers = itertools.count(1)
        self.all: list[Task] = []

    def start(self, verb: Many, wanted: Filter, words: str, who: str, rate: float | None) -> Task:
        """Start a task. Raises UsageError: too many run."""
        if sum(task.state == "running" for task in self.all) >= AT_ONCE:
            raise UsageError(f"{AT_ONCE} acts on many jobs run already: wait for one, or stop it")
        task = Task(next(self._numbers), verb, wanted, words, who, rate, time.time())
        self.all = [task, *self.all][:KEPT]
        self._noted(task)
        threading.Thread(target=self._run, args=(task,), name=f"task-{task.number}", daemon=True).start()
        return task

    def stop(self, number: int) -> None:
        """Stop a task, if it runs."""
        for task in self.all:
            if task.number == number:
                task.stop.set()

    def end(self) -> None:
        """Stop all tasks: the process is about to leave."""
        for task in self.all:
            task.stop.set()

    def _run(self, task: Task) -> None:
        try:
            work = self._desk.wait(lambda store: _Work(fresh(store), task, self._desk.noting(store)))
            while not task.stop.is_set() and (pause := self._desk.wait(lambda _: work.step())) is not None:
                task.stop.wait(pause)
            self._desk.wait(lambda _: work.close())
            task.state = "stopped" if task.stop.is_set() else "done"
        except Exception as error:  # a thread has no caller: the page must say what has happened
            task.state, task.why = "failed", describe(error)[0]
            if not isinstance(error, WorkerError):
                log.exception("an act on many jobs failed")
        task.ended = time.time()
        self._noted(task)


class _Work:
    """The rest of a task's work. It lives in the desk's thread."""

    def __init__(self, store: Store, task: Task, emit: Callable[[Event], None]) -> None:
        keys = {dead.key_of(view) for view in dead.each(store, task.wanted)}
        task.total = len(keys)
        self._store = store
        self._task = task
        self._acts = Acts(store, task.who, emit)
        self._left: Iterator[JobView] = dead.again(store, task.wanted, keys)
        self._began = time.monotonic()

    def step(self) -> float | None:
        """Act on as many jobs as rate and time allow. Return the seconds until the next step; None: all is done."""
        task, verb = self._task, getattr(self._acts, self._task.verb)
        until = time.monotonic() + STEP
        while (now := time.monotonic()) < until:
            if task.rate is not None:
                early = self._began + (task.done + task.stayed) / task.rate - now
                if early > 0:
                    return min(early, 1.0)
            view = next(self._left, None)
            if view is None:
                return None
            why = verb(view)
            task.done, task.stayed = task.done + (not why), task.stayed + bool(why)
            task.why = why or task.why
        return 0.0

    def close(self) -> None:
        """Tell what was done. Raises EngineError: some jobs could not be read."""
        self._acts.__exit__(None, None, None)
        if self._store.failed:
            raise self._store.failed[0]
