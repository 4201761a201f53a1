"""Payloads of other versions of a service: functions that upgrade them, and who wrote a payload.

A job carries the fingerprint of its payload type's JSON schema and the version of the service that enqueued it.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_core import to_json

from framework.model.errors import DeclarationError, caller_location
from framework.model.extras import Extras
from framework.model.job import Job
from framework.model.options import QueueOptions
from framework.model.text.exceptions import describe
from framework.service.codec import Codec, UndecodablePayload, codec_for

if TYPE_CHECKING:
    from framework.service.queues import Queue

F = TypeVar("F", bound=Callable[[Any], Any])
_FINGERPRINT = re.compile("[0-9a-f]{12}")
_NUMBERS = re.compile(r"v?(\d{1,9}(?:\.\d{1,9}){0,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A function that turns the JSON value of an old payload into one that today's payload type reads.

    Attributes:
        fingerprint, version: of the jobs whose payloads it upgrades; one of the two is empty.
        location: where it was declared.
    """

    function: Callable[[Any], Any]
    fingerprint: str
    version: str
    location: str

    def __call__(self, payload: bytes, *, full_errors: bool = False) -> bytes:
        """Return the new payload as JSON. Raises UndecodablePayload, without what the function says of the payload."""
        try:
            return to_json(self.function(json.loads(payload)))
        except Exception as error:
            said = f": {describe(error)[0]}" if full_errors else ""
            where = f"upgrade function at {self.location}"
            raise UndecodablePayload(f"{where}: {type(error).__name__}{said}") from (error if full_errors else None)


class Upgradable:
    """The part of a queue that keeps its upgrade functions."""

    name: str

    @cached_property
    def upgrades(self) -> list[Upgrade]:
        """Return the list of its upgrade functions, in the order of their declaration."""
        return []

    def upgrade(
        self, misplaced: None = None, /, *, from_fingerprint: str = "", from_version: str = ""
    ) -> Callable[[F], F]:
        """Mark a function that upgrades payloads of earlier versions, and return it unchanged.

        Before such a payload is validated, the function gets it as a JSON value (mostly a dict), and returns what
        today's payload type reads. Write it on the level of the module, or with `@staticmethod`. The decorator may
        stand several times above one function. What this very version has enqueued is never upgraded.

        Args:
            from_fingerprint: of the old payload type, 12 hex digits, as `worker check --against` prints it.
            from_version: the old version of the service exactly, as in WORKER_VERSION. Give one of the two; where
                both kinds apply to a job, the fingerprint's counts.

        Raises:
            DeclarationError: not one of the two is given, or another function has the same one.
        """
        location = caller_location()
        where = f"{location}: upgrade of queue {self.name!r}"
        if misplaced is not None:
            raise DeclarationError(f"{where}: write @….upgrade(from_version=...) above the function")
        wrong = _mistake(from_fingerprint, from_version)
        if wrong:
            raise DeclarationError(f"{where}: {wrong}")

        def mark(function: F) -> F:
            if inspect.iscoroutinefunction(inspect.unwrap(function)) or not takes(function, 1):
                raise DeclarationError(
                    f"{where}: an upgrade function is a plain function of one argument, not async; in a class write "
                    "@staticmethod above it"
                )
            made = Upgrade(function, from_fingerprint, from_version, location)
            for one in self.upgrades:
                if (one.fingerprint, one.version) == (from_fingerprint, from_version):
                    raise DeclarationError(f"{where}: {one.location} has a function for the same payloads")
            self.upgrades.append(made)
            return function

        return mark


def takes(function: Any, count: int) -> bool:
    """Return whether this is a callable that takes so many positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not tell
        return True
    return True


def _mistake(fingerprint: object, version: object) -> str:
    if not isinstance(fingerprint, str) or not isinstance(version, str) or bool(fingerprint) == bool(version):
        return "give from_fingerprint or from_version, as text"
    if fingerprint and not _FINGERPRINT.fullmatch(fingerprint):
        return f"from_fingerprint={fingerprint[:60]!r}: 12 hex digits, as `worker check --against` prints them"
    return ""


class Reader:
    """The reader of a queue's payloads for one version of a service.

    Args:
        upgrades: of the queue.
        version: of the service that reads; empty: unknown.
    """

    def __init__(self, codec: Codec, upgrades: Sequence[Upgrade], version: str, *, full_errors: bool = False) -> None:
        self._codec = codec
        self._decode = codec.decode
        self._version = version
        self._full = full_errors
        self._upgrades: dict[str | tuple[str], Upgrade] = {one.fingerprint or (one.version,): one for one in upgrades}

    def __call__(self, job: Job) -> Any:
        """Return the payload of a job, upgraded where a function is for it. Raises as `Codec.decode`."""
        upgrade = self.upgrade_of(job.extras) if self._upgrades else None
        return self._decode(job.payload if upgrade is None else upgrade(job.payload, full_errors=self._full))

    def upgrade_of(self, extras: Extras) -> Upgrade | None:
        """Return the function for the payload of a job with these extras."""
        if self.is_own(extras):
            return None
        found = self._upgrades.get(extras.fingerprint or "")
        return found or self._upgrades.get((extras.version or "",))

    def is_own(self, extras: Extras) -> bool:
        """Return whether this very version has enqueued the job, as far as it is known."""
        return self.is_own_model(extras) and (extras.version or "") == self._version

    def is_own_model(self, extras: Extras) -> bool:
        """Return whether the job was enqueued with the model that this reader has."""
        return extras.fingerprint is not None and extras.fingerprint == self._codec.fingerprint

    def may_be_newer(self, extras: Extras) -> bool:
        """Return whether another version has enqueued the job that is not known to be older than this one."""
        if extras.fingerprint is None or self.is_own_model(extras):
            return False
        theirs, ours = _numbers(extras.version or ""), _numbers(self._version)
        return self.upgrade_of(extras) is None and (theirs is None or ours is None or theirs >= ours)


def reader_of(queue: Queue[Any], options: QueueOptions) -> Reader:
    """Return the reader of a queue for the version that has these options."""
    full = options.full_errors
    codec = codec_for(queue.payload_type, queue=options.name, full_errors=full)
    return Reader(codec, queue.upgrades, options.version, full_errors=full)


def _numbers(version: str) -> tuple[int, ...] | None:
    """Return the numbers of a version such as 1.12 or v2.0.1, without zeros at its end; None: it has another form."""
    found = _NUMBERS.fullmatch(version)
    if found is None:
        return None
    numbers = [int(number) for number in found[1].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
