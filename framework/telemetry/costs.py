"""The groups by which costs are counted besides the queue: a limited number of values of one key of the baggage."""

from __future__ import annotations

from typing import Final

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context

from framework.model.job import Lease
from framework.model.text.exceptions import cut

MOST_GROUPS: Final = 100  # of a process; further ones are counted together
OTHER: Final = "_OTHER"
_LONGEST: Final = 100  # bytes of a value
_read = W3CBaggagePropagator().extract


class CostGroups:
    """The groups of one process.

    Args:
        key: of the baggage, for example `tenant`; empty: there are no groups.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._known: dict[str, tuple[str, str]] = {}  # by the header

    def of(self, lease: Lease) -> tuple[str, str]:
        """Return (key, value) of a job; the value is empty if the job has none."""
        header = lease.job.headers.get("baggage", "") if self._key else ""
        if not header:
            return self._key, ""
        found = baggage.get_baggage(self._key, _read({"baggage": header}, Context()))
        value = cut(str(found).partition(";")[0].strip(), _LONGEST) if found is not None else ""
        if value and value not in self._known:
            if len(self._known) >= MOST_GROUPS:
                return self._key, OTHER
            self._known[value] = self._key, value
        return self._key, value
