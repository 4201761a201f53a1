"""The scheme `misshapen:`, a spool whose answers are not those of the contract; and a service with each kind of worker.

`framework.engine.port` finds this module as the engine where a service imports it. FLAWS names what goes wrong: once
for each queue, or always where the name has a plus.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from framework import Queue, RetryPolicy, WorkerApp
from framework.engine.port import ENGINES, Features
from framework.engine.spool import engine as spool
from framework.model.errors import EngineError, EngineUnavailable
from framework.model.job import Lease
from framework.model.outcome import Settlement
from tests.support.ledger import note, ran

ENGINES["misshapen"] = "tests.process.misshapen"
ONCE = RetryPolicy(max_retries=0)
OTHER = "other"


class Service(WorkerApp):
    one = Queue[str]("one", retry=ONCE)
    threads = Queue[str]("threads", concurrency=3, retry=ONCE)
    loop = Queue[str]("loop", concurrency=3, retry=ONCE)
    other = Queue[str](OTHER, retry=ONCE)

    @one.handler
    def run(self, key: str) -> None:
        note(f"end {key}")

    @threads.handler
    def run_in_thread(self, key: str) -> None:
        note(f"end {key}")

    @loop.handler
    async def run_on_loop(self, key: str) -> None:
        await asyncio.sleep(0)
        note(f"end {key}")

    @other.handler
    def run_other(self, key: str) -> None:
        note(f"end {key}")


class Raising(Lease):
    """A lease whose job raises."""

    __slots__ = ()

    @property
    def job(self) -> Any:
        raise ZeroDivisionError("no job")


def raising() -> Lease:
    found = Raising.__new__(Raising)
    for name in ("queue", "attempt", "delivery", "eligible_at", "token", "previous"):
        setattr(found, name, None)
    return found


class Misshapen:
    """The spool, with FLAWS."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._flaws = os.environ.get("FLAWS", "").split()
        self._asked = 0

    @property
    def features(self) -> Features:
        """Local or far away, as the environment says."""
        found: Features = self._inner.features
        return found if "LOCAL" in os.environ else replace(found, local=False, settle_delay=0.02)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _is_flawed(self, flaw: str, whose: str) -> bool:
        if f"{flaw}+" in self._flaws:
            return True
        if flaw not in self._flaws or ran(f"flaw {flaw} {whose}\n"):
            return False
        note(f"flaw {flaw} {whose}")
        return True

    def claim(self, queues: Sequence[str], *, limit: int, wait: float) -> Any:
        queue = queues[0]
        if "idle+" in self._flaws:
            return ()
        if "refuse+" in self._flaws:
            raise EngineError("the store belongs to another")
        found = list(self._inner.claim(queues, limit=limit, wait=wait))
        if not found or queue == OTHER:
            return found
        if self._is_flawed("more", queue):
            return found + list(self._inner.claim(queues, limit=2, wait=0))
        if self._is_flawed("none", queue):
            return None
        if self._is_flawed("gap", queue):
            return [*found, None]
        if self._is_flawed("raises", queue):
            return [raising(), *found]
        if self._is_flawed("twice", queue):
            return found * 2
        if self._is_flawed("foreign", queue):
            return [*found, *self._inner.claim([OTHER], limit=1, wait=0)]
        return found

    def settle(self, done: Sequence[Settlement]) -> Any:
        self._inner.settle(done)
        if self._is_flawed("unsettled", done[0].lease.queue):
            raise EngineUnavailable("an answer was lost", unsettled=[None])  # type: ignore[list-item]
        return [None]

    def expired(self) -> Any:
        found = self._inner.expired()
        self._asked += 1
        if self._asked == 1 and self._is_flawed("expired", f"{os.getpid()}"):
            raise ZeroDivisionError("nothing expires")
        if self._asked == 3 and self._is_flawed("expired-none", f"{os.getpid()}"):  # after one that was all right
            return None
        return found

    def stuck(self) -> Any:
        return None if self._is_flawed("stuck", f"{os.getpid()}") else self._inner.stuck()

    def close(self) -> None:
        self._inner.close()
        if "close+" in self._flaws:
            raise ZeroDivisionError("no end")

    def wake(self) -> None:
        self._inner.wake()
        if self._is_flawed("wake", f"{os.getpid()}"):
            raise ZeroDivisionError("no waking")

    def lost(self, leases: Sequence[Lease]) -> Any:
        return None if self._is_flawed("lost", "all") else self._inner.lost(leases)

    def rescue(self) -> Any:
        found = self._inner.rescue()
        return [None, *found, None] if found and self._is_flawed("rescue", "all") else found

    def maintain(self, *, seconds: float) -> Any:
        if "refuse-maintain+" in self._flaws:
            raise EngineError("the store belongs to another")
        found = self._inner.maintain(seconds=seconds)
        return None if self._is_flawed("maintain", "all") else found

    def stats(self, queue: str) -> Any:
        return {} if self._is_flawed("stats", "all") else self._inner.stats(queue)

    def undeclared(self) -> Any:
        return None if self._is_flawed("undeclared", "all") else self._inner.undeclared()


def connect(url: str, **options: Any) -> Misshapen:
    """The spool in `misshapen:DIR`."""
    return Misshapen(spool.connect("spool:" + url.removeprefix("misshapen:"), **options))
