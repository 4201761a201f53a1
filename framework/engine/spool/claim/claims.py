"""Claims on one queue or several: a claim looks for due jobs first, then waits on all notifiers at once.

With few queues, every claim looks at all of them. With many, it looks at those that were notified, that had jobs at
the last look, or where a job is due; it looks at the others now and then, and maintenance notifies where jobs lie.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from framework.engine.spool.claim import notifier
from framework.engine.spool.claim.listing import FEW
from framework.engine.spool.claim.notifier import Notifier, Waker
from framework.engine.spool.parts import Parts
from framework.model.errors import EngineUnavailable
from framework.model.job import Lease

LONGEST_WAIT = 5.0  # seconds, as the contract says
LOOK_EVERY = 20.0  # seconds between two looks at one of many queues that is not notified


class Claims:
    """The claims of one process on its queues.

    Args:
        waker: ends a wait.
        unavailable: makes an EngineUnavailable of an error of the operating system.
    """

    def __init__(self, waker: Waker, unavailable: Callable[[str, OSError], EngineUnavailable]) -> None:
        self._waker = waker
        self._unavailable = unavailable
        self._wait = notifier.wait
        self._listen = notifier.Listener()
        self._look_at: dict[Parts, float] = {}  # with many queues: when to look at each, also without a notification

    def __call__(self, parts: Sequence[Parts], limit: int, wait: float) -> list[Lease]:
        """Return up to `limit` leases, waiting for the first. Raises EngineUnavailable."""
        many = len(parts) > FEW
        deadline = time.monotonic() + min(wait, LONGEST_WAIT)
        listen = self._listen if many else self._wait
        notifiers = [part.notifier for part in parts]
        woken, rang = listen(notifiers, self._waker, 0) if many else (False, ())
        leases = self._look(self._due(parts, rang) if many else parts, limit, rang, first=True)
        while not (leases or woken):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            patience = self._patience(parts) if many else min(part.patience() for part in parts)
            woken, rang = listen(notifiers, self._waker, min(left, patience))
            if not (woken or rang) and time.monotonic() >= deadline:
                break  # no notification came; the next claim begins with a look
            leases = self._look(self._due(parts, rang) if many else parts, limit, rang)
        return leases

    def _due(self, parts: Sequence[Parts], rang: Collection[Notifier]) -> list[Parts]:
        """Return those of many queues that may have a job, in the given order."""
        now, look_at = time.monotonic(), self._look_at
        return [part for part in parts if now >= look_at.get(part, 0.0) or part.notifier in rang]

    def _patience(self, parts: Sequence[Parts]) -> float:
        """Return the seconds until one of many queues has its next look, if no notification comes first."""
        return max(0.001, min(self._look_at.get(part, 0.0) for part in parts) - time.monotonic())

    def _look(
        self, parts: Sequence[Parts], limit: int, rang: Collection[Notifier], *, first: bool = False
    ) -> list[Lease]:
        """Claim from one queue after the other.

        Args:
            rang: the notifiers that this process has read. The notifications were for other waiters, too: where jobs
                are left, this method notifies again.
            first: the look comes before the first wait.
        """
        leases: list[Lease] = []
        began = time.monotonic()  # queues that are looked at together have their next look together, too
        failed: tuple[Parts, OSError] | None = None
        for part in parts:
            found: list[Lease] = []
            error: OSError | None = None
            called = part.notifier in rang
            if (room := limit - len(leases)) > 0:
                found, error = self._from(part, room)
                leases += found
                failed = failed or (None if error is None else (part, error))
            more = found or error is not None or room <= 0  # more jobs may be there
            self._look_at[part] = 0.0 if more else min(began + LOOK_EVERY, time.monotonic() + part.patience())
            if (called or not first) if found and len(part.listing) else called and room <= 0:
                part.notifier.ring()
        if failed is not None and not leases:
            part, error = failed
            raise self._unavailable(f"claiming from {part.queue.name!r}", error) from error
        return leases

    @staticmethod
    def _from(part: Parts, limit: int) -> tuple[list[Lease], OSError | None]:
        """Promote due jobs, then claim. Return the leases, and the error that ended the claim early.

        Due jobs come first, as they are older. Where they cannot be moved (a full disk), ready jobs are still claimed.
        """
        part.promote.soon(limit, patient=False)
        leases = part.claim(limit)
        moved = 0
        while not (leases or moved):
            moved = part.promote.soon(limit, patient=True)
            if not (moved or part.promote.looking):
                break
            leases = part.claim(limit)  # also between the steps of a look
        return leases, part.claim.error or part.promote.error
