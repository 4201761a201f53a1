"""An event loop that runs one piece of work at a time, with an async context manager open in it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any


class Resident:
    """An event loop with a lifespan that one task enters and leaves, as task groups inside it require."""

    def __init__(self, lifespan: AbstractAsyncContextManager[None]) -> None:
        self._lifespan = lifespan
        self._runner = asyncio.Runner()
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> Resident:
        try:
            self._runner.run(self._open())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._runner:
            self._runner.run(self._close())

    def run(self, work: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine to its end."""
        self._runner.run(work)

    def turn(self, seconds: float) -> None:
        """Let the loop's own tasks go on for a while."""
        self._runner.run(asyncio.sleep(seconds))

    async def _open(self) -> None:
        entered, self._leave = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._live(entered))
        waiting = asyncio.create_task(entered.wait())
        await asyncio.wait((self._task, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._task.done():
            await self._task

    async def _live(self, entered: asyncio.Event) -> None:
        async with self._lifespan:
            entered.set()
            await self._leave.wait()

    async def _close(self) -> None:
        self._leave.set()
        if self._task is not None:
            await self._task
