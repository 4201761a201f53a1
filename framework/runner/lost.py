"""The failures of lost attempts, on their way from maintenance to the service's `on_failure` in the hooks process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields

from framework.model.events import Event, HookFailed, HooksNotCalled
from framework.model.extras import Extras
from framework.model.job import Failure, Job, Lease
from framework.model.retry import NUMBERS
from framework.process.mailbox import LARGEST, Mailbox
from framework.service.app import WorkerApp
from framework.worker.executor.hooks import PATIENCE

HOOK = "on_failure"
_SHORT = 200  # characters that are kept of a message that is too long
_KEPT = tuple(field.name for field in fields(Failure) if field.name != "exception")  # a dead process has none
_ENDS = {
    "timeout": f"on_failure has not ended within {PATIENCE:g} s: its process was killed",
    "drain_timeout": "on_failure was still running at the end of the drain: its process was killed",
}


class LostAttempts:
    """The lost attempts of which `on_failure` must still be told.

    Maintenance puts them, the hooks process takes them, and the supervisor starts that process and reports a hook that
    ended it.

    Args:
        mailbox: the mailbox that the tree shares.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self.descriptor = mailbox.descriptor
        self._mailbox = mailbox

    @classmethod
    def of(cls, app: type[WorkerApp]) -> LostAttempts | None:
        """Return an empty set for a new tree; None: its service has no `on_failure`."""
        return None if app.on_failure is WorkerApp.on_failure else cls(Mailbox.made())

    # --- maintenance, which must not wait, nor run the service's code ------------------------------------------------

    def put(self, lease: Lease, failure: Failure) -> None:
        """Put the failure of an attempt into the mailbox. A failure that finds no room is counted."""
        message = _encoded(lease, failure, failure.message)
        if len(message) > LARGEST:
            message = _encoded(lease, failure, f"{failure.message[:_SHORT]}…")
        self._mailbox.put(message)

    # --- the hooks process -------------------------------------------------------------------------------------------

    def take(self) -> tuple[Lease, Failure] | None:
        """Return the oldest lost attempt; None: there is none. It counts as told, even if this process dies."""
        message = self._mailbox.take()
        return None if message is None else _decoded(message)

    def close(self) -> None:
        """Record that the hook has returned for the attempt that was taken last."""
        self._mailbox.close()

    # --- the supervisor ----------------------------------------------------------------------------------------------

    def wait(self) -> bool:
        """Return whether there is work for the hooks process."""
        return self._mailbox.waiting > 0

    def say_abandoned(self, emit: Callable[[Event], None], reason: str, detail: str) -> None:
        """Report that a hook has ended its process, once that is dead. The hook is not called again for this
        attempt."""
        message = self._mailbox.abandoned()
        if message is not None:
            lease, _ = _decoded(message)
            error = _ENDS.get(reason) or f"the hooks process died while on_failure ran: {detail}"
            emit(HookFailed(HOOK, lease.queue, lease.job.id, error, ""))

    def say_refused(self, emit: Callable[[Event], None]) -> None:
        """Report how many attempts found no room since the last report."""
        count = self._mailbox.refused()
        if count:
            emit(HooksNotCalled(HOOK, count, "too many lost attempts wait for the hooks process"))

    def say_left(self, emit: Callable[[Event], None]) -> None:
        """Report what was not told when the tree ends. The supervisor calls this, or maintenance when the supervisor is
        dead."""
        self.say_abandoned(emit, "", "the service has ended")
        self.say_refused(emit)
        if self._mailbox.waiting:
            emit(HooksNotCalled(HOOK, self._mailbox.waiting, "the service has ended"))


def _encoded(lease: Lease, failure: Failure, message: str) -> bytes:
    job = lease.job
    found = {
        "lease": [lease.queue, lease.attempt, lease.delivery, lease.eligible_at],
        "job": [job.id, job.queue, job.enqueued_at, job.scheduled_for, _retry(job)],
        "failure": [message if name == "message" else getattr(failure, name) for name in _KEPT],
    }
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _retry(job: Job) -> dict[str, float]:
    numbers = job.extras.retry or {}
    return {name: numbers[name] for name in NUMBERS if name in numbers}


def _decoded(message: bytes) -> tuple[Lease, Failure]:
    found = json.loads(message)
    queue, attempt, delivery, eligible_at = found["lease"]
    job_id, home, enqueued_at, scheduled_for, retry = found["job"]
    # The hook sees neither payload nor headers.
    job = Job(
        job_id, b"", home, b"", {}, enqueued_at, None, None, False, scheduled_for, (), Extras(retry=retry or None)
    )
    lease = Lease(job, queue, attempt, delivery, eligible_at, token=None)
    return lease, Failure(**dict(zip(_KEPT, found["failure"], strict=True)))
