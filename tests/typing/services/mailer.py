"""E-mail: one at a time, tenants that can be paused."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel

from framework import Context, Discard, JobInterrupted, Queue, Snooze, WorkerApp


class Letter(BaseModel):
    tenant: str
    to: str
    body: str


class Mailer(WorkerApp):
    letters = Queue[Letter]("letters", workers=1, concurrency=1, timeout=30, kill_after=2.5, grace=60)
    paused: ClassVar[set[str]] = set()
    gone: ClassVar[set[str]] = set()

    @letters.upgrade(from_version="1.4")
    @staticmethod
    def without_tenant(old: dict[str, Any]) -> dict[str, Any]:
        return old | {"tenant": "first"}

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


@Mailer.letters.upgrade(from_fingerprint="0123456789ab")
def only_a_body(old: str) -> Letter:
    return Letter(tenant="first", to="postmaster", body=old)
