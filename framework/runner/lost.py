"""The failures of lost attempts, on their way from maintenance to the service's `on_failure` in the hooks process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields

from framework.model.events import Event, HookFailed, HooksNotCalled
from framework.model.job import Failure, Job, Lease
from framework.process.mailbox import LARGEST, Mailbox
from framework.service.app import WorkerApp
from framework.worker.executor.hooks import PATIENCE

HOOK = "on_failure"
_SHORT = 200  # characters of a message that is too long as a whole
_KEPT = tuple(field.name for field in fields(Failure) if field.name != "exception")  # of a dead process there is none
_ENDS = {
    "timeout": f"on_failure has not ended within {PATIENCE:g} s: its process was killed",
    "drain_timeout": "on_failure was still running at the end of the drain: its process was killed",
}


class LostAttempts:
    """What `on_failure` is still to be told. Maintenance puts, the hooks process takes, and the supervisor starts that
    process and says what became of a hook that ended it.

    Args:
        mailbox: shared by the tree.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self.descriptor = mailbox.descriptor
        self._mailbox = mailbox

    @classmethod
    def of(cls, app: type[WorkerApp]) -> LostAttempts | None:
        """Return those of a new tree; None: its service has no `on_failure`."""
        return None if app.on_failure is WorkerApp.on_failure else cls(Mailbox.made())

    # --- maintenance, which must not wait, nor run the service's code ------------------------------------------------

    def put(self, lease: Lease, failure: Failure) -> None:
        """Leave the failure of an attempt for the hooks process. One that finds no room is counted."""
        message = _encoded(lease, failure, failure.message)
        if len(message) > LARGEST:
            message = _encoded(lease, failure, f"{failure.message[:_SHORT]}…")
        self._mailbox.put(message)

    # --- the hooks process -------------------------------------------------------------------------------------------

    def take(self) -> tuple[Lease, Failure] | None:
        """Return the oldest one; None: there is none. It counts as told, whatever becomes of this process."""
        message = self._mailbox.take()
        return None if message is None else _decoded(message)

    def close(self) -> None:
        """The hook has been told of the last one that was taken."""
        self._mailbox.close()

    # --- the supervisor ----------------------------------------------------------------------------------------------

    def wait(self) -> bool:
        """Return whether there is work for the hooks process."""
        return self._mailbox.waiting > 0

    def say_abandoned(self, emit: Callable[[Event], None], reason: str, detail: str) -> None:
        """Say that a hook has ended its process, once that is dead. It is not called again for this attempt."""
        message = self._mailbox.abandoned()
        if message is not None:
            lease, _ = _decoded(message)
            error = _ENDS.get(reason) or f"the hooks process died while on_failure ran: {detail}"
            emit(HookFailed(HOOK, lease.queue, lease.job.id, error, ""))

    def say_refused(self, emit: Callable[[Event], None]) -> None:
        """Say how many found no room since this was said last."""
        count = self._mailbox.refused()
        if count:
            emit(HooksNotCalled(HOOK, count, "too many lost attempts wait for the hooks process"))

    def say_left(self, emit: Callable[[Event], None]) -> None:
        """Say what was not told when the tree ends. For the supervisor, and for maintenance when that is dead."""
        self.say_abandoned(emit, "", "the service has ended")
        self.say_refused(emit)
        if self._mailbox.waiting:
            emit(HooksNotCalled(HOOK, self._mailbox.waiting, "the service has ended"))


def _encoded(lease: Lease, failure: Failure, message: str) -> bytes:
    job = lease.job
    found = {
        "lease": [lease.queue, lease.attempt, lease.delivery, lease.eligible_at],
        "job": [job.id, job.queue, job.enqueued_at, job.scheduled_for],
        "failure": [message if name == "message" else getattr(failure, name) for name in _KEPT],
    }
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _decoded(message: bytes) -> tuple[Lease, Failure]:
    found = json.loads(message)
    queue, attempt, delivery, eligible_at = found["lease"]
    job_id, home, enqueued_at, scheduled_for = found["job"]
    # The hook sees neither payload nor headers.
    job = Job(job_id, b"", home, b"", {}, enqueued_at, scheduled_for=scheduled_for)
    lease = Lease(job, queue, attempt, delivery, eligible_at, token=None)
    return lease, Failure(**dict(zip(_KEPT, found["failure"], strict=True)))
