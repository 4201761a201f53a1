"""E-mail: one at a time, tenants that can be paused."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from framework import Context, Discard, JobInterrupted, Queue, Snooze, WorkerApp


class Letter(BaseModel):
    tenant: str
    to: str
    body: str


class Mailer(WorkerApp):
    letters = Queue[Letter]("letters", workers=1, concurrency=1, timeout=30, kill_after=2.5)
    paused: ClassVar[set[str]] = set()
    gone: ClassVar[set[str]] = set()

    @letters.handler
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
