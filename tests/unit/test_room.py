"""Back-pressure: enqueues that wait for room, and what QueueFull tells."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from framework import InvalidArgument, Queue, QueueFull, WorkerApp
from framework.engine.memory.engine import MemoryEngine, MemoryStore
from framework.engine.port import open_engine
from framework.model.errors import EngineUnavailable
from framework.model.job import Job, JobId
from framework.service import room
from framework.service.options import resolve
from framework.service.producer import Producer
from framework.service.sender import NoSending
from tests.support.settling import ack

PATIENCE = 30.0


class App(WorkerApp):
    items = Queue[int]("items", max_length=2)


class Spans(NoSending):
    """Counts the spans that were opened."""

    opened = 0

    def one(self, *given: Any) -> Any:
        self.opened += 1
        return super().one(*given)


class Drained:
    """A producer on an engine of its own; others take jobs from the queue when they are told to."""

    def __init__(self, url: str) -> None:
        store = MemoryStore()
        self.mine, self.worker = (open_engine(url, incarnation=f"room-{n}", store=store) for n in range(2))
        self.tries = 0
        self.tried = threading.Event()
        enqueue = self.mine.enqueue

        def counted(jobs: Sequence[Job]) -> Sequence[JobId]:
            self.tries += 1
            if self.tries > 2:
                self.tried.set()
            return enqueue(jobs)

        self.mine.enqueue = counted  # type: ignore[method-assign]
        self.spans = Spans()
        self.producer = Producer(self.mine, options=lambda queue: resolve(queue, None), sending=self.spans)
        self.worker.open([resolve(App.items, None)])

    def take(self, count: int = 1) -> None:
        leases = self.worker.claim(["items"], limit=count, wait=5)
        ack(self.worker, list(leases))

    def take_when_blocked(self, count: int = 1) -> threading.Thread:
        """Take jobs once an enqueue has found the queue full and tried again."""

        def wait() -> None:
            assert self.tried.wait(PATIENCE)
            self.take(count)

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    def depth(self) -> int:
        return sum(1 for state in ("ready", "delayed") for _ in self.worker.browse("items", state))  # type: ignore[attr-defined]


@pytest.fixture(params=["memory:", "spool"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Drained]:
    drained = Drained(request.param if request.param == "memory:" else f"spool:{tmp_path}/spool?durability=process")
    with App.items.connected(drained.producer):
        App.items.enqueue_many([1, 2])
        drained.tries = 0
        yield drained
    drained.producer.close()
    drained.worker.close()


def test_an_enqueue_waits_for_room_and_is_one_span(full: Drained) -> None:
    thread = full.take_when_blocked()
    assert not App.items.enqueue(3, block=PATIENCE).duplicate
    thread.join()
    assert full.tries >= 3
    assert full.spans.opened == 1
    assert full.depth() == 2


async def test_coroutines_wait_without_blocking_the_loop(full: Drained) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.005)
            turns += 1

    ticking = asyncio.create_task(turn())
    thread = full.take_when_blocked(2)
    await asyncio.gather(*(App.items.aenqueue(n, block=PATIENCE) for n in (3, 4)))
    thread.join()
    ticking.cancel()
    assert turns > 2
    assert full.depth() == 2


def test_many_jobs_go_in_as_there_is_room(full: Drained) -> None:
    def drain() -> None:
        assert full.tried.wait(PATIENCE)
        for _ in range(5):
            full.take(1)

    thread = threading.Thread(target=drain)
    thread.start()
    ids = App.items.enqueue_many([3, 4, 5, 6, 7], block=PATIENCE)
    thread.join()
    assert len(set(ids)) == 5
    assert full.depth() == 2


def test_without_room_in_time_it_says_how_full_the_queue_is(full: Drained) -> None:
    for block in (0, 0.05):
        began = time.monotonic()
        with pytest.raises(QueueFull) as error:
            App.items.enqueue(3, block=block)
        assert time.monotonic() - began >= block
        assert (error.value.depth, error.value.enqueued) == (2, ())
        assert error.value.oldest_age is not None
        assert 0.1 <= error.value.retry_after <= 60
    full.take()
    with pytest.raises(QueueFull) as error:
        App.items.enqueue_many([3, 4], block=0.05)
    assert len(error.value.enqueued) == 1


async def test_an_asynchronous_error_tells_the_same(full: Drained) -> None:
    for block in (0, 0.05):
        with pytest.raises(QueueFull) as error:
            await App.items.aenqueue(3, block=block)
        assert error.value.depth == 2


@pytest.mark.parametrize(("age", "hint"), [(0.0, 0.1), (100.0, 1.0), (3600.0, 36.0), (1e6, 60.0)])
def test_the_hint_is_the_time_in_which_a_hundredth_is_done(age: float, hint: float) -> None:
    now = [1_700_000_000.0]
    engine = MemoryEngine(MemoryStore(), incarnation="a", clock=lambda: now[0])
    producer = Producer(engine, options=lambda queue: resolve(queue, None), clock=lambda: now[0])
    with App.items.connected(producer):
        App.items.enqueue_many([1, 2])
        now[0] += age
        with pytest.raises(QueueFull) as error:
            App.items.enqueue(3)
    assert (error.value.oldest_age, error.value.retry_after) == (age, hint)


def test_counts_that_cannot_be_had_do_not_hide_the_error(full: Drained, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(queue: str) -> Any:
        raise EngineUnavailable("gone")

    monkeypatch.setattr(full.mine, "stats", fail)
    with pytest.raises(QueueFull) as error:
        App.items.enqueue(3)
    assert (error.value.depth, error.value.oldest_age, error.value.retry_after) == (None, None, 1.0)


def test_many_producers_of_a_full_queue_share_one_count(full: Drained, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    stats = full.mine.stats
    monkeypatch.setattr(full.mine, "stats", lambda queue: (asked.append(queue), stats(queue))[1])
    for number in range(20):
        with pytest.raises(QueueFull):
            App.items.enqueue(number)
    assert len(asked) <= 3  # one a second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": -1}, "block=-1: write 0 or more seconds"),
        ({"block": float("nan")}, "block=nan: write 0 or more seconds"),
        ({"block": "5"}, "block: '5' is no duration"),
        ({"block": 5, "connection": object()}, "block: it would keep your transaction open"),
    ],
)
async def test_a_wrong_wait_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    for enqueue in (App.items.enqueue, App.items.enqueue_many):
        with pytest.raises(InvalidArgument, match=message):
            enqueue([1], **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=message):
        await App.items.aenqueue(1, **options)
    with pytest.raises(InvalidArgument, match=message):
        await App.items.aenqueue_many([1], **options)


def test_pauses_grow_and_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    found = []
    for pause in room.pauses(5):
        now[0] += pause
        found.append(pause)
    assert sum(found) == pytest.approx(5)
    assert max(found) <= room.LAST_PAUSE
    assert len(found) < 40
    assert list(room.pauses(0)) == []
