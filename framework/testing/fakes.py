"""The fakes that a test sets on an app: they stay in place even if `alifespan` sets the attributes again."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from framework.service.app import WorkerApp


class Fakes:
    """The attributes that a test has set on an app; a change while no job runs is the test's, others are the app's."""

    def __init__(self, app: WorkerApp) -> None:
        self._values: dict[str, Any] = vars(app)
        self._known = dict(self._values)
        self._set: dict[str, Any] = {}
        self._away: dict[str, Any] = {}  # while alifespan is left

    @contextmanager
    def test(self) -> Generator[None, None, None]:
        """Run a test inside the block. After it `lifespan` finds its own values, so that it closes what it opened."""
        opened = self._changed()
        self._known = dict(self._values)
        try:
            yield
        finally:
            self._set |= self._changed()
            self._values.update({name: value for name, value in opened.items() if name in self._set})

    def put(self) -> None:
        """Set the test's values on the app."""
        self._values.update(self._set)

    @contextmanager
    def drain(self) -> Generator[None, None, None]:
        """Run a drain inside the block; after it the test finds its values again."""
        self._set |= self._changed()
        try:
            yield
        finally:
            self._values.update(self._away)
            self._away = {}
            self.look()
            self._known = dict(self._values)

    def look(self) -> None:
        """Read the values of the test's attributes again, before `alifespan` is opened: handlers may have set them."""
        self._set = self._now()

    @contextmanager
    def jobs(self) -> Generator[None, None, None]:
        """Run jobs inside the block, with the test's values; after it `alifespan` finds its own values."""
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
