"""What happened to the demo's jobs, as the worker itself reports it: its JSON log has a line for every attempt."""

from __future__ import annotations

import json
import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from services.example_worker.digest import percentile
from services.example_worker.queues import RelayQueues

KEPT = 100_000  # durations that percentiles are taken of; a demo that runs for days must not grow for ever
DELIVERIES, DIGESTS = RelayQueues.deliveries.name, RelayQueues.digests.name


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of durations, in seconds."""

    p50: float
    p95: float
    p99: float


class Tally:
    """Jobs of one run that are not settled yet, and counts of how attempts ended. Every method is thread-safe.

    Args:
        run: jobs whose id starts otherwise are of an earlier run; they are worked off, too, but not counted.
    """

    def __init__(self, run: str) -> None:
        self._prefix = f"{run}-"
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._early: set[str] = set()  # settled before the producer had said that they were queued
        self.enqueued = 0
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self._waits: deque[float] = deque(maxlen=KEPT)
        self._durations: deque[float] = deque(maxlen=KEPT)

    def opened(self, job_id: str) -> None:
        """A job is durably queued."""
        with self._lock:
            self.enqueued += 1
            self._expect(job_id)

    def unsettled(self) -> int:
        """Jobs that are queued and neither done nor, as dead letters, handled."""
        with self._lock:
            return len(self._open)

    def line(self, text: str) -> None:
        """One line of the worker's log; whatever is not a finished attempt of this run is passed over."""
        try:
            entry = json.loads(text)
        except ValueError:
            return
        if not isinstance(entry, dict) or not str(entry.get("job_id")).startswith(self._prefix):
            return
        with self._lock:
            if entry.get("event") == "job_finished":
                self._finished(entry)
            elif entry.get("event") == "attempt_lost":  # its process died; `then` is what became of the job
                self.counts["lost"] += 1
                self._ended(str(entry["job_id"]), str(entry.get("queue")), str(entry.get("then")), entry)

    def spreads(self) -> tuple[Spread, Spread]:
        """(wait, processing) of all attempts at deliveries."""
        with self._lock:
            waits, durations = sorted(self._waits), sorted(self._durations)
        return _spread(waits), _spread(durations)

    def _finished(self, entry: dict[str, Any]) -> None:
        job_id, queue, outcome = str(entry["job_id"]), str(entry.get("queue")), str(entry.get("outcome"))
        if queue == DELIVERIES:
            self._waits.append(float(entry.get("wait", 0.0)))
            self._durations.append(float(entry.get("duration", 0.0)))
        self._ended(job_id, queue, outcome, entry)

    def _ended(self, job_id: str, queue: str, outcome: str, entry: dict[str, Any]) -> None:
        if outcome == "archived":
            self.counts["handled"] += 1
            self._settle(f"{job_id} letter")
            return
        self.counts[f"{queue} {outcome}"] += 1
        if outcome == "retried":
            self.reasons[str(entry.get("error.type") or entry.get("reason"))] += 1
        elif outcome == "succeeded":
            self.counts["delivered after a retry"] += queue == DELIVERIES and int(entry.get("attempt", 1)) > 1
            if queue == DIGESTS:  # its handler has queued the digest's own delivery
                self.enqueued += 1
                self._expect(f"{job_id}-digest")
            self._settle(job_id)
        elif outcome == "dead_lettered":
            self._expect(f"{job_id} letter")
            self._settle(job_id)

    def _expect(self, key: str) -> None:
        if key in self._early:
            self._early.remove(key)
        else:
            self._open.add(key)

    def _settle(self, key: str) -> None:
        if key in self._open:
            self._open.remove(key)
        else:
            self._early.add(key)


def _spread(ordered: list[float]) -> Spread:
    return Spread(*(percentile(ordered, p) for p in (50, 95, 99)))
