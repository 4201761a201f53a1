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
    """A payload to enqueue. Raises InvalidPayload: what is wrong, without the values.

    Who calls the command has the payload, but what a scheduled command prints goes into a log as well.
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
        # By the rules for JSON, as a worker reads it: validated as a Python value, a date in a strict model would be
        # refused, and a decimal would go through a float.
        return codec_for(queue.payload_type, queue=queue.name, full_errors=full_errors).decode(text.encode())
    except UndecodablePayload as error:
        hint = "" if full_errors else f" ({MORE})"
        raise InvalidPayload(f"{where}: payload does not fit: {error}{hint}") from None
    except SystemExit:  # its text may quote the payload, and its code is no answer of this command
        raise InvalidPayload(f"{where}: payload does not fit: SystemExit in a validator") from None
    except Exception as error:  # a validator of the service's own broke
        raise InvalidPayload(f"{where}: payload does not fit: {describe(error)[0]}") from None


def refuse_letters(queue: Queue[Any]) -> None:
    """Raises UsageError: a dead letter is what a job becomes, nobody writes one."""
    if queue.payload_type is DeadLetter:
        raise UsageError(f"queue {queue.name!r} takes dead letters, which are not enqueued: see `worker dead --help`")
