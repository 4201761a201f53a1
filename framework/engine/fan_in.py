"""The third part of the contract with an engine: fan-ins. Optional for an engine, as `Transactional` is.

A fan-in is begun before its members are stored, grows with them, and is sealed behind the last. A member is a job whose
extras have the fan-in's name and a number (`as_member` in `framework/model/fan_in.py`); `enqueue` stores it like any
other job. Once the fan-in is sealed and each of its members has ended, the engine stores the follow-up, once, with the
counts in its extras (`ended`), and the fan-in is gone.

A member ends when its job is deleted, becomes a dead letter, is set aside as cancelled, or is discarded by a person,
whichever verb of the engine does that, and also by its ttl. Retries, releases and rescues end none. Only the first end
of a member counts, so a replayed dead letter ends nothing again. The end of a member and what becomes of its job may be
two steps; a process that is killed in between leaves the repetition of the settlement, or `maintain`, to do the other.

`maintain` stores a follow-up that a killed process was about to store. It ends, as `unknown`, members of a sealed
fan-in whose jobs are gone although none has told of their end, some minutes later. A fan-in that is not sealed, and to
which no member was added for GIVEN_UP seconds, is deleted: its producer was killed, and never told its caller of it.
Its members are jobs like any others then, and its follow-up is never stored.

The follow-up is stored as of the moment at which it becomes a job: its ttl counts from then. It is never refused for
the length of its queue.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from framework.model.errors import PayloadTooLarge
from framework.model.fan_in import FanIn
from framework.model.job import Job


class FanIns(Protocol):
    """The verbs for fan-ins. `queue` is that of the members; a fan-in is named by the id of its follow-up.

    Any thread may call them. They raise EngineError, EngineUnavailable: it may or may not be done, and may be repeated.
    """

    def begin(self, queue: str, follow_up: Job) -> None:
        """Store the follow-up durably, as a fan-in without members that is not sealed. Both queues are open.

        Raises PayloadTooLarge: the queue of the follow-up does not take its payload.
        """

    def grow(self, queue: str, name: str, members: int) -> bool:
        """Let the fan-in have at least so many members, before they are enqueued. False: it is gone."""

    def seal(self, queue: str, name: str, members: int) -> bool:
        """Let it have exactly so many members, and store the follow-up if all have ended already. False: it is gone."""

    def drop(self, queue: str, name: str) -> None:
        """Delete it unless it is sealed: its follow-up is never stored. Idempotent."""

    def look(self, queue: str, name: str) -> FanIn | None:
        """Return its state; None: there is none, or its follow-up is stored already."""


@runtime_checkable
class Gathering(Protocol):
    """An engine with fan-ins."""

    @property
    def fan_ins(self) -> FanIns: ...


def refuse_too_large(follow_up: Job, most: int) -> None:
    """Raise PayloadTooLarge if the payload has more bytes than the queue of the follow-up takes."""
    if len(follow_up.payload) > most:
        raise PayloadTooLarge(f"queue {follow_up.queue!r} takes payloads of {most} bytes")
