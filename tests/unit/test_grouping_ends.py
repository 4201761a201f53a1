"""One line for threads and coroutines: where a loop, the flusher, a call or the process ends meanwhile."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, field_validator

from framework import EnqueueFailed, PayloadTooLarge, Queue
from framework.engine.port import open_engine
from framework.model.job import JobId
from framework.service import grouping
from tests.unit.grouped import PATIENCE, World, where, worlds


@pytest.fixture
def world() -> Iterator[World]:
    yield from worlds()


def test_a_loop_that_closes_meanwhile_loses_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    held = world.hold()

    async def leave() -> None:
        tasks.extend(asyncio.create_task(world.items.aenqueue(f"{n}")) for n in range(3))
        await world.until_in_line(4)

    tasks: list[asyncio.Task[JobId]] = []
    asyncio.run(leave())
    assert all(task.cancelled() for task in tasks)
    loop = asyncio.new_event_loop()  # and one that is closed with its tasks pending
    pending = [loop.create_task(world.items.aenqueue("pending"))]
    loop.run_until_complete(world.until_in_line(5))
    loop.close()
    world.engine.gate.set()
    held.join()
    world.items.enqueue("after")
    world.producer.close()
    assert sorted(world.engine.payloads()) == ["0", "1", "2", "after", "held", "pending", "warm"]
    assert world.spans.open == set()
    pending.clear()
    gc.collect()
    # Exporters of earlier tests may still say in their threads that they have failed.
    said = [record for record in caplog.records if not record.name.startswith("opentelemetry")]
    assert not any("Failed" in caplog.handler.format(record) for record in said)


async def test_context_variables_go_along(world: World) -> None:
    world.engine.contexts.clear()
    token = where.set("the caller")
    await world.items.aenqueue("x")
    assert where.get() == "the caller"
    where.reset(token)
    assert world.engine.contexts == ["span of the caller"]


async def test_the_flusher_is_made_on_need_ends_when_idle_and_keeps_no_process_alive(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "IDLE", 0.01)
    shared = world.producer._line._state
    world.items.enqueue("a thread alone")
    assert shared.flusher is None
    for _ in range(3):
        await world.items.aenqueue("x")
        async with asyncio.timeout(PATIENCE):
            while shared.flusher is not None:
                assert shared.flusher.daemon
                await asyncio.sleep(0.005)
    assert len(world.engine.payloads()) == 5


async def test_without_threads_to_be_had_it_is_stored_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    await asyncio.gather(*(world.items.aenqueue(f"{n}") for n in range(5)))
    assert world.engine.payloads() == ["warm", *"01234"]


class Big(BaseModel):
    text: str
    seen: list[int] = []

    @field_validator("text")
    @classmethod
    def note(cls, text: str) -> str:
        encoded_by.append(threading.get_ident())
        return text


encoded_by: list[int] = []


async def test_large_payloads_are_encoded_in_a_thread(world: World) -> None:
    queue = Queue[Big]("big", max_payload_bytes=100_000)
    with queue.connected(world.producer):
        await queue.aenqueue({"text": "declares the queue"})  # type: ignore[arg-type]
        encoded_by.clear()
        await queue.aenqueue({"text": "x"})  # type: ignore[arg-type]
        assert set(encoded_by) == {threading.get_ident()}
        for text, seen in (("x" * 70_000, []), ("x", list(range(10_000)))):
            encoded_by.clear()
            await queue.aenqueue({"text": text, "seen": seen})  # type: ignore[arg-type]
            assert threading.get_ident() not in encoded_by
        with pytest.raises(PayloadTooLarge):
            await queue.aenqueue({"text": "x" * 200_000})  # type: ignore[arg-type]


async def test_a_closed_producer_starts_no_flusher(world: World) -> None:
    world.producer.close()
    with pytest.raises(EnqueueFailed, match="its producer is closed"):
        await world.items.aenqueue("x")
    assert world.producer._line._state.flusher is None
    assert world.spans.open == set()


def play(code: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, **environ},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# A trace function stands for Ctrl-C: it raises between any two lines of the line's own code, each of them once. But not
# at a `try:`, nor between the body of a `with` and its end, which shows as its first line again: Python takes signals
# where calls return and loops turn, and there are none.
INTERRUPT = """
import asyncio, faulthandler, linecache, sys, threading
faulthandler.dump_traceback_later(100, exit=True)
from framework import EnqueueUncertain, Queue
from framework.engine.memory.engine import MemoryEngine, MemoryStore
from framework.service.producer import Producer

engine = MemoryEngine(MemoryStore(), incarnation="p")
producer = Producer(engine, options=lambda queue: queue.options)
jobs = Queue[str]("jobs", max_length=None)
jobs._connected.append(producer)
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
jobs.enqueue("warm")
told, own, line = set(), asyncio.new_event_loop(), 0

class Interruption:
    def __init__(self, line):
        self.left, self.came = line, False

    def __call__(self, frame, event, argument):
        if "grouping" not in frame.f_code.co_filename:
            return None if "asyncio" in frame.f_code.co_filename else self
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not text.lstrip().startswith(("with ", "try:")):
            self.left -= 1
            if self.left == 0:
                self.came = True
                sys.settrace(None)
                raise KeyboardInterrupt
        return self

async def company(name):
    try:
        told.add(await jobs.aenqueue(name))
    except EnqueueUncertain:
        pass

while True:
    line += 1
    interruption = Interruption(line)
    futures = [asyncio.run_coroutine_threadsafe(company("company"), loop) for _ in range(3)]
    sys.settrace(interruption)
    try:
        told.add(jobs.enqueue("x"))
    except (KeyboardInterrupt, EnqueueUncertain):
        pass
    finally:
        sys.settrace(None)
    for future in futures:
        future.result(60)
    told.add(jobs.enqueue("after"))
    if not interruption.came and line > 40:
        break
state = producer._line._state
producer.close()
stored = [view.job.id for view in engine.browse("jobs", "ready")]
assert told <= set(stored)
assert len(stored) == len(set(stored))
assert (state.line, state.leader, state.flusher, state.again) == ([], None, None, []), vars(state)
print(line)
"""


def test_ctrl_c_at_any_line_leaves_a_line_that_goes_on() -> None:
    assert int(play(INTERRUPT)) > 40


LEAVE = """
import asyncio, threading
from framework import Queue
jobs = Queue[str]("jobs")

async def main():
    for n in range(50):
        asyncio.get_running_loop().create_task(jobs.aenqueue(f"{n}"))
    await asyncio.sleep(0)
    while not jobs.sender()._line._state.line and not jobs.sender()._engine.stats("jobs").ready:
        await asyncio.sleep(0)

jobs.enqueue("warm")
asyncio.run(main())
"""


def test_what_stands_in_line_when_the_process_ends_is_stored_first(tmp_path: Path) -> None:
    play(LEAVE, WORKER_ENGINE_URL=f"spool:{tmp_path}/spool")
    broker = open_engine(f"spool:{tmp_path}/spool", incarnation="reader")
    broker.open([Queue[str]("jobs").options])
    assert broker.stats("jobs").ready == 51
    broker.close()


RANDOM = """
import os, sys
from framework.service import request

def say():
    os.write(1, "".join(f"{request.random_bytes().hex()}\\n" for _ in range(300)).encode())

request.random_bytes()
if os.fork() == 0:  # with a pool that is filled
    say()
    os._exit(0)
os.wait()
real, forked = os.urandom, []

def fork_meanwhile(size):  # as a signal handler may, at any point: both go on with this block
    block = real(size)
    if not forked:
        forked.append(os.fork())
        if forked[0]:
            os.wait()
    return block

say()
os.urandom = fork_meanwhile
request._pool.clear()
say()
"""


def test_random_bytes_are_never_shared_with_a_child() -> None:
    """Verified: without the hook all of the child's are the parent's."""
    found = play(RANDOM).split()
    assert len(found) == len(set(found)) == 1200
    assert {len(one) for one in found} == {64}
