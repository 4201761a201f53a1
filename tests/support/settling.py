"""One lease with one outcome, in the words of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from framework.model.job import Failure, Lease
from framework.model.outcome import ARCHIVED, SUCCEEDED, Kind, Outcome, Settlement


class Settles(Protocol):
    """An engine, or a part of one."""

    def settle(self, done: Sequence[Settlement]) -> None: ...


def ack(engine: Settles, leases: Sequence[Lease]) -> None:
    """The jobs are done, in one call."""
    engine.settle([Settlement(lease, SUCCEEDED) for lease in leases])


def retry(engine: Settles, lease: Lease, *, delay: float, failure: Failure) -> None:
    """The attempt has failed; the next comes after so many seconds."""
    engine.settle([Settlement(lease, Outcome(Kind.RETRIED, delay=delay, failure=failure))])


def bury(engine: Settles, lease: Lease, *, failure: Failure) -> None:
    """The last attempt has failed."""
    engine.settle([Settlement(lease, Outcome(Kind.DEAD_LETTERED, failure=failure))])


def rest(engine: Settles, lease: Lease) -> None:
    """A dead letter was handled."""
    engine.settle([Settlement(lease, ARCHIVED)])
