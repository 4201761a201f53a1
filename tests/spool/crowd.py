"""Threads and coroutines that enqueue together on one spool, one of them held until the others stand in line."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from framework import Queue
from framework.model.options import QueueOptions
from framework.service.producer import Producer

from .seam import Seam
from .world import broker

MEMBERS = 6
PATIENCE = 60.0  # seconds; far more than anything here takes
Answers = dict[str, BaseException | None]


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Stop it, and wait until it is closed."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()


class Crowd:
    """`first` is held at its sync until n0 to n5 stand in line; then all go on.

    Args:
        kinds: `t` for a thread, `c` for a coroutine, by turns, the first one included.

    Attributes:
        answers: by name, which is also the payload: None = stored.
        on_call: sees the calls of the engine from when they go on.
        meanwhile: what happens just before.
    """

    def __init__(self, root: Path, kinds: str, *queues: QueueOptions) -> None:
        self.seam = Seam()
        self.jobs = Queue[str]("jobs", max_length=None)
        self.other = Queue[str]("plain", max_length=None)
        self.mine = broker(root, *queues, calls=self.seam)
        found = {options.name: options for options in queues}
        self.producer = Producer(self.mine, options=lambda queue: found.get(queue.name, queue.options))
        self.answers: Answers = {}
        self.on_call: Callable[[str], None] = lambda name: None
        self.meanwhile: Callable[[], object] = lambda: None
        self.kinds = kinds
        self._loops = [Loop(), Loop()] if "c" in kinds else []
        self._held = threading.Event()
        self._go_on = threading.Event()
        self.put("warm")

    def _hook(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        if name == "fsync" and not self._held.is_set():
            self._held.set()
            assert self._go_on.wait(PATIENCE)
        elif self._go_on.is_set():
            self.on_call(name)
        return real(*args, **kwargs)

    def put(self, name: str, queue: Queue[str] | None = None) -> None:
        """Enqueue one here."""
        queue = queue or self.jobs
        with queue.connected(self.producer):
            queue.enqueue(name)

    def _come(self, name: str, kind: str, number: int) -> Callable[[], None]:
        """Let one come; return what waits for its answer."""
        if kind == "t":

            def work() -> None:
                try:
                    self.jobs.enqueue(name)
                    self.answers[name] = None
                except BaseException as error:
                    self.answers[name] = error

            thread = threading.Thread(target=work, daemon=True)
            thread.start()

            def wait() -> None:
                thread.join(PATIENCE)
                assert not thread.is_alive(), f"{name} waits for ever"

            return wait

        async def task() -> None:
            try:
                await self.jobs.aenqueue(name)
                self.answers[name] = None
            except BaseException as error:
                self.answers[name] = error

        future = asyncio.run_coroutine_threadsafe(task(), self._loops[number % 2].loop)
        return lambda: future.result(PATIENCE)

    def come(self) -> None:
        """Play it; `answers` are complete afterwards."""
        with self.jobs.connected(self.producer):
            self.seam.arm(self._hook)
            waits = [self._come("first", self.kinds[0], 0)]
            assert self._held.wait(PATIENCE)
            for number in range(MEMBERS):
                waits.append(self._come(f"n{number}", self.kinds[(number + 1) % len(self.kinds)], number))
                self.until_in_line(number + 2)
            self.meanwhile()
            self._go_on.set()
            for wait in waits:
                wait()
            self.seam.disarm()

    def until_in_line(self, count: int) -> None:
        """Wait until so many stand in line, the one that is stored included."""
        for _ in range(int(PATIENCE * 1000)):
            if len(self.producer._line._state.line) >= count:
                return
            threading.Event().wait(0.001)
        raise AssertionError("they do not come")

    def stored(self) -> list[str]:
        """The names of what is ready, sorted; claims it."""
        return sorted(lease.job.payload.decode().strip('"') for lease in self.mine.claim(["jobs"], limit=100, wait=0))

    def close(self) -> None:
        """Let go of everything."""
        self.seam.disarm()
        self._go_on.set()
        for loop in self._loops:
            loop.close()
        closing = threading.Thread(target=self.producer.close, daemon=True)  # it waits for a line that stands still
        closing.start()
        closing.join(PATIENCE / 4)
        assert not closing.is_alive()
