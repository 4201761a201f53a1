"""The grace for jobs that another version of the service wrote and this one cannot read: they are put back for a while.

In a rolling deploy a worker of the version that wrote them takes them meanwhile.
"""

from __future__ import annotations

import logging

from framework.model.job import Job
from framework.model.options import QueueOptions
from framework.model.outcome import UNREADABLE, Kind, Outcome
from framework.service.codec.upgrades import Reader

SHORTEST, LONGEST = 1.0, 30.0  # seconds until such a job is tried again

log = logging.getLogger("framework")


class Grace:
    """The grace of one queue.

    Args:
        reader: knows which version wrote a payload; None: no payload is read.
    """

    def __init__(self, options: QueueOptions, reader: Reader | None) -> None:
        self._queue = options.name
        self._seconds = options.grace
        self._reader = reader
        self._said: set[str | None] = set()

    def __call__(self, job: Job, why: str, now: float) -> Outcome | None:
        """Return the outcome that puts a job back; None: it becomes a dead letter.

        The waits double, without a count of them: each is as long as the job has waited so far.
        """
        waited = max(0.0, now - job.eligible_at)
        left = self._seconds - waited
        if left <= 0 or self._reader is None or not self._reader.may_be_newer(job.extras):
            return None
        made = job.extras.fingerprint
        if made not in self._said:
            self._said.add(made)
            log.warning(
                "queue %r: jobs of version %s (fingerprint %s) cannot be read by this version: they are put back for "
                "up to %g s, then they become dead letters: %s",
                self._queue, job.extras.version or "unknown", made, self._seconds, why,
            )  # fmt: skip
        delay = min(left, LONGEST, max(SHORTEST, waited))
        return Outcome(Kind.RELEASED, delay, message=f"{UNREADABLE}: {why}")
