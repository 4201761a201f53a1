"""A claim on one queue or several: what is due first, then a wait on all doorbells at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from framework.errors import EngineUnavailable
from framework.job import Lease
from framework.spool import doorbell
from framework.spool.doorbell import Doorbell, Waker
from framework.spool.parts import Parts

LONGEST_WAIT = 1.0  # seconds, as the port says


class Claims:
    """Claims for one process.

    Args:
        waker: ends a wait.
        unavailable: puts an error of the system in the framework's words.
    """

    def __init__(self, waker: Waker, unavailable: Callable[[str, OSError], EngineUnavailable]) -> None:
        self._waker = waker
        self._unavailable = unavailable
        self._wait = doorbell.wait

    def __call__(self, parts: Sequence[Parts], limit: int, wait: float) -> list[Lease]:
        """Up to `limit` leases; waits for the first. Raises EngineUnavailable."""
        deadline = time.monotonic() + min(wait, LONGEST_WAIT)
        leases = self._look(parts, limit, None)
        while not leases:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            patience = min(part.patience() for part in parts)
            woken, rang = self._wait([part.doorbell for part in parts], self._waker, min(left, patience))
            if not (woken or rang) and time.monotonic() >= deadline:
                break  # nothing called; the next claim begins with a look
            leases = self._look(parts, limit, rang)
            if woken:
                break
        return leases

    def _look(self, parts: Sequence[Parts], limit: int, rang: Sequence[Doorbell] | None) -> list[Lease]:
        """Claim from one queue after the other.

        Args:
            rang: the bells whose rings were taken. They stood for others, too: where jobs are left, they are passed on.
                None: before the first wait.
        """
        leases: list[Lease] = []
        failed: tuple[Parts, OSError] | None = None
        for part in parts:
            found: list[Lease] = []
            if (room := limit - len(leases)) > 0:
                found, error = self._from(part, room)
                leases += found
                failed = failed or (None if error is None else (part, error))
            if rang is not None and (len(part.listing) if found else room <= 0 and part.doorbell in rang):
                part.doorbell.ring()
        if failed is not None and not leases:
            part, error = failed
            raise self._unavailable(f"claiming from {part.queue.name!r}", error) from error
        return leases

    @staticmethod
    def _from(part: Parts, limit: int) -> tuple[list[Lease], OSError | None]:
        """What is due comes first, as it is older. Where it cannot be moved (a full disk), what is ready is claimed."""
        part.ripen.soon(limit, patient=False)
        leases = part.claim(limit)
        if not leases and part.ripen.soon(limit, patient=True):
            leases = part.claim(limit)
        return leases, part.claim.error or part.ripen.error
