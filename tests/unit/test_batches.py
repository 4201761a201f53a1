"""Batch handlers: which jobs come together, and how each of them ends."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from framework import (
    Context,
    DeadLetter,
    Discard,
    Failure,
    Item,
    JobInterrupted,
    Queue,
    Reject,
    Running,
    Snooze,
    WorkerApp,
)
from framework.model.job import current_job
from framework.model.outcome import Kind
from framework.service.options import resolve
from framework.testing import context, harness
from tests.unit.helpers import a_lease, an_executor, load_service, refusal

seen: list[Any] = []


class App(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    jobs = Queue[str]("jobs", dead_letter=dead)
    later = Queue[str]("later")

    @contextmanager
    def around(self, job: Running) -> Generator[None, None, None]:
        seen.append(f"around {len(job.payload)}")
        yield

    @jobs.batch_handler(size=3, wait=20)
    def act(self, items: Sequence[Item[str]]) -> None:
        seen.append([item.payload for item in items])
        assert current_job() is None
        for item in items:
            match item.payload:
                case "reject":
                    item.reject("no")
                case "retry":
                    item.retry("busy", delay=7)
                case "snooze":
                    item.fail(Snooze(delay=3))
                case "discard":
                    item.fail(Discard("old"))
                case "twice":
                    item.reject("first")
                    item.fail(KeyError("second"))
                case "save":
                    item.ctx.save(len(items))
                    assert item.ctx.saved == len(items)
        if any(item.payload == "raise" for item in items):
            raise Stubborn("all", 7)
        if any(item.payload == "timeout" for item in items):
            raise JobInterrupted("timeout")
        if any(item.payload == "lost" for item in items):
            raise JobInterrupted("lease_lost")
        if any(item.payload == "cancelled" for item in items):
            raise JobInterrupted("cancelled")

    @later.batch_handler(size=3, wait=20)
    async def later_act(self, items: Sequence[Item[str]]) -> None:
        await asyncio.sleep(0)
        self.act(items)

    @dead.batch_handler(size=2)
    def letters(self, items: Sequence[Item[DeadLetter]]) -> None:
        seen.append([item.payload.payload for item in items])

    def on_failure(self, failure: Failure, ctx: Context) -> None:
        seen.append(f"{ctx.job_id} {failure.reason}: {failure.message}")


class Stubborn(Exception):
    """It cannot be copied."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.number = number


@pytest.fixture(autouse=True)
def forget() -> None:
    seen.clear()


def run(queue: str, *payloads: str) -> dict[str, tuple[Kind, float]]:
    """Run jobs side by side; return how each ended. `seen` has the batches first, then failures by job."""
    executor = an_executor(App(), queue=queue)
    attempts = [executor.attempt(a_lease(f'"{text}"'.encode(), queue=queue, job_id=text)) for text in payloads]

    async def call(made: Any) -> Any:
        return await made

    async def together() -> None:
        await asyncio.gather(*(executor.run_async(attempt, call=call) for attempt in attempts))

    if executor.handler.is_async:
        asyncio.run(together())
    else:
        with ThreadPoolExecutor(len(attempts)) as threads:
            list(threads.map(executor.run, attempts))
    return {one.lease.job.id: (one.ended.kind, one.ended.delay) for one in attempts}


BOTH = pytest.mark.parametrize("queue", ["jobs", "later"])


@BOTH
def test_each_item_has_an_outcome_of_its_own(queue: str) -> None:
    ended = run(queue, "ok", "reject", "retry")
    assert ended == {"ok": (Kind.SUCCEEDED, 0), "reject": (Kind.DEAD_LETTERED, 0), "retry": (Kind.RETRIED, 7)}
    assert (seen[0], sorted(seen[1])) == ("around 3", ["ok", "reject", "retry"])
    assert sorted(seen[2:]) == ["reject rejected: no", "retry error: busy"]
    ended = run(queue, "snooze", "discard", "twice")
    assert {job: kind for job, (kind, _) in ended.items()} == {
        "snooze": Kind.RELEASED, "discard": Kind.DISCARDED, "twice": Kind.RETRIED,
    }  # fmt: skip
    assert seen[-1] == "twice error: 'second'"


@BOTH
def test_what_the_handler_raises_fails_all_that_are_not_marked(queue: str) -> None:
    ended = run(queue, "raise", "reject", "ok")
    assert {job: kind for job, (kind, _) in ended.items()} == {
        "raise": Kind.RETRIED, "reject": Kind.DEAD_LETTERED, "ok": Kind.RETRIED,
    }  # fmt: skip
    assert sorted(seen[2:]) == ["ok error: all", "raise error: all", "reject rejected: no"]


@BOTH
def test_an_interruption_is_that_of_the_whole_batch(queue: str) -> None:
    assert {kind for kind, _ in run(queue, "timeout", "a", "b").values()} == {Kind.RETRIED}
    assert {line.split(" ", 1)[1] for line in seen[2:]} == {"timeout: stopped at its timeout of 30 s"}


@BOTH
def test_who_has_lost_a_job_gives_the_others_back(queue: str) -> None:
    kinds = sorted(kind for kind, _ in run(queue, "lost", "a", "b").values())
    assert kinds == [Kind.LEASE_LOST, Kind.RELEASED, Kind.RELEASED]


@BOTH
def test_who_is_cancelled_gives_the_others_back(queue: str) -> None:
    kinds = sorted(kind for kind, _ in run(queue, "cancelled", "a", "b").values())
    assert kinds == [Kind.CANCELLED, Kind.RELEASED, Kind.RELEASED]


@BOTH
def test_a_batch_is_no_larger_than_its_size(queue: str) -> None:
    assert {kind for kind, _ in run(queue, *"abcdef").values()} == {Kind.SUCCEEDED}
    batches = [one for one in seen if isinstance(one, list)]
    assert sorted(job for batch in batches for job in batch) == list("abcdef")
    assert list(map(len, batches)) == [3, 3]


class Hurried(App):
    """Its batches wait for nothing."""

    @App.jobs.batch_handler(size=3, wait=0)
    def act(self, items: Sequence[Item[str]]) -> None:
        super().act(items)

    @App.later.batch_handler(size=3, wait=0)
    async def later_act(self, items: Sequence[Item[str]]) -> None:
        await super().later_act(items)


@BOTH
def test_one_that_cannot_be_decoded_joins_no_batch(queue: str) -> None:
    with harness(Hurried) as t:
        App.worker_queues[queue].enqueue("ok")
        t._store.add(a_lease(b"7", queue=queue).job, now=0.0)
        assert t.drain(raise_errors=False) >= 2
    assert ["ok"] in seen


def test_a_cancelled_batch_is_told_apart() -> None:
    """The first job of an async batch is cancelled at its timeout, and the others do not know of it."""
    executor = an_executor(App(), queue="later", timeout=0.0001)
    attempts = [executor.attempt(a_lease(b'"x"', queue="later", job_id=text)) for text in "ab"]
    first: list[asyncio.Task[Any]] = []

    async def call(made: Any) -> Any:
        try:
            return await made
        except asyncio.CancelledError:
            raise JobInterrupted("timeout") from None

    async def live() -> None:
        first.extend(asyncio.create_task(executor.run_async(one, call=call)) for one in attempts)
        await asyncio.sleep(0)
        first[0].cancel()
        await asyncio.gather(*first)

    asyncio.run(live())
    assert [one.ended.failure.reason for one in attempts if one.ended.failure] == ["timeout"]
    assert {one.ended.kind for one in attempts} == {Kind.RETRIED, Kind.RELEASED}


def test_the_harness_runs_batches() -> None:
    with harness(App) as t:
        for text in ("a", "b", "c", "reject", "save"):
            App.jobs.enqueue(text)
            App.later.enqueue(text)
        assert t.drain() == 11
        assert sorted(map(len, (one for one in seen if isinstance(one, list)))) == [1, 2, 2, 3, 3]
        assert [letter.payload for letter in t.dead(App.later)] == ["reject"]
    assert ["reject"] in seen, "the dead letter of jobs was handled"


async def test_the_harness_runs_batches_in_a_loop() -> None:
    with harness(App) as t:
        for text in ("a", "b", "c"):
            App.later.enqueue(text)
        assert await t.adrain() == 3
    assert ["a", "b", "c"] in seen


def test_a_process_has_room_for_a_batch() -> None:
    assert resolve(App.jobs, None, App).concurrency == 3
    assert resolve(App.jobs, None, None).concurrency == 1


def test_an_override_without_decorator_handles_batches_too(tmp_path: Path) -> None:
    module = load_service(
        """
        from framework import Item
        class A(WorkerApp):
            jobs = Queue[int]("jobs", concurrency=20)
            @jobs.batch_handler(size=7)
            def act(self, items: Sequence[Item[int]]) -> None: ...
        class B(A):
            def act(self, items: Sequence[Item[int]]) -> None: ...
        """,
        tmp_path / "service.py",
    )
    assert module.B.worker_handlers["jobs"].batching.size == 7
    assert resolve(module.B.jobs, None, module.B).concurrency == 20


@pytest.mark.parametrize(
    ("decorator", "signature", "said"),
    [
        (
            "batch_handler(size=0)",
            "items",
            "batch handler of queue 'jobs': size=0: must be a whole number",
        ),
        ("batch_handler(size=True)", "items", "size=True: must be a whole number"),
        ("batch_handler(wait=-1)", "items", "wait=-1: must be 0 to 60 seconds"),
        ("batch_handler(wait='1')", "items", "batch handler of queue 'jobs'"),
        ("batch_handler", "items", "write @….batch_handler(size=100) above the method, with parentheses"),
        ("batch_handler(size=300)", "items", "concurrency=300 must be at most 256"),
        ("batch_handler(wait=30)", "items", "A.act waits 30 s for a batch: must be below its timeout of 30 s"),
        ("batch_handler()", "items, ctx", "A.act handles batches: it must take (self, items)"),
        ("batch_handler()", "items: Delivery", "A.act takes Delivery, but queue 'jobs' carries"),
    ],
)
def test_mistakes_are_found_when_the_class_is_made(decorator: str, signature: str, said: str, tmp_path: Path) -> None:
    body = f"""
        class A(WorkerApp):
            jobs = Queue[int]("jobs")
            @jobs.{decorator}
            def act(self, {signature}) -> None: ...
    """
    assert said in refusal(body, tmp_path / "service.py")


def test_a_queue_of_a_pool_has_no_batches(tmp_path: Path) -> None:
    body = """
        from framework import Pool
        class A(WorkerApp):
            light = Pool("light")
            jobs = Queue[int]("jobs", pool=light)
            @jobs.batch_handler()
            def act(self, items) -> None: ...
    """
    assert "handles batches of queue 'jobs', which is in a pool: remove its pool=" in refusal(body, tmp_path / "s.py")


def test_only_an_exception_can_fail_an_item() -> None:
    item = Item("payload", Context("j", "q", 1, 1, None, None, None))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"item\.fail\('no'\): give it an exception"):
        item.fail("no")  # type: ignore[arg-type]
    assert item.error is None


class Slow(WorkerApp):
    jobs = Queue[str]("jobs", timeout=600)
    later = Queue[str]("later", timeout=600)

    @jobs.batch_handler(size=9, wait=60)
    def act(self, items: Sequence[Item[str]]) -> None:
        items[0].reject(items[0].payload)

    @later.batch_handler(size=9, wait=60)
    async def later_act(self, items: Sequence[Item[str]]) -> None:
        self.act(items)


@BOTH
def test_a_drain_does_not_wait_for_more_jobs(queue: str) -> None:
    """And a handler can be tested as a method."""
    executor = an_executor(Slow(), queue=queue)
    executor._stopping = lambda lease: True
    assert executor.batches is not None
    executor.batches._wait = 1e6  # who waits is stopped by the limit of a test
    attempt = executor.attempt(a_lease(b'"x"', queue=queue))

    async def call(made: Any) -> Any:
        return await made

    if executor.handler.is_async:
        asyncio.run(executor.run_async(attempt, call=call))
    else:
        executor.run(attempt)
    assert attempt.ended.kind is Kind.DEAD_LETTERED
    item = Item("no", context())
    Slow().act([item])
    assert isinstance(item.error, Reject)
