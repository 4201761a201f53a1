"""The sender of one signal: a thread that takes batches and sends each until its result is final."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from framework.telemetry.export.health import CollectorHealth
from framework.telemetry.export.otlp import Answer, Destination
from framework.telemetry.export.own_health import OwnHealth
from framework.telemetry.sdk.exporters import LONGEST, SHORTEST

log = logging.getLogger("framework.telemetry")

FIRST_RETRY, LAST_RETRY = 1.0, 5.0  # seconds between tries without a Retry-After


@dataclass
class Batch:
    """A request with its callbacks.

    Attributes:
        body: OTLP bytes.
        accepted: called with the number of items that the receiver did not take.
        refused: called when the receiver will never take the request.
        spans: how many spans are in it.
        more: another batch waits behind this one.
        once: not worth a second try, because the next batch contains the same.
        given_up: set when the result is no longer needed.
    """

    body: bytes
    accepted: Callable[[int], object]
    refused: Callable[[], object] = lambda: None
    spans: int = 0
    more: bool = False
    once: bool = False
    given_up: threading.Event = field(default_factory=threading.Event)


class Sender:
    """A thread that sends what `take` gives every `interval` seconds, or sooner when nudged.

    Args:
        signal: traces or metrics.
        take: returns the next batch; None = there is none. Called in the sender's thread.
        health: gets each result, and logs a failure once.
        own: counts and measures the exports.
    """

    def __init__(
        self,
        signal: str,
        destination: Destination,
        take: Callable[[], Batch | None],
        *,
        interval: float,
        health: CollectorHealth,
        own: OwnHealth | None = None,
    ) -> None:
        self._own = own or OwnHealth({})
        self._signal = signal
        self._destination = destination
        self._take = take
        self._interval = interval
        self._health = health
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._pause = FIRST_RETRY
        self._last = Answer()
        self._thread = threading.Thread(target=self._run, name=f"send-{signal}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def nudge(self) -> None:
        """Wake the sender, because a full batch waits."""
        self._wake.set()

    def stop(self, deadline: float) -> None:
        """Send what is left, each batch once, until `deadline` (monotonic). The rest stays in the rings."""
        self._deadline = deadline
        self._destination.leave()
        self._stopping.set()
        self._wake.set()

    def join(self) -> None:
        """Wait for the thread, at most until the deadline."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(self._interval)
            self._wake.clear()
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        """Send all batches that are ready."""
        more = True
        while more:
            try:
                batch = self._take()
                settled = batch is None or self._send(batch)
            except Exception:  # an error of our own must end neither the thread nor the counting
                log.exception("%s could not be sent", self._signal)
                self._wait_after(None)
                return
            if self._stopping.is_set() and (self._is_late() or not settled):
                return
            more = batch is not None and (batch.more or not settled)

    def _send(self, batch: Batch) -> bool:
        """Send a batch until its result is final or it is given up; False: its content is left for a later batch."""
        began, self._last = time.monotonic(), Answer()
        self._own.began(batch.spans)
        final = False
        try:
            final = self._sent(batch)
        finally:
            # What was given up is counted where that was decided.
            left = final and not (batch.given_up.is_set() and not self._last.accepted)
            self._own.ended(self._signal, batch.spans, self._last, time.monotonic() - began, final=left)
        return final

    def _sent(self, batch: Batch) -> bool:
        while not batch.given_up.is_set():
            stopping = self._stopping.is_set()
            answer = self._last = self._try(batch)
            if answer.accepted:
                self._pause = FIRST_RETRY
                self._health.worked(self._signal)
                batch.accepted(answer.rejected)
                return True
            self._health.failed(
                self._signal,
                endpoint=self._destination.endpoint,
                cause=answer.cause,
                unreachable=answer.unreachable,
            )
            if not answer.again:
                batch.refused()
            self._wait_after(answer.after)
            if not answer.again or batch.once or stopping:
                return not answer.again
        return True

    def _wait_after(self, after: float | None) -> None:
        """Wait after a failure, also when nudged. `after`: seconds that the receiver asks for."""
        wait = self._pause * random.uniform(1.0, 1.5) if after is None else after
        self._pause = min(LAST_RETRY, self._pause * 2)
        self._stopping.wait(min(LONGEST, max(SHORTEST, wait)))

    def _try(self, batch: Batch) -> Answer:
        timeout = self._destination.timeout
        if self._stopping.is_set():
            timeout = max(0.05, min(timeout, self._deadline - time.monotonic()))
        return self._destination.send(batch.body, timeout)

    def _is_late(self) -> bool:
        return self._stopping.is_set() and time.monotonic() >= self._deadline
