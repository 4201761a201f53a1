"""The groups of queues as one owner's claims know them: which one had the last turn. `claim_3` picks the jobs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from framework.model.options import QueueSpec

LOOK = 1.0  # seconds between two looks for jobs without a group, which a declaration finds in its queue
_KEY = '"group":'  # in the extras of a job that has one


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
