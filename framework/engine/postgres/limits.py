"""The limits and groups of queues as one owner's claims know them.

`claim_2` of the schema keeps to the limits for all processes, `claim_3` also to groups.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from framework.model.limits import CANARIES
from framework.model.options import QueueSpec

_Row = tuple[int | None, float | None, float | None, float | None, float | None]
LOOK = 1.0  # seconds between two looks for jobs without a group, which a declaration finds in its queue
_KEY = '"group":'  # in the extras of a job that has one
_NONE: _Row = (None, None, None, None, None)


class Limits:
    """The limits of the queues that this owner has declared, and what its last claims were told about them.

    Attributes:
        canaries: queues whose job of the last claim is a canary.
    """

    def __init__(self) -> None:
        self._rows: dict[int, _Row] = {}
        self._until: dict[int, float] = {}  # queues without room, until a moment in monotonic seconds
        self.canaries: set[int] = set()

    def declare(self, number: int, options: QueueSpec) -> None:
        """Take over the declaration of a queue."""
        rate, breaker = options.rate, options.breaker
        row = (
            options.max_running,
            None if rate is None else rate.per_second,
            None if rate is None else rate.burst,
            None if breaker is None else breaker.hold,
            None if breaker is None else breaker.hold / CANARIES,
        )
        self._rows.pop(number, None)
        if row != _NONE:
            self._rows[number] = row

    def apply(self, numbers: Sequence[int]) -> bool:
        """Return whether one of these queues has limits."""
        return bool(self._rows) and not self._rows.keys().isdisjoint(numbers)

    def arguments(self, numbers: Sequence[int]) -> list[list[Any]]:
        """Return the last arguments of `claim_2`, and forget where there was no room."""
        for number in numbers:
            self._until.pop(number, None)
        return list(map(list, zip(*(self._rows.get(number, _NONE) for number in numbers), strict=True)))

    def jobs(self, rows: Sequence[tuple[Any, ...]], columns: Mapping[str, int]) -> list[tuple[Any, ...]]:
        """Return the rows that are jobs; note what the others say."""
        for row in rows:
            if row[columns["place"]] is None and row[columns["delivery"]]:
                self.canaries.add(row[0])
            elif row[columns["place"]] is None:
                self._until[row[0]] = time.monotonic() + row[columns["eligible_at"]]
        return [row for row in rows if row[columns["place"]] is not None]

    def has_room(self, number: int) -> bool:
        """Return whether the last claim could look at the jobs of a queue."""
        return number not in self._until

    def wait(self, numbers: Sequence[int]) -> float:
        """Return the seconds until one of these queues may have room again; infinite where none lacks it."""
        return max(0.001, min(self._until.get(number, math.inf) for number in numbers) - time.monotonic())


class Turns:
    """The turns of the groups in the queues that this owner has declared."""

    def __init__(self) -> None:
        self._declared: dict[int, tuple[int | None, bool]] = {}
        self._last: dict[int, int] = {}
        self._look_at: dict[int, float] = {}  # for jobs without a group, monotonic seconds
        self._looked: Sequence[int] = ()

    def declare(self, number: int, options: QueueSpec) -> None:
        """Take over the declaration of a queue."""
        self._declared.pop(number, None)
        if options.groups is not None:
            self._declared[number] = options.groups.limit, options.groups.strict

    def apply(self, numbers: Sequence[int]) -> bool:
        """Return whether one of these queues has groups."""
        return bool(self._declared) and not self._declared.keys().isdisjoint(numbers)

    def arguments(self, numbers: Sequence[int]) -> list[list[Any]]:
        """Return the last arguments of `claim_3`."""
        now = time.monotonic()
        self._looked = [one for one in numbers if one in self._declared and now >= self._look_at.get(one, 0.0)]
        rows = [
            (one in self._declared, *self._declared.get(one, (None, False)), self._last.get(one, 0),
             one in self._looked)
            for one in numbers
        ]  # fmt: skip
        return list(map(list, zip(*rows, strict=True)))

    def jobs(self, rows: Sequence[tuple[Any, ...]], columns: Mapping[str, int]) -> list[tuple[Any, ...]]:
        """Return the rows without those that say which group had the last turn; note what they say."""
        found = []
        for row in rows:
            if row[columns["place"]] is None and row[columns["owner"]] is not None:
                self._last[row[0]] = int(row[columns["owner"]])
            else:
                found.append(row)
        extras, now = columns["extras"], time.monotonic()
        more = {row[0] for row in found if row[columns["place"]] is not None and _KEY not in (row[extras] or "")}
        self._look_at.update({number: 0.0 if number in more else now + LOOK for number in self._looked})
        return found
