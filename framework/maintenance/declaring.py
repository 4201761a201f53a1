"""The declaration of a running service, which maintenance repeats, and its conflicts with those of other services.

No job depends on it: where the engine fails here, the service runs without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from framework.engine.declarations import LIVES, Declaration, Declarations
from framework.engine.port import Engine
from framework.model.errors import DeclarationError, EngineError

AGAIN = LIVES / 5  # seconds between two declarations

log = logging.getLogger("framework")


class Declaring:
    """The declaration of one tree on one engine. Without effect where the engine remembers no declarations."""

    def __init__(self, engine: Engine, said: Declaration) -> None:
        self._engine = engine if said.service and isinstance(engine, Declarations) else None
        self._said = said
        self._failed = ""

    def begin(self) -> list[str]:
        """Declare the queues for the first time; return warnings. Raises DeclarationError: another service that runs
        declares one of them with another model. Then nothing is declared.

        Of two such services that start at the same moment, both may be refused.
        """
        if self._engine is None:
            return []
        try:
            conflicts(self._said, self._engine.declarations())
            self._engine.declare(self._said)
            try:
                return conflicts(self._said, self._engine.declarations())
            except DeclarationError:
                self.end()
                raise
        except EngineError as error:
            return [f"whether other services declare the same queues cannot be known: {error}"]

    def again(self) -> float:
        """Repeat the declaration; return the seconds until the next time."""
        self._try(lambda engine: engine.declare(self._said))
        return AGAIN

    def end(self) -> None:
        """Note that the service has stopped. Another tree of the service says within AGAIN seconds that it runs."""
        self._try(lambda engine: engine.withdraw(self._said.service))

    def _try(self, call: Callable[[Declarations], None]) -> None:
        """Make a call, and log its error once."""
        if self._engine is None:
            return
        try:
            call(self._engine)
        except EngineError as error:
            if str(error) != self._failed:
                self._failed = str(error)
                log.warning("what this service declares cannot be stored: %s", error)


def conflicts(mine: Declaration, others: Sequence[Declaration]) -> list[str]:
    """Return warnings about other running services whose models of a queue are another version of ours.

    Such services share a module, and each is deployed in its own time: refusing one would block the deploy of both.

    Raises DeclarationError: a queue has different models.
    """
    warnings = []
    for other in others:
        if other.service == mine.service or not other.lives:
            continue
        for name, ours in mine.queues.items():
            theirs = other.queues.get(name)
            if theirs is None or not (ours.fingerprint and theirs.fingerprint):
                continue
            if ours.fingerprint == theirs.fingerprint:
                continue
            if ours.model != theirs.model:
                raise DeclarationError(
                    f"queue {name!r} is declared with different models by {mine.service} ({ours.model}) and by "
                    f"{other.service} ({theirs.model}), which reported {max(0.0, other.silent or 0.0):.0f} s ago: "
                    f"rename one of the two queues, or stop {other.service}; a service that was killed counts as "
                    f"running for {LIVES:g} s"
                )
            warnings.append(
                f"queue {name!r} is declared with two versions of {ours.model} by {mine.service} ({ours.fingerprint}) "
                f"and by {other.service} ({theirs.fingerprint}): each may be unable to read what the other one enqueues"
            )
    return warnings
