"""The conversion of JSON into a payload: parsed strictly, and validated by the queue's payload type."""

from __future__ import annotations

import json
from typing import Any

from framework.model.errors import InvalidPayload, UsageError
from framework.model.exceptions import describe
from framework.service.codec import UndecodablePayload, codec_for, parse_strict
from framework.service.queues import DeadLetter, Queue

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


def refuse_letters(queue: Queue[Any]) -> None:
    """Raise UsageError for a dead-letter queue: jobs become dead letters, and cannot be enqueued as such."""
    if queue.payload_type is DeadLetter:
        raise UsageError(f"queue {queue.name!r} takes dead letters, which are not enqueued: see `worker dead --help`")
