"""The objective of a queue for waiting, from which `worker alerts` makes Prometheus rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from framework.model.errors import DeclarationError
from framework.model.places import caller_place
from framework.model.retry import Seconds, seconds

# Bounds of the buckets of worker.job.queue_wait.duration, in seconds.
WAIT_BOUNDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0),
)


@dataclass(frozen=True, init=False)
class Slo:
    """A service level objective: the share `target` of attempts starts within `wait` seconds of being due.

    Attributes:
        wait: seconds; a bound of the wait's histogram, because Prometheus has no counts between two bounds.
        target: above 0 and below 1, for instance `0.99`.

    Raises:
        DeclarationError: a value is out of its range; the message names file and line, and the bounds.
    """

    wait: float
    target: float

    def __init__(self, *, wait: Seconds, target: float) -> None:
        most = seconds(wait)
        if most not in WAIT_BOUNDS:
            bounds = ", ".join(f"{bound:g}" for bound in WAIT_BOUNDS)
            raise DeclarationError(
                f"{caller_place()}: Slo(wait={most:g}): must be a bound of the wait's histogram, in seconds: {bounds}"
            )
        if not 0 < target < 1:
            raise DeclarationError(
                f"{caller_place()}: Slo(target={target}): the share of attempts that start in time, above 0 and below "
                "1, for instance 0.99"
            )
        object.__setattr__(self, "wait", most)
        object.__setattr__(self, "target", float(target))
