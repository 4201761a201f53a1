"""The event loop of a drain, for tests that do not run in one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from framework.service.app import Slot, WorkerApp
from framework.testing.fakes import Fakes


class Loop:
    """The event loop of one drain; `alifespan` is open in it from the first async job on.

    Between two async jobs the loop does not run, so that a sync handler finds no running loop, as in a worker.
    """

    def __init__(self, app: WorkerApp, fakes: Fakes) -> None:
        self._app = app
        self._fakes = fakes
        self._runner: asyncio.Runner | None = None
        self._resident: asyncio.Task[None] | None = None

    def __enter__(self) -> Loop:
        return self

    def run(self, run: Coroutine[Any, Any, object], slot: Slot) -> None:
        """Run one job; open `alifespan` before the first."""
        if self._runner is None:
            self._runner = asyncio.Runner()
            try:
                self._runner.run(self._open(slot))
            except BaseException:
                run.close()
                raise
        self._runner.run(stay_cancelled(run))

    def __exit__(self, *_: object) -> None:
        if self._runner is not None:
            with self._runner:
                if self._resident is not None and not self._resident.done():
                    self._runner.run(self._close())

    async def _open(self, slot: Slot) -> None:
        ready = asyncio.Event()
        self._leave = asyncio.Event()
        # One task enters and leaves, as a task group or cancel scope inside alifespan requires.
        self._resident = asyncio.create_task(self._live(slot, ready))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait((self._resident, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._resident.done():
            await self._resident

    async def _live(self, slot: Slot, ready: asyncio.Event) -> None:
        self._fakes.look()
        async with self._app.alifespan(slot):
            with self._fakes.jobs():
                ready.set()
                await self._leave.wait()

    async def _close(self) -> None:
        assert self._resident is not None
        self._leave.set()
        await self._resident


async def stay_cancelled(run: Coroutine[Any, Any, object]) -> None:
    """Await a run. A cancellation of the test (Ctrl-C, a test's timeout) is raised, and is no failure of the job."""
    await run
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def refuse_loop() -> None:
    """Raise RuntimeError if an event loop is running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("an event loop is running: use await t.adrain(...) instead of t.drain(...)")
