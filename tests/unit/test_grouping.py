"""One line for threads and coroutines, on the engine in memory: who shares a call, and what each is told."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from framework import Duplicate, EnqueueFailed, EnqueueUncertain, PayloadTooLarge, Queue, grouping
from framework.broker import open_broker
from framework.brokers.memory import MemoryBroker, MemoryStore
from framework.grouping import state
from framework.job import Job, JobId
from framework.producer import Producer

PATIENCE = 60.0  # seconds; far more than anything here takes
where: ContextVar[str] = ContextVar("where", default="nowhere")


class Engine(MemoryBroker):
    """In memory; its calls are counted, and wait while the gate is closed."""

    def __init__(self, *, local: bool = True) -> None:
        super().__init__(MemoryStore(), incarnation="p")
        self.features = replace(self.features, local=local)
        self.calls: list[list[str]] = []
        self.contexts: list[str] = []
        self.threads: set[int] = set()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.errors: list[BaseException] = []

    def enqueue(self, jobs: Sequence[Job]) -> list[JobId]:
        self.calls.append([job.id for job in jobs])
        self.contexts.append(where.get())
        self.threads.add(threading.get_ident())
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        if self.errors and len(jobs) > 1:
            raise self.errors.pop()
        return super().enqueue(jobs)

    def payloads(self, queue: str = "items") -> list[str]:
        return [view.job.payload.decode().strip('"') for view in self.browse(queue, "ready")]


class Spans:
    """Telemetry's side of an enqueue: which spans are open, and how they ended."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.ends: list[Any] = []

    def one(self, queue: str, job_id: str, size: int) -> Any:
        spans = self

        class Span:
            def __enter__(self) -> dict[str, str]:
                spans.open.add(job_id)
                self.before = where.set(f"span of {where.get()}")
                return {"traceparent": job_id}

            def __exit__(self, kind: Any, *_: Any) -> None:
                where.reset(self.before)  # raises in another context
                spans.open.discard(job_id)
                spans.ends.append(kind)

        return Span()

    def many(self, queue: str, job_ids: Sequence[str]) -> Any:
        raise NotImplementedError


class World:
    def __init__(self, *, local: bool = True) -> None:
        self.engine, self.spans = Engine(local=local), Spans()
        self.items = Queue[str]("items", max_length=None)
        self.others = Queue[str]("others", max_length=3)
        self.producer = Producer(self.engine, options=lambda queue: queue.options, sending=self.spans)
        self.items._connected.append(self.producer)
        self.others._connected.append(self.producer)
        self.items.enqueue("warm")
        self.others.enqueue("warm")
        self.engine.calls.clear()

    @property
    def line(self) -> list[Any]:
        return self.producer._line._state.line

    def hold(self) -> threading.Thread:
        """A thread leads, and its call does not end before `gate.set()`."""
        self.engine.entered.clear()
        self.engine.gate.clear()
        thread = threading.Thread(target=self.items.enqueue, args=("held",))
        thread.start()
        assert self.engine.entered.wait(PATIENCE)
        return thread

    async def until_in_line(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.line) < count:
                await asyncio.sleep(0.001)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.engine.gate.set()
    made.producer.close()


@pytest.fixture
def server() -> Iterator[World]:
    made = World(local=False)
    yield made
    made.engine.gate.set()
    made.producer.close()


@pytest.mark.parametrize(("threads", "coroutines"), [(32, 0), (0, 32), (16, 16)])
def test_each_gets_its_own_answer_and_nothing_is_stored_twice(world: World, threads: int, coroutines: int) -> None:
    ids: list[str] = []

    def thread(number: int) -> None:
        ids.extend(world.items.enqueue(f"t{number}.{n:02}") for n in range(20))

    async def coroutine(number: int) -> None:
        ids.extend([await world.items.aenqueue(f"c{number}.{n:02}") for n in range(20)])

    async def half(first: int) -> None:
        await asyncio.gather(*(coroutine(number) for number in range(first, coroutines, 2)))

    works = [threading.Thread(target=thread, args=(number,)) for number in range(threads)]
    works += [threading.Thread(target=asyncio.run, args=(half(first),)) for first in (0, 1)]  # two loops
    for work in works:
        work.start()
    for work in works:
        work.join(PATIENCE)
        assert not work.is_alive()
    stored = {view.job.id: view.job.payload.decode() for view in world.engine.browse("items", "ready")}
    assert len(ids) == len(set(ids)) == 640
    assert set(ids) <= set(stored)
    assert len(stored) == 641
    payloads = world.engine.payloads()
    for name in {payload.partition(".")[0] for payload in payloads}:  # each in its order
        mine = [payload for payload in payloads if payload.partition(".")[0] == name]
        assert mine == sorted(mine)


async def test_what_comes_during_a_call_goes_into_the_next(world: World) -> None:
    held = world.hold()
    tasks = [asyncio.create_task((world.items, world.others)[n % 2].aenqueue(f"{n}")) for n in range(4)]
    await world.until_in_line(5)
    world.engine.gate.set()
    await asyncio.gather(*tasks)
    held.join()
    assert [len(call) for call in world.engine.calls] == [1, 4]
    assert world.engine.payloads("others") == ["warm", "1", "3"]


async def test_the_loop_never_waits_for_the_engine(world: World) -> None:
    world.engine.threads.clear()
    await world.items.aenqueue("x")
    assert threading.get_ident() not in world.engine.threads


async def test_an_error_is_that_of_its_job_alone(world: World) -> None:
    """`others` has room for two more."""
    held = world.hold()
    tasks = [asyncio.create_task((world.items, world.others)[n % 2].aenqueue(f"{n}")) for n in range(8)]
    await world.until_in_line(9)
    world.engine.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    held.join()
    refused = [n for n, answer in enumerate(answers) if isinstance(answer, Exception)]
    assert [type(answers[n]).__name__ for n in refused] == ["QueueFull", "QueueFull"]
    assert [n % 2 for n in refused] == [1, 1]
    assert len(world.engine.payloads("others")) == 3
    assert world.spans.ends.count(None) == 2 + 1 + 6  # the warm ones, the held one and these


@pytest.mark.parametrize("error", [RuntimeError("a driver's surprise"), KeyboardInterrupt()], ids=repr)
async def test_what_is_no_refusal_is_uncertain_and_the_flusher_goes_on(world: World, error: BaseException) -> None:
    held = world.hold()
    tasks = [asyncio.create_task(world.items.aenqueue(f"{n}")) for n in range(3)]
    await world.until_in_line(4)
    world.engine.errors.append(error)
    world.engine.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    held.join()
    assert [type(answer) for answer in answers] == [EnqueueUncertain] * 3
    assert len({answer.job_id for answer in answers if isinstance(answer, EnqueueUncertain)}) == 3
    assert await world.items.aenqueue("after")


async def test_chosen_ids_share_calls_of_a_server_and_a_duplicate_is_told_to_the_one_that_is_it(server: World) -> None:
    held = server.hold()
    make = server.items.aenqueue
    tasks = [asyncio.create_task(make(f"{n}", job_id=f"id{n % 3}")) for n in range(6)]
    tasks.append(asyncio.create_task(server.others.aenqueue("other", job_id="id0")))
    raising = asyncio.create_task(make("raising", job_id="id1", on_conflict="raise"))
    await server.until_in_line(9)
    server.engine.gate.set()
    answers = await asyncio.gather(*tasks)
    held.join()
    assert [answer.duplicate for answer in answers] == [False] * 3 + [True] * 3 + [False]
    assert answers == ["id0", "id1", "id2"] * 2 + ["id0"]
    with pytest.raises(Duplicate):
        await raising
    assert all(len(call) == len(set(call)) for call in server.engine.calls)  # an error names jobs by their ids
    assert len(server.engine.calls) <= 5


async def test_chosen_ids_of_a_local_engine_stay_out_of_the_line(world: World) -> None:
    """The spool looks each up under its lock, which may be held for seconds."""
    held = world.hold()
    waiting = asyncio.create_task(world.items.aenqueue("x", job_id="chosen"))
    async with asyncio.timeout(PATIENCE):
        while len(world.engine.calls) < 2:
            await asyncio.sleep(0.001)
    assert world.engine.calls[1] == ["chosen"]
    world.engine.gate.set()
    assert not (await waiting).duplicate
    held.join()
    assert (await world.items.aenqueue("x", job_id="chosen")).duplicate
    assert world.items.enqueue("x", job_id="chosen").duplicate


async def test_a_call_has_its_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MOST", 5)
    monkeypatch.setattr(state, "MOST_BYTES", 100)
    held = world.hold()
    tasks = [asyncio.create_task(world.items.aenqueue(text)) for text in ["x"] * 7 + ["y" * 60, "z" * 200, "x"]]
    await world.until_in_line(11)
    world.engine.gate.set()
    await asyncio.gather(*tasks)
    held.join()
    assert [len(call) for call in world.engine.calls] == [1, 5, 3, 1, 1]


async def test_a_cancelled_coroutine_leaves_a_job_that_is_stored_and_a_span_that_says_so(world: World) -> None:
    held = world.hold()
    task = asyncio.create_task(world.items.aenqueue("cancelled"))
    await world.until_in_line(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(world.spans.open) == 2
    world.engine.gate.set()
    held.join()
    await world.items.aenqueue("after")
    assert world.engine.payloads() == ["warm", "held", "cancelled", "after"]
    assert (world.spans.open, set(world.spans.ends)) == (set(), {None})


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
    assert "Failed" not in caplog.text


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
from framework.brokers.memory import MemoryBroker, MemoryStore
from framework.producer import Producer

engine = MemoryBroker(MemoryStore(), incarnation="p")
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
    while not jobs.sender()._line._state.line and not jobs.sender()._broker.stats("jobs").ready:
        await asyncio.sleep(0)

jobs.enqueue("warm")
asyncio.run(main())
"""


def test_what_stands_in_line_when_the_process_ends_is_stored_first(tmp_path: Path) -> None:
    play(LEAVE, WORKER_ENGINE_URL=f"spool:{tmp_path}/spool")
    broker = open_broker(f"spool:{tmp_path}/spool", incarnation="reader")
    broker.open([Queue[str]("jobs").options])
    assert broker.stats("jobs").ready == 51
    broker.close()


RANDOM = """
import os, sys
from framework import randomness

def say():
    os.write(1, "".join(f"{randomness.random_bytes().hex()}\\n" for _ in range(300)).encode())

randomness.random_bytes()
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
randomness._pool.clear()
say()
"""


def test_random_bytes_are_never_shared_with_a_child() -> None:
    """Verified: without the hook all of the child's are the parent's."""
    found = play(RANDOM).split()
    assert len(found) == len(set(found)) == 1200
    assert {len(one) for one in found} == {64}
