"""Mistakes of a declaration. Never imported: the declaration checks would refuse some of it at run time, too."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from framework import Cron, DeadLetter, Every, Queue, RetryPolicy, Slo, Unique, WorkerApp


class Delivery(BaseModel):
    url: str


class Other(BaseModel):
    name: str


class Service(WorkerApp):
    dead = Queue[DeadLetter]("dead")
    others = Queue[Other]("others")
    a = Queue[Delivery]("a", dead_letter=others)  # E its letters are no Other
    b = Queue[Delivery]("b", dead_letter="dead")  # E the queue, not its name
    c = Queue[Delivery]("c", dead_letter=Queue[Delivery]("c-dead"))  # E
    d = Queue[Delivery]("d", workres=2)  # E unknown option
    e = Queue[Delivery]("e", 2)  # E options are named
    f = Queue[Delivery]()  # E no name
    g = Queue[Delivery]("g", timeout="30")  # E
    h = Queue[Delivery]("h", retry=3)  # E a policy, not a number
    i = Queue[Delivery]("i", retry=RetryPolicy(retries=3))  # E unknown option
    j = Queue[Delivery]("j", retry=RetryPolicy(give_up_on=(KeyboardInterrupt,)))  # E a BaseException
    k = Queue[Delivery]("k", retry=RetryPolicy(give_up_on=ValueError))  # E a tuple
    m = Queue[Delivery]("m", schedules=[Cron("0 2 * * *", Other(name="x"))])  # E another queue's payload
    n = Queue[Delivery]("n", schedules=[Every(timedelta(hours=1), Other(name="x"))])  # E
    o = Queue[Delivery]("o", schedules=[Cron("0 2 * * *")])  # E a schedule needs a payload
    p = Queue[Delivery]("p", concurrency=2.5)  # E
    q = Queue[Delivery]("q", max_memory=512.5)  # E
    s = Queue[Delivery]("s", slo=30)  # E an Slo
    t = Queue[Delivery]("t", slo=Slo(30, 0.99))  # E named
    u = Queue[Delivery]("u", slo=Slo(wait="30s", target=0.99))  # E seconds
    v = Queue[Delivery]("v", slo=Slo(wait=30))  # E no target
    cc = Queue[Delivery]("cc", grace="10m")  # E seconds
    w = Queue[Delivery]("w", unique="url")  # E a Unique
    x = Queue[Delivery]("x", unique=Unique(key=lambda delivery: delivery.name))  # E no such field
    y = Queue[Delivery]("y", unique=Unique(key=lambda delivery: len(delivery.url)))  # E text
    z = Queue[Delivery]("z", unique=Unique(key=lambda delivery: delivery.url, until="ended"))  # E
    aa = Queue[Delivery]("aa", unique=Unique(key=lambda delivery: delivery.url, until=60))  # E a timedelta
    bb = Queue[Delivery]("bb", unique=Unique())  # E no key
    bare = Queue("bare")  # E no payload type
    r = Queue[Delivery, Other]("r")  # E one type


Service.bare.enqueue(Delivery(url=""))  # pyright: ignore


@Service.a.upgrade(from_version=1)  # E text
def one(old: dict[str, str]) -> dict[str, str]:
    return old


@Service.a.upgrade(from_version="1")  # E one argument
def two(old: dict[str, str], more: int) -> dict[str, str]:
    return old
