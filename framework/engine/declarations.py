"""The third part of the contract with an engine: the store remembers which services declare its queues.

Two services that declare one queue with different models would make dead letters of each other's jobs. Two versions of
one service may: a deploy is rolling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

LIVES = 150.0  # seconds for which a service counts as running after it has declared its queues; it repeats that
MOST_BYTES = 1 << 20  # of a declaration


@dataclass(frozen=True, slots=True)
class DeclaredQueue:
    """The declaration of one queue.

    Attributes:
        model: the payload type, with its module; empty: a dead-letter queue.
        fingerprint: of its JSON schema; empty: unknown.
    """

    model: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Declaration:
    """The declaration of a service.

    Attributes:
        service: as in `QueueSpec`. version: of the service; empty: unknown.
        queues: by name.
        silent: seconds since a running process of the service has said so; None: the service has stopped.
    """

    service: str
    version: str
    queues: Mapping[str, DeclaredQueue]
    silent: float | None = 0.0

    @property
    def lives(self) -> bool:
        """Return whether the service runs, as far as the store knows. A clock that was set back proves nothing."""
        return self.silent is not None and abs(self.silent) < LIVES

    def text(self) -> str:
        """Return what an engine stores, in ASCII."""
        queues = {name: [one.model, one.fingerprint] for name, one in self.queues.items()}
        return json.dumps({"service": self.service, "version": self.version, "queues": queues})


NOTHING = Declaration("", "", {})


def read(text: str | bytes, silent: float | None) -> Declaration | None:
    """Return the declaration in a stored text; None: it is damaged, or of a version that stores it otherwise."""
    try:
        found = json.loads(text)
        queues = {
            str(name): DeclaredQueue(str(model), str(fingerprint))
            for name, (model, fingerprint, *_) in found["queues"].items()
        }
        return Declaration(str(found["service"]), str(found["version"]), queues, silent)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


@runtime_checkable
class Declarations(Protocol):
    """The verbs with which services and the store speak of declarations. Optional for an engine.

    They raise EngineUnavailable. No job depends on them.
    """

    def declare(self, said: Declaration) -> None:
        """Replace the declaration of a service: it runs now. A full disk is no error, and then it may be missing."""

    def withdraw(self, service: str) -> None:
        """Note that a service has stopped in good order. What it has declared is kept."""

    def declarations(self) -> Sequence[Declaration]:
        """Return the latest declaration of each service that ever ran on the store."""
