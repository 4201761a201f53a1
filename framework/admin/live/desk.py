"""The store of the page and of `worker top`: one thread uses it, which opens it when needed and after a failure."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

from framework.admin import store as stores
from framework.admin.acts import noted
from framework.admin.store import Store
from framework.model.errors import EngineError, WorkerError
from framework.model.events import Event
from framework.service.app import WorkerApp
from framework.service.settings import Settings

T = TypeVar("T")
LASTS = 5.0  # seconds for which the list of queues, and which of them are dead-letter queues, is kept
log = logging.getLogger("framework.admin")


def fresh(store: Store) -> Store:
    """Return a store on the same engine that has failed at nothing and knows no queues yet."""
    found = Store(store.engine, store.declared, store.refused)
    found.notes = list(store.notes)
    found.roles = dict(store.roles)  # to ask the first job of each queue again would cost a listing
    return found


class Desk:
    """The one thread that calls the engine, because its verbs are called from one thread at a time.

    Args:
        app: the service; None: only what lies in the store counts.
        url: of the store, instead of that of the settings.
        emit: takes what people did.
    """

    def __init__(
        self, settings: Settings, app: type[WorkerApp] | None, url: str, emit: Callable[[Event], None]
    ) -> None:
        self.settings = settings
        self.app = app
        self.url = url or settings.engine_url
        self._emit = emit
        self.root: Path | None = None
        self._opened: Store | None = None
        self._renew_at = 0.0
        self._resources = ExitStack()
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def noting(self, store: Store) -> Callable[[Event], None]:
        """Return what takes the acts on a store: this page, and the journal that maintenance logs and counts."""
        journal = noted(store)

        def note(event: Event) -> None:
            journal(event)
            self._emit(event)

        return note

    async def ask(self, call: Callable[[Store], T]) -> T:
        """Return what `call` returns of a store, in the desk's thread. Raises its errors."""
        return await asyncio.wrap_future(self._executor().submit(self._run, call))

    def wait(self, call: Callable[[Store], T]) -> T:
        """Do as `ask` does, from another thread."""
        return self._executor().submit(self._run, call).result()

    def behind(self, call: Callable[[Store], object]) -> None:
        """Call in the desk's thread, and wait for nothing. What fails is logged where it is a bug."""

        def ended(done: Future[object]) -> None:
            error = None if done.cancelled() else done.exception()
            if error is not None and not isinstance(error, WorkerError):
                log.error("a read of the store failed", exc_info=error)

        self._executor().submit(self._run, call).add_done_callback(ended)

    async def close(self) -> None:
        """Close the store and end the thread."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.wrap_future(pool.submit(self._forget))
            pool.shutdown(wait=False)

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:  # made late: a server may fork after it has imported the page
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "desk")
            return self._pool

    def _run(self, call: Callable[[Store], T]) -> T:
        try:
            return call(self._store())
        except EngineError:
            self._forget()
            raise

    def _store(self) -> Store:
        """Return a store that has failed at nothing yet. It lists the queues anew every few seconds."""
        if self._opened is None or self._opened.notes:  # a note says that there is no store yet
            self._forget()
            open_ = partial(stores.opened, self.settings, self.app, url=self.url)
            self.root = stores.root_of(self.url)
            self._opened = self._current = self._resources.enter_context(open_())
            self._renew_at = time.monotonic() + LASTS
        if time.monotonic() > self._renew_at:
            self._current = fresh(self._opened)
            self._renew_at = time.monotonic() + LASTS
        self._current.failed = list(self._current.refused.values())
        return self._current

    def _forget(self) -> None:
        self._opened = None
        try:
            self._resources.close()
        except EngineError as error:
            log.warning("the store could not be closed: %s", error)
        self._resources = ExitStack()
