"""What a test puts in the place of an app's attributes, and that it stays there when `alifespan` sets them anew."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from framework.service.app import WorkerApp


class Fakes:
    """Tells what a test has set on an app from what the app has set itself: by what changes while no job runs."""

    def __init__(self, app: WorkerApp) -> None:
        self._values: dict[str, Any] = vars(app)
        self._known = dict(self._values)
        self._set: dict[str, Any] = {}
        self._away: dict[str, Any] = {}  # while alifespan is left

    @contextmanager
    def test(self) -> Generator[None, None, None]:
        """A test runs inside. `lifespan`, left after it, finds its own values, so that it closes what it opened."""
        opened = self._changed()
        self._known = dict(self._values)
        try:
            yield
        finally:
            self._set |= self._changed()
            self._values.update({name: value for name, value in opened.items() if name in self._set})

    def put(self) -> None:
        """Puts what the test has set into its place."""
        self._values.update(self._set)

    @contextmanager
    def drain(self) -> Generator[None, None, None]:
        """A drain runs inside; the test finds its values again after it."""
        self._set |= self._changed()
        try:
            yield
        finally:
            self._values.update(self._away)
            self._away = {}
            self.look()
            self._known = dict(self._values)

    def look(self) -> None:
        """Call it before `alifespan` is opened: handlers that ran before may have set what the test had set."""
        self._set = self._now()

    @contextmanager
    def jobs(self) -> Generator[None, None, None]:
        """Jobs run inside, in an `alifespan` that finds its own values when it is left."""
        opened = {name: value for name, value in self._now().items() if self._set[name] is not value}
        self.put()
        try:
            yield
        finally:
            self._away = self._now()
            self._values.update(opened)

    def _now(self) -> dict[str, Any]:
        return {name: self._values[name] for name in self._set if name in self._values}

    def _changed(self) -> dict[str, Any]:
        known = self._known
        return {name: value for name, value in self._values.items() if name not in known or known[name] is not value}
