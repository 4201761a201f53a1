"""A claim on one queue or several: what is due first, then a wait on all notifiers at once.

Of a few queues every claim looks at all. Of many it looks at those that have rung, that had jobs at the last look, or
where a job is due; the others have their look now and then, and maintenance rings where jobs lie.
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

LONGEST_WAIT = 5.0  # seconds, as the port says
LOOK_EVERY = 20.0  # seconds between two looks at one of many where nothing calls


class Claims:
    """Claims for one process.

    Args:
        waker: ends a wait.
        unavailable: puts an error of the system in the framework's words.
    """

    def __init__(self, waker: Waker, unavailable: Callable[[str, OSError], EngineUnavailable]) -> None:
        self._waker = waker
        self._unavailable = unavailable
        self._wait = notifier.wait
        self._listen = notifier.Listener()
        self._look_at: dict[Parts, float] = {}  # of many queues: when each has its next look, though nothing calls

    def __call__(self, parts: Sequence[Parts], limit: int, wait: float) -> list[Lease]:
        """Up to `limit` leases; waits for the first. Raises EngineUnavailable."""
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
                break  # nothing called; the next claim begins with a look
            leases = self._look(self._due(parts, rang) if many else parts, limit, rang)
        return leases

    def _due(self, parts: Sequence[Parts], rang: Collection[Notifier]) -> list[Parts]:
        """Return those of many queues that may have a job, in their order."""
        now, look_at = time.monotonic(), self._look_at
        return [part for part in parts if now >= look_at.get(part, 0.0) or part.notifier in rang]

    def _patience(self, parts: Sequence[Parts]) -> float:
        """Return the seconds until one of many queues is to be looked at, though nothing calls."""
        return max(0.001, min(self._look_at.get(part, 0.0) for part in parts) - time.monotonic())

    def _look(
        self, parts: Sequence[Parts], limit: int, rang: Collection[Notifier], *, first: bool = False
    ) -> list[Lease]:
        """Claim from one queue after the other.

        Args:
            rang: the notifiers whose rings were taken. They stood for others, too: where jobs are left, they go on.
            first: it is before the first wait.
        """
        leases: list[Lease] = []
        failed: tuple[Parts, OSError] | None = None
        for part in parts:
            found: list[Lease] = []
            error: OSError | None = None
            called = part.notifier in rang
            if (room := limit - len(leases)) > 0:
                found, error = self._from(part, room)
                leases += found
                failed = failed or (None if error is None else (part, error))
            more = found or error is not None or room <= 0  # there may be
            self._look_at[part] = 0.0 if more else time.monotonic() + min(LOOK_EVERY, part.patience())
            if (called or not first) if found and len(part.listing) else called and room <= 0:
                part.notifier.ring()
        if failed is not None and not leases:
            part, error = failed
            raise self._unavailable(f"claiming from {part.queue.name!r}", error) from error
        return leases

    @staticmethod
    def _from(part: Parts, limit: int) -> tuple[list[Lease], OSError | None]:
        """What is due comes first, as it is older. Where it cannot be moved (a full disk), what is ready is claimed."""
        part.promote.soon(limit, patient=False)
        leases = part.claim(limit)
        moved = 0
        while not (leases or moved):
            moved = part.promote.soon(limit, patient=True)
            if not (moved or part.promote.looking):
                break
            leases = part.claim(limit)  # between the steps of a look, too
        return leases, part.claim.error or part.promote.error
