"""Checkpoints and progress as a handler sees them: what is accepted, refused, and shown."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import pytest

from framework import Context, DeadLetter, Queue, Reject, RetryPolicy, WorkerApp
from framework.model.extras import NONE, Extras, unpack, with_saved
from framework.model.handling import Progress, in_thread
from framework.testing import context, harness

NOW = RetryPolicy(max_retries=3, first_delay=0, jitter=False)


class App(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    jobs = Queue[int]("jobs", retry=NOW, dead_letter=dead)
    later = Queue[int]("later", retry=NOW)
    told: list[Any]

    @jobs.handler
    def count(self, most: int, ctx: Context) -> None:
        at = ctx.saved or {"at": 0}
        self.told.append(at)
        ctx.progress(at["at"], most, f"attempt {ctx.attempt}")
        if at["at"] < most:
            ctx.save({"at": at["at"] + 1})
            assert ctx.saved == {"at": at["at"] + 1}
            raise Reject("enough") if most > 3 else ValueError("again")

    @later.handler
    async def acount(self, most: int, ctx: Context) -> None:
        self.told.append(ctx.saved)
        if ctx.saved != most:
            await ctx.asave((ctx.saved or 0) + 1)
            raise ValueError("again")

    @dead.handler
    def letter(self, letter: DeadLetter, ctx: Context) -> None:
        self.told.append(("dead", ctx.saved))
        with pytest.raises(RuntimeError, match="a dead letter keeps the state of its job"):
            ctx.save(1)


def test_each_attempt_goes_on_where_the_one_before_has_stopped() -> None:
    with harness(App) as t:
        t.app.told = []
        job_id = App.jobs.enqueue(2)
        t.drain(raise_errors=False)
        assert t.app.told == [{"at": 0}, {"at": 1}, {"at": 2}]
        assert t.progress == {job_id: Progress(2, 2, "attempt 3")}
        App.later.enqueue(2)
        t.drain(raise_errors=False)
        assert t.app.told[3:] == [None, 1, 2]


def test_a_dead_letter_keeps_it() -> None:
    with harness(App) as t:
        t.app.told = []
        App.jobs.enqueue(9)
        assert t.drain() == 2
        assert t.app.told == [{"at": 0}, ("dead", {"at": 1})]


def test_a_handler_that_is_called_as_a_method() -> None:
    app, ctx = App(), context(saved={"at": 1})
    app.told = []
    with pytest.raises(ValueError, match="again"):
        app.count(2, ctx)
    assert (app.told, ctx.saved) == ([{"at": 1}], {"at": 2})
    ctx.save(None)
    assert ctx.saved is None
    assert context().saved is None


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": {1, 2}}, "the state is no JSON: Object of type set"),
        (math.nan, "the state is no JSON: Out of range float"),
        (LOOP, "the state is no JSON: Circular"),
        ({1: 2}, "the next attempt would get another state: use lists instead of tuples, and text as keys"),
        ((1, 2), "the next attempt would get another state"),
        ("x" * 4095, "the state has 4,097 characters of JSON, and may have 4,096"),
    ],
)
def test_a_state_that_can_not_be_saved_is_refused_in_one_line(state: Any, said: str) -> None:
    ctx = context(saved=1)
    for save in (ctx.save, lambda state: asyncio.run(ctx.asave(state))):
        with pytest.raises(ValueError, match=r"ctx\.save") as refused:
            save(state)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
    assert ctx.saved == 1


def test_a_cancelled_save_ends_before_its_job_does() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def store() -> None:
        begun.set()
        may_end.wait(30)
        ended.set()

    async def live() -> None:
        task = asyncio.create_task(in_thread(store))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(live())


@pytest.mark.parametrize("text", ['{"saved":7}', '{"saved":""}', '{"saved":"{"}', '{"saved":"1 2"}', '{"saved":null}'])
def test_stored_garbage_is_ignored_and_replaced(text: str) -> None:
    found = unpack(text)
    assert (found.saved, found.ignored) == (None, ("saved",))
    assert with_saved(found, "[1]").saved == "[1]"


def test_another_checkpoint_leaves_all_other_fields() -> None:
    found = with_saved(unpack('{"group":"g","priority":77,"later":[1]}'), "1")
    assert (found.group, found.saved, found.ignored, found.other) == ("g", "1", ("priority",), {"later": [1]})
    assert unpack(found.text) == found
    assert with_saved(unpack("no JSON"), "1") == Extras(saved="1")
    assert with_saved(with_saved(NONE, "1"), "null") is NONE


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((-1,), "ctx.progress(done=-1): must be 0 or more, and finite"),
        ((math.inf, 2), "ctx.progress(done=inf)"),
        ((math.nan,), "ctx.progress(done=nan)"),
        (("3",), "ctx.progress(done='3'): must be a number"),
        ((True,), "ctx.progress(done=True): must be a number"),
        ((1, 0), "ctx.progress(total=0): must be more than 0, and finite"),
        ((10**400, 1), "ctx.progress(done=1000"),
        ((1, 2, b"x"), "ctx.progress(text=b'x'): must be text"),
    ],
)
def test_a_progress_that_is_none_is_refused_in_one_line(given: Any, said: str) -> None:
    with pytest.raises((ValueError, TypeError)) as refused:
        context().progress(*given)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ((0,), "0"),
        ((420, 1000, "resizing"), "420 of 1,000 (42 %): resizing"),
        ((1.5, 3), "1.5 of 3 (50 %)"),
        ((7, None, "x" * 200), "7: " + "x" * 100),
        ((1_234_567, 1_000_000), "1,234,567 of 1,000,000 (123 %)"),
    ],
)
def test_a_progress_in_words(given: Any, shown: str) -> None:
    assert str(Progress(*given)) == shown
