"""`Queue.cancel` as a service calls it: its answers, and what it refuses."""

from __future__ import annotations

import asyncio

import pytest

from framework import Context, DeadLetter, InvalidArgument, Queue, Reject, WorkerApp
from framework.testing import harness


class App(WorkerApp):
    letters = Queue[DeadLetter]("cancel.letters")
    jobs = Queue[int]("cancel.jobs", dead_letter=letters)
    others = Queue[int]("cancel.others", dead_letter=letters)
    told: str = ""

    @jobs.handler
    def work(self, number: int, ctx: Context) -> None:
        if number == 0:
            raise Reject("never")
        if number == 1:
            App.told = App.jobs.cancel(ctx.job_id)
            raise OSError("fails behind its own cancellation")

    @others.handler
    def reject(self, number: int) -> None:
        raise Reject("never")


def test_what_it_answers() -> None:
    with harness(App) as t:
        waits, delayed = App.jobs.enqueue(5), App.jobs.enqueue(6, delay=60)
        assert [App.jobs.cancel(waits), App.jobs.cancel(delayed), App.jobs.cancel(waits)] == ["cancelled"] * 3
        assert [App.jobs.cancel("unknown"), App.others.cancel(waits)] == ["unknown", "unknown"]
        done, dead = App.jobs.enqueue(7), App.jobs.enqueue(0)
        App.others.enqueue(1, job_id="other")
        assert t.drain() == 3
        assert [App.jobs.cancel(done), App.jobs.cancel(dead), App.letters.cancel(dead)] == ["unknown", "dead", "dead"]
        assert [App.jobs.cancel("other"), App.others.cancel("other")] == ["unknown", "dead"]
        assert asyncio.run(App.jobs.acancel(waits)) == "cancelled"


def test_a_handler_that_cancels_its_own_job_is_not_retried() -> None:
    with harness(App) as t:
        job_id = App.jobs.enqueue(1)
        assert t.drain(raise_errors=False) == 1
        assert App.told == "stopping"
        assert App.jobs.cancel(job_id) == "cancelled"
        assert t.dead(App.jobs) == []


@pytest.mark.parametrize("wrong", ["", 7, None, "x" * 300, "a\nb"])
def test_what_can_be_no_id_is_refused_in_one_line(wrong: object) -> None:
    with harness(App), pytest.raises(InvalidArgument, match=r"^job_id=.* 1 to "):
        App.jobs.cancel(wrong)  # type: ignore[arg-type]
