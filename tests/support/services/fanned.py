"""A service whose jobs fan out and in again; its follow-ups write down what they were told."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

from framework import Context, Discard, Queue, Reject, RetryLater, RetryPolicy, WorkerApp
from tests.support.ledger import note

OFTEN = RetryPolicy(max_retries=1000, first_delay=0.02, factor=1)


class Fanned(WorkerApp):
    """Of the members, each number ends in its own way, however often its process is killed."""

    parts = Queue[int]("parts", retry=OFTEN, workers=2)
    done = Queue[str]("done", retry=OFTEN)

    @parts.handler
    def part(self, number: int, ctx: Context) -> None:
        if number % 5 == 1:
            raise Reject("it is bad")
        if number % 5 == 2:
            raise Discard("it is old")
        if number % 5 == 3 and ctx.attempt == 1:
            raise RetryLater(delay=0)

    @done.handler
    def all_done(self, key: str, ctx: Context) -> None:
        assert ctx.ended is not None
        counts = ",".join(f"{name}={count}" for name, count in asdict(ctx.ended).items())
        note(f"done {ctx.job_id} {ctx.attempt} {key} {counts}")


def expected(members: int) -> str:
    """What a follow-up is told of so many members, which are numbered from 0."""
    dead, discarded = (sum(number % 5 == rest for number in range(members)) for rest in (1, 2))
    succeeded = members - dead - discarded
    return f"succeeded={succeeded},discarded={discarded},dead={dead},cancelled=0,unknown=0"


def produce(least: int) -> None:
    """Enqueue fan-ins, and write down which are acknowledged, until it is killed or there are so many."""
    for number in range(least):
        key, members = f"{os.getpid()}-{number}", number % 23
        made = Fanned.parts.enqueue_many(range(members), then=Fanned.done.with_payload(key))
        note(f"made {made.follow_up} {key} {members}")


if __name__ == "__main__":
    produce(int(sys.argv[1]))
