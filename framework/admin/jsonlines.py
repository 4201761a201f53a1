"""Payloads from JSON, parsed strictly, and the import of jobs from JSON lines, in batches.

An error names its line, and the jobs before it stay stored.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from framework.model.errors import (
    EnqueueError,
    InvalidArgument,
    InvalidPayload,
    PayloadTooLarge,
    UsageError,
    WorkerError,
)
from framework.model.text.exceptions import describe
from framework.service.codec import UndecodablePayload, codec_for, parse_strict
from framework.service.producer import BATCH, BATCH_BYTES
from framework.service.queues import DeadLetter, Queue
from framework.service.request import JobOptions

CHUNK = 1 << 18
MORE = "WORKER_PAYLOAD_ERRORS=full says more, and may quote the payload"


def payload_of(queue: Queue[Any], text: str, *, full_errors: bool) -> Any:
    """Return a payload to enqueue. Raises InvalidPayload: what is wrong, without values.

    The caller of the command has the payload, but the output of a scheduled command also goes into a log.
    """
    where = f"queue {queue.name!r}"
    try:
        parse_strict(text, full_errors=full_errors)
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        raise InvalidPayload(f"{where}: payload is not JSON: {what} at character {error.pos + 1}") from None
    except ValueError as error:
        raise InvalidPayload(f"{where}: payload is not strict JSON: {error}") from None
    try:
        # Validated as JSON, as a worker does it. As a Python value, a date in a strict model would be refused, and a
        # decimal would go through a float.
        return codec_for(queue.payload_type, queue=queue.name, full_errors=full_errors).decode(text.encode())
    except UndecodablePayload as error:
        hint = "" if full_errors else f" ({MORE})"
        raise InvalidPayload(f"{where}: payload does not fit: {error}{hint}") from None
    except SystemExit:  # its text may quote the payload, and its code must not be the command's
        raise InvalidPayload(f"{where}: payload does not fit: SystemExit in a validator") from None
    except Exception as error:  # a validator of the service failed
        raise InvalidPayload(f"{where}: payload does not fit: {describe(error)[0]}") from None


def refuse_dead_letters(queue: Queue[Any]) -> None:
    """Raise UsageError for a dead-letter queue: jobs become dead letters, and cannot be enqueued as such."""
    if queue.payload_type is DeadLetter:
        raise UsageError(f"queue {queue.name!r} takes dead letters, which are not enqueued: see `worker dead --help`")


class LineError(WorkerError):
    """A line is not queued, or it is uncertain whether it is; the lines before it are queued."""


def lines_of(fd: int, longest: int) -> Iterator[bytes | None]:
    """Yield the lines of a descriptor without their ends; None = no more input has come yet.

    A line longer than `longest` is cut, and is the last.
    """
    rest = b""
    while chunk := os.read(fd, CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if len(rest) > longest:
            yield rest
            return
        if not select.select([fd], [], [], 0)[0]:
            yield None
    if rest:
        yield rest


class LineFeed:
    """An import of JSON lines into a queue.

    Args:
        queue: the queue that gets the payloads.
        delay: returns the seconds before jobs that are stored now may start.
        longest: bytes of a line; a longer line is refused, because it must be held in memory.
        full_errors: messages may quote a line.
        own: options of all these jobs.
        on_progress: called with the bytes read and the jobs queued so far.

    Attributes:
        queued: jobs stored so far.
    """

    def __init__(
        self,
        queue: Queue[Any],
        *,
        delay: Callable[[], float],
        longest: int,
        full_errors: bool = False,
        on_progress: Callable[[int, int], None] = lambda read, queued: None,
        own: JobOptions | None = None,
    ) -> None:
        self._queue = queue
        self._delay = delay
        self._longest = longest
        self._full_errors = full_errors
        self._on_progress = on_progress
        self._own: JobOptions = own or {}
        self._batch: list[tuple[int, Any]] = []
        self._bytes = 0
        self.queued = 0

    def run(self, fd: int) -> None:
        """Enqueue lines until the end of the input. Raises LineError, with the line and the number of queued jobs."""
        number = 0
        for line in lines_of(fd, self._longest):
            if line is None:
                self._flush()
                continue
            number += 1
            self._bytes += len(line) + 1
            self._add(number, line)
            if len(self._batch) >= BATCH or self._bytes >= BATCH_BYTES:
                self._flush()
        self._flush()

    def _add(self, number: int, line: bytes) -> None:
        try:
            if len(line) > self._longest:
                raise InvalidPayload(f"queue {self._queue.name!r}: longer than {self._longest:,} bytes")
            text = _text(line, number)
            if text.strip():
                self._batch.append((number, payload_of(self._queue, text, full_errors=self._full_errors)))
        except InvalidPayload as error:
            self._flush()
            self._stop(number, error)

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        try:
            self._store(batch)
        except EnqueueError as error:
            rest = batch[len(error.enqueued) :]
            if isinstance(error, (InvalidPayload, InvalidArgument, PayloadTooLarge)):
                self._store_singly(rest)  # finds the line for which the batch was refused
            self._stop(rest[0][0] if rest else batch[-1][0], error)
        finally:
            self._on_progress(self._bytes, self.queued)
            self._bytes = 0

    def _store_singly(self, batch: list[tuple[int, Any]]) -> None:
        for number, payload in batch:
            try:
                self._store([(number, payload)])
            except EnqueueError as error:
                self._stop(number, error)

    def _store(self, batch: list[tuple[int, Any]]) -> None:
        if not batch:
            return
        try:
            found = self._queue.enqueue_many([payload for _, payload in batch], delay=self._delay(), **self._own)
            self.queued += _count(found)
        except EnqueueError as error:
            self.queued += _count(error.enqueued)
            raise

    def _stop(self, number: int, error: EnqueueError) -> NoReturn:
        jobs = "job was" if self.queued == 1 else "jobs were"
        raise LineError(f"line {number}: {error} ({self.queued:,} {jobs} queued before it)") from error


def _count(found: Sequence[str]) -> int:
    """Return how many of these jobs were stored: a duplicate was not."""
    return sum(not getattr(job_id, "duplicate", False) for job_id in found)


def _text(line: bytes, number: int) -> str:
    """Return a line as text. Raises InvalidPayload."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")  # the file may begin with a byte order mark
    except UnicodeDecodeError as error:
        raise InvalidPayload(f"not UTF-8: {error.reason} at byte {error.start + 1}") from None
