"""A duplicate id is answered: by `JobId.duplicate`, by Duplicate, and by a log line where a job loses its successor."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from framework import Context, DeadLetter, Duplicate, EnqueueError, InvalidArgument, JobId, Queue, Reject, WorkerApp
from framework.testing import harness


class App(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    numbers = Queue[int]("numbers", dead_letter=dead)
    later = Queue[int]("later")
    again: Callable[[Context], JobId]

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @numbers.handler
    def number(self, number: int, ctx: Context) -> None:
        if number < 0:
            raise Reject("negative")
        self.seen.append(self.again(ctx))

    @later.handler
    async def late(self, number: int, ctx: Context) -> None:
        self.seen.append(await App.later.aenqueue(number + 1, job_id=ctx.job_id))

    @dead.handler
    def letter(self, letter: DeadLetter) -> None:
        self.seen.append(App.numbers.enqueue(1, job_id=letter.job_id))


def test_the_id_says_whether_anything_was_stored() -> None:
    with harness(App) as t:
        first, second = App.numbers.enqueue(1, job_id="k"), App.numbers.enqueue(2, job_id="k")
        assert (first, first.duplicate) == ("k", False)
        assert (second, second.duplicate) == ("k", True)
        assert t.enqueued(App.numbers) == [1]
        assert not App.later.enqueue(1, job_id="k").duplicate  # another queue
        assert [found.duplicate for found in App.later.enqueue_many([1, 2])] == [False, False]


async def test_in_asyncio_too() -> None:
    with harness(App):
        assert not (await App.numbers.aenqueue(1, job_id="k")).duplicate
        assert (await App.numbers.aenqueue(1, job_id="k")).duplicate
        with pytest.raises(Duplicate):
            await App.numbers.aenqueue(1, job_id="k", on_conflict="raise")
        assert [found.duplicate for found in await App.numbers.aenqueue_many([1, 2])] == [False, False]


def test_a_duplicate_raises_where_that_is_asked_for() -> None:
    with harness(App) as t:
        App.numbers.enqueue(1, job_id="k", on_conflict="raise")
        with pytest.raises(Duplicate, match="queue 'numbers': a job of id 'k' exists already") as raised:
            App.numbers.enqueue(2, job_id="k", on_conflict="raise")
        assert (raised.value.job_id, raised.value.enqueued, raised.value.exit_code) == ("k", (), 1)
        assert isinstance(raised.value, EnqueueError)
        with pytest.raises(InvalidArgument, match="on_conflict='replace': write 'keep' or 'raise'"):
            App.numbers.enqueue(3, on_conflict="replace")  # type: ignore[arg-type]
        assert t.enqueued(App.numbers) == [1]


def test_an_id_is_a_text_like_any_other() -> None:
    with harness(App):
        App.numbers.enqueue(1, job_id="k")
        found = App.numbers.enqueue(1, job_id="k")
    for same in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert (same, same.duplicate) == ("k", True)
    assert (json.dumps([found]), f"{found}", {found: 1}["k"], repr(found)) == ('["k"]', "k", 1, "'k'")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("queue", [App.numbers, App.later])
def test_a_successor_under_ones_own_id_is_not_lost_silently(queue: Any, caplog: pytest.LogCaptureFixture) -> None:
    with harness(App) as t:
        t.app.again = lambda ctx: App.numbers.enqueue(2, job_id=ctx.job_id, delay=60)
        queue.enqueue(1, job_id="nightly")
        t.drain()
        assert [found.duplicate for found in t.app.seen] == [True]
    (line,) = lines(caplog)
    assert line.startswith(f"queue {queue.name!r}: job 'nightly' enqueued another under its own id")
    assert "nothing was queued" in line


def test_a_dead_letter_that_enqueues_its_job_again_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    with harness(App) as t:
        App.numbers.enqueue(-1, job_id="k")
        t.drain()
        assert [found.duplicate for found in t.app.seen] == [True]
    assert "queue 'numbers': job 'k' enqueued another under its own id" in lines(caplog)[-1]


def test_the_id_of_another_job_is_no_mistake(caplog: pytest.LogCaptureFixture) -> None:
    with harness(App) as t:
        t.app.again = lambda ctx: App.later.enqueue(2, job_id="other", delay=60)
        App.later.enqueue(1, job_id="other")
        App.numbers.enqueue(1)
        t.drain(App.numbers)
        assert [found.duplicate for found in t.app.seen] == [True]
    assert lines(caplog) == []


def test_a_duplicate_that_raises_says_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    with harness(App) as t:
        t.app.again = lambda ctx: App.numbers.enqueue(2, job_id=ctx.job_id, on_conflict="raise")
        App.numbers.enqueue(1, job_id="k")
        with pytest.raises(Duplicate):
            t.drain()
    assert "under its own id" not in caplog.text
