"""A service that makes every span, metric and attribute of the framework's, for checks against the registry."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from pydantic import BaseModel

from framework import (
    Breaker,
    Context,
    DeadLetter,
    Discard,
    Every,
    Item,
    Queue,
    Reject,
    RetryPolicy,
    Snooze,
    WorkerApp,
)
from tests.support.ledger import note

# What the handler of `plain` does, and by which outcomes its attempts end.
ACTS = {
    "ok": {"succeeded"},
    "discard": {"discarded"},
    "reject": {"dead_lettered"},
    "fail": {"retried", "dead_lettered"},
    "snooze": {"released", "succeeded"},
    "die": {"lost"},
    "hang": {"lost"},
}


class Act(BaseModel):
    act: str


class Everything(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    plain = Queue[Act](
        "plain", dead_letter=dead, retry=RetryPolicy(max_retries=1, first_delay=0), timeout=1, kill_after=0.5
    )
    long = Queue[str]("long", timeout=60, kill_after=0.5)
    weak = Queue[int]("weak", breaker=Breaker(of=4, hold=300), retry=RetryPolicy(max_retries=5, first_delay=0))
    many = Queue[int]("many", max_running=4, rate="100/s")
    ticks = Queue[str]("ticks", schedules=[Every(1, "second")])

    @plain.handler
    def act(self, wanted: Act, ctx: Context) -> None:
        ctx.log.info("acts", act=wanted.act)
        match wanted.act:
            case "discard":
                raise Discard("not wanted any more")
            case "reject":
                raise Reject("never")
            case "fail":
                raise ValueError("no")
            case "snooze" if ctx.attempt == 1 and ctx.saved is None:
                ctx.save(1)
                raise Snooze(delay=0.01)
            case "die" if ctx.attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                hang()

    @long.handler
    def wait(self, name: str) -> None:
        note(f"began {name}")
        time.sleep(60)

    @weak.handler
    def refuse(self, number: int) -> None:
        raise ConnectionError("refused")

    @many.batch_handler(size=10)
    def add(self, numbers: Sequence[Item[int]]) -> None: ...

    @ticks.handler
    def tick(self, name: str) -> None: ...

    @dead.handler
    def report(self, letter: DeadLetter) -> None: ...


def hang() -> None:
    """Do not return, whatever is raised."""
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue


class Other(BaseModel):
    serial: str


class Newer(WorkerApp):
    """The next version of the service: a payload that Everything cannot read, and a queue that it does not declare."""

    plain = Queue[Other]("plain")
    later = Queue[int]("later")
