"""A producer process: takes orders as JSON lines on standard input, answers on standard output.

{"verb": "single", "first": 0, "count": 100} → {"count": 100, "seconds": 0.08}
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

SIZE = 200  # bytes of a payload as compact JSON
LANES = 32  # threads, or tasks of an asyncio client
Payload = dict[str, Any]


def payload(seq: int, sent: int = 0) -> Payload:
    """One of exactly 200 bytes as compact JSON."""
    made = {"seq": seq, "sent": sent, "text": ""}
    made["text"] = "x" * (SIZE - len(json.dumps(made, separators=(",", ":"))))
    return made


class Producer:
    """Of a blocking client: give it `put`; the rest follows."""

    def put(self, item: Payload) -> None:
        """Enqueues one job; returns when the system says that it has it."""
        raise NotImplementedError

    def single(self, items: Sequence[Payload]) -> None:
        """One after the other."""
        for item in items:
            self.put(item)

    def concurrent(self, items: Sequence[Payload]) -> None:
        """In 32 threads."""
        threads = [threading.Thread(target=self.single, args=(items[lane::LANES],)) for lane in range(LANES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def coroutines(self, items: Sequence[Payload]) -> None:
        """In 32 coroutines of one event loop; where there are none, as `concurrent`."""
        self.concurrent(items)

    def bulk(self, items: Sequence[Payload]) -> None:
        """In the way meant for many; where there is none, in the fastest way that fills the queue."""
        self.single(items)

    def paced(self, first: int, count: int, rate: float) -> None:
        """Jobs at a steady rate, each stamped just before its enqueue."""
        began = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            self.put(payload(first + number, time.monotonic_ns()))

    def close(self) -> None:
        """Lets go."""


class AsyncProducer(Producer):
    """Of an asyncio client: give it `open` and `aput`. Everything runs on one loop in the main thread."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=loop_factory())
        self._runner.run(self.open())

    async def open(self) -> None:
        """Connects."""

    async def aput(self, item: Payload) -> None:
        """As `put`."""
        raise NotImplementedError

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """On the loop."""
        self._runner.run(work)

    def single(self, items: Sequence[Payload]) -> None:
        self.run(self._one_by_one(items))

    async def _one_by_one(self, items: Sequence[Payload]) -> None:
        for item in items:
            await self.aput(item)

    def concurrent(self, items: Sequence[Payload]) -> None:
        self.run(self._side_by_side(items))

    async def _side_by_side(self, items: Sequence[Payload]) -> None:
        await asyncio.gather(*(self._one_by_one(items[lane::LANES]) for lane in range(LANES)))

    def paced(self, first: int, count: int, rate: float) -> None:
        self.run(self._paced(first, count, rate))

    async def _paced(self, first: int, count: int, rate: float) -> None:
        began = time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            await self.aput(payload(first + number, time.monotonic_ns()))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed: the peers' own command lines prefer it, too."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def serve(producer: Producer) -> None:
    """Answers until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        print(json.dumps(_obey(producer, json.loads(line))), file=answers)
    producer.close()


def _obey(producer: Producer, order: dict[str, Any]) -> dict[str, Any]:
    verb, first, count = order["verb"], order.get("first", 0), order.get("count", 0)
    try:
        if verb == "paced":
            began = time.perf_counter()
            producer.paced(first, count, order["rate"])
        else:
            items = [payload(first + number) for number in range(count)]
            began = time.perf_counter()
            getattr(producer, verb)(items)
        return {"count": count, "seconds": time.perf_counter() - began}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
