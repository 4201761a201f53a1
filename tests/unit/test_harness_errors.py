"""The harness hides nothing: a drain raises the first error, and what a test puts on the app stays there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from framework import Context, Discard, JobInterrupted, Queue, Reject, RetryLater, RetryPolicy, Slot, Snooze, WorkerApp
from framework.testing import harness


class Client:
    def __init__(self, name: str = "real") -> None:
        self.name = name
        self.closed = False


class App(WorkerApp):
    sync = Queue[str]("sync", retry=RetryPolicy(max_retries=1))
    later = Queue[str]("later", retry=RetryPolicy(max_retries=1))
    client: Client
    pool: Client
    ends: BaseException | None = None

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.opened: list[Client] = []

    @contextmanager
    def lifespan(self, slot: Slot) -> Generator[None, None, None]:
        self.pool = self.open()
        yield
        self.pool.closed = True

    @asynccontextmanager
    async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
        self.client = self.open()
        yield
        self.client.closed = True

    def open(self) -> Client:
        self.opened.append(Client())
        return self.opened[-1]

    @sync.handler
    def run_sync(self, what: str) -> None:
        self.work(self.pool, what)

    @later.handler
    async def run_later(self, what: str) -> None:
        self.work(self.client, what)

    def work(self, client: Client, what: str) -> None:
        self.seen.append(client.name)
        if what == "swap":
            self.client = Client("swapped")
        if self.ends is not None:
            error, self.ends = self.ends, None
            raise error


QUEUES = [App.sync, App.later]


@pytest.mark.parametrize("queue", QUEUES, ids=["sync", "async"])
@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), ExceptionGroup("many", [OSError()])], ids=repr)
def test_the_first_error_is_raised_and_its_job_settled(queue: Queue[str], error: BaseException) -> None:
    with harness(App) as t:
        t.app.ends = error
        queue.enqueue("a")
        queue.enqueue("b")
        with pytest.raises(type(error)) as raised:
            t.drain()
        assert raised.value is error
        assert [failure.exception for failure in t.failures] == [error]
        assert sorted(t.enqueued(queue)) == ["a", "b"]  # the one to be retried, the other not begun
        assert t.drain() == 2
        assert t.dead(queue) == []


@pytest.mark.parametrize("queue", QUEUES, ids=["sync", "async"])
@pytest.mark.parametrize(
    "end", [Reject("no"), RetryLater("busy"), Discard("gone"), Snooze(), JobInterrupted("draining")]
)
def test_what_a_handler_says_is_no_error(queue: Queue[str], end: BaseException) -> None:
    with harness(App) as t:
        t.app.ends = end
        queue.enqueue("a")
        assert t.drain() in (1, 2)


async def test_in_a_running_loop_too() -> None:
    with harness(App) as t:
        t.app.ends = ValueError("bad")
        App.later.enqueue("a")
        with pytest.raises(ValueError, match="bad"):
            await t.adrain()
        t.app.ends = ValueError("bad")
        assert await t.adrain(raise_errors=False) == 1
        assert [failure.message for failure in t.failures] == ["bad", "bad"]


def test_an_error_goes_on_where_that_is_asked_for() -> None:
    with harness(App) as t:
        t.app.ends = ValueError("bad")
        App.sync.enqueue("a")
        assert t.drain(App.sync, raise_errors=False) == 2
        assert len(t.failures) == 1


def test_a_fake_stays_where_alifespan_sets_the_attribute() -> None:
    fake = Client("fake")
    with harness(App) as t:
        t.app.client = fake
        for _ in range(2):
            App.later.enqueue("a")
            t.drain()
            assert t.app.client is fake
    assert t.app.seen == ["fake", "fake"]
    assert t.app.client is fake
    assert [client.closed for client in t.app.opened] == [True, True, True]  # and alifespan closes what it opened
    assert not fake.closed


def test_a_fake_may_be_set_between_drains_and_changed_again() -> None:
    with harness(App) as t:
        App.later.enqueue("a")
        t.drain()
        for name in ("fake", "other"):
            t.app.client = Client(name)
            App.later.enqueue("a")
            t.drain()
        App.later.enqueue("swap")
        t.drain()
        App.later.enqueue("a")
        t.drain()
        assert t.app.seen == ["real", "fake", "other", "other", "swapped"]


async def test_a_fake_stays_in_a_running_loop() -> None:
    with harness(App) as t:
        t.app.client = Client("fake")
        for _ in range(2):
            await App.later.aenqueue("a")
            await t.adrain()
        assert t.app.seen == ["fake", "fake"]


def test_a_fake_in_place_of_what_lifespan_opened() -> None:
    with harness(App) as t:
        t.app.pool = Client("fake")
        App.sync.enqueue("a")
        t.drain()
    assert t.app.seen == ["fake"]
    assert (t.app.pool.name, t.app.pool.closed, t.app.opened[0].closed) == ("fake", False, True)


def test_a_fake_stays_after_an_error() -> None:
    with harness(App) as t:
        t.app.client = Client("fake")
        t.app.ends = ValueError("bad")
        App.later.enqueue("a")
        with pytest.raises(ValueError, match="bad"):
            t.drain()
        assert t.app.client.name == "fake"
        t.drain()
        assert t.app.seen == ["fake", "fake"]


def test_a_method_may_be_replaced_the_handler_itself_too(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    with harness(App) as t:
        App.sync.enqueue("a")
        monkeypatch.setattr(t.app, "work", lambda client, what: calls.append(what))
        t.drain()
        monkeypatch.setattr(t.app, "run_sync", lambda what: calls.append(f"{what} in place of the handler"))
        App.sync.enqueue("b")
        t.drain()
    assert calls == ["a", "b in place of the handler"]


def test_what_the_app_sets_itself_is_its_own() -> None:
    """An attribute that alifespan sets anew for each drain is no fake, though it was there between two."""
    with harness(App) as t:
        for _ in range(2):
            App.later.enqueue("a")
            t.drain()
        assert t.app.client is t.app.opened[-1]
        assert len({id(client) for client in t.app.opened}) == 3


def test_contexts_still_reach_the_handler() -> None:
    class Asks(App):
        def run_sync(self, what: str, ctx: Context) -> None:  # type: ignore[override]
            self.seen.append(ctx.job_id)

    with harness(Asks) as t:
        App.sync.enqueue("a", job_id="k")
        t.drain()
        assert t.app.seen == ["k"]


def test_the_lifespans_see_what_handlers_and_tests_have_set_beside_their_own() -> None:
    class Counts(App):
        count = 0

        def __init__(self) -> None:
            super().__init__()
            self.told: list[int] = []

        @contextmanager
        def lifespan(self, slot: Slot) -> Generator[None, None, None]:
            yield
            self.told.append(self.count)

        @asynccontextmanager
        async def alifespan(self, slot: Slot) -> AsyncGenerator[None, None]:
            self.client = Client()
            yield
            self.told.append(self.count)

        async def run_later(self, what: str) -> None:
            self.count += 1

        def run_sync(self, what: str) -> None:
            self.count += 1

    with harness(Counts) as t:
        t.app.count, t.app.told = 10, []
        App.sync.enqueue("a")
        App.later.enqueue("a")
        t.drain()
    assert t.app.told == [12, 12]
