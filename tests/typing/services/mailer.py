"""E-mail: one at a time, tenants that can be paused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from pydantic import BaseModel

from framework import Context, Discard, JobId, JobInterrupted, Queue, Snooze, Unique, WorkerApp


class Letter(BaseModel):
    tenant: str
    to: str
    body: str


class Mailer(WorkerApp):
    letters = Queue[Letter]("letters", workers=1, concurrency=1, timeout=30, kill_after=2.5)
    digests = Queue[Letter]("digests", unique=Unique(key=lambda letter: letter.to, until="started"))
    reminders = Queue[Letter]("reminders", unique=Unique(key=lambda letter: letter.to, until=timedelta(days=1)))
    paused: ClassVar[set[str]] = set()
    gone: ClassVar[set[str]] = set()

    @letters.upgrade(from_version="1.4")
    @staticmethod
    def without_tenant(old: dict[str, Any]) -> dict[str, Any]:
        return old | {"tenant": "first"}

    @letters.handler
    @digests.handler
    @reminders.handler
    def send(self, letter: Letter, ctx: Context) -> None:
        if letter.to in self.gone:
            raise Discard("the recipient has left")
        if letter.tenant in self.paused:
            raise Snooze(delay=60)
        try:
            ctx.log.info("sent", to=letter.to)
        except JobInterrupted as interrupted:
            ctx.log.warning("interrupted", why=interrupted.why)
            raise


@Mailer.letters.upgrade(from_fingerprint="0123456789ab")
def only_a_body(old: str) -> Letter:
    return Letter(tenant="first", to="postmaster", body=old)


async def later(letter: Letter) -> bool:
    """One digest, some quiet time after the last letter."""
    return (await Mailer.digests.aenqueue(letter, delay=60, on_conflict="postpone")).duplicate


def new(letters: list[Letter]) -> list[JobId]:
    found = Mailer.letters.enqueue_many(jobs=((letter, letter.to) for letter in letters), on_conflict="raise")
    return [job_id for job_id in found if not job_id.duplicate]
