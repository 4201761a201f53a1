"""`Queue(unique=...)`, `enqueue_many(jobs=...)`, and what they say of mistakes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from framework import (
    Context,
    DeclarationError,
    Duplicate,
    InvalidArgument,
    JobId,
    Queue,
    Reject,
    Unique,
    WorkerApp,
)
from framework.testing import harness


class Sync(BaseModel):
    user: str
    page: int = 1


class App(WorkerApp):
    syncs = Queue[Sync]("syncs", unique=Unique(key=lambda sync: sync.user))
    fresh = Queue[Sync]("fresh", unique=Unique(key=lambda sync: sync.user, until="started"))
    seldom = Queue[Sync]("seldom", unique=Unique(key=lambda sync: sync.user, until=timedelta(minutes=10)))
    numbers = Queue[int]("numbers")
    inside: Callable[[Sync], Any]

    def __init__(self) -> None:
        self.inside = lambda sync: None
        self.seen: list[Any] = []

    @syncs.handler
    @fresh.handler
    @seldom.handler
    def sync(self, sync: Sync, ctx: Context) -> None:
        self.seen.append(sync.page)
        self.inside(sync)

    @numbers.handler
    def number(self, number: int) -> None:
        self.seen.append(number)


def told(*answers: str) -> list[tuple[str, bool]]:
    return [(str(answer), isinstance(answer, JobId) and answer.duplicate) for answer in answers]


def test_one_job_of_a_key_waits_or_runs() -> None:
    with harness(App) as t:
        first, second = App.syncs.enqueue(Sync(user="ada")), App.syncs.enqueue(Sync(user="ada", page=2))
        assert told(first, second) == [(first, False), (first, True)]
        assert not App.syncs.enqueue(Sync(user="bob", page=3)).duplicate
        t.app.inside = lambda sync: t.app.seen.append(App.syncs.enqueue(Sync(user=sync.user), delay=60).duplicate)
        assert t.drain() == 2
        assert t.app.seen == [1, True, 3, True]
        assert not App.syncs.enqueue(Sync(user="ada")).duplicate


def test_until_started_the_running_job_does_not_hold_it() -> None:
    """What changes while it runs gets a job of its own, and only one."""
    with harness(App) as t:
        first = App.fresh.enqueue(Sync(user="ada"))
        assert App.fresh.enqueue(Sync(user="ada")) == first

        def change(sync: Sync) -> None:
            if sync.page == 1:
                t.app.seen += [App.fresh.enqueue(Sync(user="ada", page=2)).duplicate for _ in range(2)]

        t.app.inside = change
        assert t.drain() == 2
        assert t.app.seen == [1, False, True, 2]


def test_a_window_holds_after_the_job() -> None:
    with harness(App) as t:
        first = App.seldom.enqueue(Sync(user="ada"))
        assert t.drain() == 1
        assert App.seldom.enqueue(Sync(user="ada")) == first
        App.numbers.enqueue(1, delay=600)
        t.drain()
        assert not App.seldom.enqueue(Sync(user="ada")).duplicate


async def test_many_and_asyncio() -> None:
    with harness(App) as t:
        found = App.syncs.enqueue_many([Sync(user="ada"), Sync(user="bob"), Sync(user="ada")])
        assert told(*found) == [(found[0], False), (found[1], False), (found[0], True)]
        assert (await App.syncs.aenqueue(Sync(user="bob"))) == found[1]
        assert told(*await App.syncs.aenqueue_many([Sync(user="ada"), Sync(user="cy")]))[0] == (found[0], True)
        assert len(t.enqueued(App.syncs)) == 3


def test_a_dead_letter_holds_none() -> None:
    with harness(App) as t:
        first = App.syncs.enqueue(Sync(user="ada"))

        def reject(sync: Sync) -> None:
            raise Reject("no")

        t.app.inside = reject
        t.drain()
        assert App.syncs.enqueue(Sync(user="ada")) != first


def test_a_conflict_raises_where_that_is_asked_for() -> None:
    with harness(App) as t:
        first = App.syncs.enqueue(Sync(user="ada"), on_conflict="raise")
        with pytest.raises(Duplicate, match=f"queue 'syncs': job '{first}' has the unique key already") as raised:
            App.syncs.enqueue(Sync(user="ada"), on_conflict="raise")
        assert raised.value.job_id == first
        with pytest.raises(Duplicate, match="already: 1 of 3 jobs not queued, `enqueued` has the ids") as raised:
            App.syncs.enqueue_many([Sync(user="bob"), Sync(user="ada"), Sync(user="cy")], on_conflict="raise")
        assert raised.value.job_id == first
        assert [one for one, duplicate in told(*raised.value.enqueued) if not duplicate] == [
            raised.value.enqueued[0], raised.value.enqueued[2],
        ]  # fmt: skip
        assert len(t.enqueued(App.syncs)) == 3


async def test_many_with_ids() -> None:
    with harness(App) as t:
        found: list[JobId] = App.numbers.enqueue_many(jobs=[(1, "a"), (2, "b"), (3, "a")])
        assert told(*found) == [("a", False), ("b", False), ("a", True)]
        assert told(*await App.numbers.aenqueue_many(jobs=((n, f"n{n}") for n in (4, 5)))) == [
            ("n4", False), ("n5", False),
        ]  # fmt: skip
        with pytest.raises(Duplicate, match="a job of id 'b' exists already") as raised:
            App.numbers.enqueue_many(jobs=[(6, "c"), (7, "b")], on_conflict="raise")
        assert told(*raised.value.enqueued) == [("c", False), ("b", True)]
        assert t.enqueued(App.numbers) == [1, 2, 4, 5, 6]


def test_mistakes_in_many_with_ids() -> None:
    with harness(App) as t:
        for jobs, message in (
            ([(1, "a"), 7], r"jobs: item 1, counted from 0, is int and no pair: write \(payload, job_id\)"),
            ([(1, "a", 2)], "jobs: item 0, counted from 0, is tuple and no pair"),
            ([(1, "a"), (2, "")], "payload 1, counted from 0: job_id='': 1 to 255 printable characters"),
            ([(1, "a"), (2, None)], "payload 1, counted from 0: job_id=None is NoneType"),
        ):
            with pytest.raises(InvalidArgument, match=message):
                App.numbers.enqueue_many(jobs=jobs)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="either payloads or jobs="):
            App.numbers.enqueue_many([1], jobs=[(1, "a")])  # type: ignore[call-overload]
        with pytest.raises(InvalidArgument, match="either payloads or jobs="):
            App.numbers.enqueue_many()  # type: ignore[call-overload]
        with pytest.raises(InvalidArgument, match="queue 'syncs' has unique=, so its jobs get no job_id"):
            App.syncs.enqueue_many(jobs=[(Sync(user="ada"), "a")])
        with pytest.raises(InvalidArgument, match="queue 'syncs' has unique=, so its jobs get no job_id"):
            App.syncs.enqueue(Sync(user="ada"), job_id="a")
        with pytest.raises(InvalidArgument, match="on_conflict='never'"):
            App.numbers.enqueue_many([1], on_conflict="never")  # type: ignore[call-overload]
        assert t.enqueued(App.numbers) == []


def _raises(_: Any) -> Any:
    raise LookupError("of a secret")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (_raises, r"raised LookupError$"),
        (lambda _: None, r"returned NoneType: must be text of 1 to 255 characters"),
        (lambda _: 7, r"returned int: must be"),
        (lambda _: b"7", r"returned bytes: must be"),
        (lambda _: "", r"returned text of 0 characters: must be"),
        (lambda _: "x" * 256, r"returned text of 256 characters: must be"),
        (lambda _: "\ud800", r"returned text of 1 characters: must be"),
        (lambda sync: sync.usr, r"raised AttributeError$"),
    ],
)
def test_a_wrong_key_is_one_clear_line(key: Callable[[Any], Any], message: str) -> None:
    class Wrong(WorkerApp):
        syncs = Queue[Sync]("syncs", unique=Unique(key=key))

    with harness(Wrong) as t:
        where = r"queue 'syncs': the function of its unique key \(.*test_unique.py:\d+\) "
        with pytest.raises(InvalidArgument, match=where + message) as raised:
            Wrong.syncs.enqueue(Sync(user="ada"))
        assert "\n" not in str(raised.value)
        assert "secret" not in str(raised.value)
        with pytest.raises(InvalidArgument, match=where + message):
            Wrong.syncs.enqueue_many([Sync(user="ada")])
        assert t.enqueued(Wrong.syncs) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "user"}, r"key='user': write a function"),
        ({"key": str, "until": "ended"}, r"until='ended': write 'started', 'done' or a timedelta"),
        ({"key": str, "until": 60}, r"until=60: write"),
        ({"key": str, "until": timedelta(0)}, r"until=0:00:00: must be more than 0"),
        ({"key": str, "until": timedelta(days=-1)}, r"until=-1 day, 0:00:00: must be more than 0"),
        ({"key": str, "until": timedelta(days=20_000)}, r"until=20000 days, 0:00:00: must be more than 0 and at most"),
        ({"key": str, "until": None}, r"until=None: write"),
        ({"key": str, "until": []}, r"until=\[\]: write"),
    ],
)
def test_a_wrong_declaration_names_its_place(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=rf"test_unique.py:\d+: {message}"):
        Unique(**options)


def test_unique_is_a_unique() -> None:
    with pytest.raises(DeclarationError, match=r"test_unique.py:\d+: unique='user': write Unique\(key=...\)"):
        Queue[Sync]("syncs", unique="user")  # type: ignore[arg-type]


def test_a_successor_under_ones_own_key_is_not_lost_silently(caplog: pytest.LogCaptureFixture) -> None:
    with harness(App) as t:
        t.app.inside = lambda sync: App.syncs.enqueue(sync, delay=60)
        App.syncs.enqueue(Sync(user="ada"))
        t.drain()
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "enqueued another under its own key" in line


def test_the_key_is_that_of_what_a_handler_gets() -> None:
    """Also where the caller gives a dict that the type accepts."""
    with harness(App):
        assert not App.syncs.enqueue({"user": "ada"}).duplicate  # type: ignore[arg-type]
        assert App.syncs.enqueue(Sync(user="ada")).duplicate
