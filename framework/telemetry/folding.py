"""Counts, histograms and exemplars of one slot, folded from the records of its ring and kept in it."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final, TypeVar

from framework.telemetry import names, records
from framework.telemetry.records import Record
from framework.telemetry.ring import PAGE, Corrupt, RingReader, encoded

Attributes = tuple[tuple[str, str | bool], ...]
Series = tuple[str, Attributes]

# More series than this of one instrument in one slot, or more than a page can hold, are names that somebody makes up:
# they share one, which the convention's attribute marks.
MOST_SERIES: Final = 200
_ROOM: Final = PAGE - (32 << 10)  # bytes; the rest is for what is shared, and for the counts beside the series
_NUMBER: Final = 20  # bytes that a count may grow to
_OTHER: Final = "_OTHER"
_BOUNDS: Final = {
    names.PROCESS_DURATION: names.LONG_BUCKETS,
    names.QUEUE_WAIT_DURATION: names.LONG_BUCKETS,
    names.OPERATION_DURATION: names.SHORT_BUCKETS,
}


T = TypeVar("T", bound="Counter | Histogram")


class Counter:
    """A sum that only grows."""

    __slots__ = ("value",)

    def __init__(self, value: int = 0) -> None:
        self.value = value


class Histogram:
    """Counts per bucket; the upper bound belongs to a bucket. Exemplars, one a bucket, since the last look.

    They are not kept in the ring: a killed exporter loses them, and no count.
    """

    __slots__ = ("bounds", "counts", "exemplars", "maximum", "minimum", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.minimum = float("inf")
        self.maximum = float("-inf")
        self.exemplars: dict[int, tuple[float, int, bytes, bytes]] = {}

    def add(self, value: float, record: Record) -> None:
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.total += value
        if value < self.minimum:
            self.minimum = value
        if value > self.maximum:
            self.maximum = value
        if record.flags & records.SAMPLED:
            self.exemplars[bucket] = (value, record.when, record.trace_id, record.span_id)


class Cells:
    """Everything that is counted of one slot.

    Args:
        ring: where the records are, and the state of an earlier reader.
        system: messaging.system.
    """

    def __init__(self, ring: RingReader, system: str) -> None:
        self._ring = ring
        self._system = system
        self.counters: dict[Series, Counter] = {}
        self.histograms: dict[Series, Histogram] = {}
        self.folded = ring.folded
        self._lost = (0, 0)
        self.dropped = {"traces": 0, "metrics": 0}
        self._plans: dict[bytes, tuple[list[Counter], list[Histogram]]] = {}
        self._dirty = False
        self._room = _ROOM
        self._series_of: dict[str, int] = {}
        state = ring.load()
        try:
            if state is not None:
                self._restore(state)
        except (KeyError, TypeError, ValueError):  # of another version: counts begin anew, and spans go on
            self.counters, self.histograms, self._series_of, self._room = {}, {}, {}, _ROOM

    def _restore(self, state: dict[str, Any]) -> None:
        for name, attributes, value in state["counters"]:
            self._add((name, _frozen(attributes)), Counter(value))
        for name, attributes, counts, total, minimum, maximum in state["histograms"]:
            histogram = Histogram(_BOUNDS[name])
            self._add((name, _frozen(attributes)), histogram)
            histogram.counts, histogram.total = counts, total
            histogram.minimum, histogram.maximum = minimum, maximum
        self.folded = state["folded"]
        self._lost = tuple(state["lost"])
        self.dropped = state["dropped"]
        self._ring.set_sent(state["floor"])

    def fold(self) -> int:
        """Takes in what is new and commits it with the tail; records that were taken in."""
        head, lost = self._ring.head, self._ring.lost
        count = 0
        if lost != self._lost:
            self.dropped["metrics"] += lost[0] - self._lost[0]
            self.dropped["traces"] += lost[1] - self._lost[1]
            self._lost, self._dirty = lost, True
        try:
            while self.folded < head:
                before = self.folded
                for record in self._ring.records(before, head):
                    try:
                        self._take(record)
                    except (ValueError, OverflowError):  # a number or a key that is none: its span is sent all the same
                        self.dropped["metrics"] += 1
                    self.folded += record.size
                    count += 1
                if self.folded == before:
                    raise Corrupt(f"{self._ring.path}: no whole record at {before}")
        except Corrupt:
            self.folded = head
            self.dropped["metrics"] += 1
            self._dirty = True
        if count or self._dirty:
            self.commit()
        return count

    def commit(self, *, floor: int = 0) -> None:
        """Args: floor: up to here spans were given up, and counted in `dropped`, whatever the ring's own tail says."""
        self._dirty = False
        state = {
            "folded": self.folded,
            "floor": floor,
            "lost": self._lost,
            "dropped": self.dropped,
            "counters": [(name, key, counter.value) for (name, key), counter in self.counters.items()],
            "histograms": [
                (name, key, found.counts, found.total, found.minimum, found.maximum)
                for (name, key), found in self.histograms.items()
            ],
        }
        self._ring.commit(state)
        if floor:
            self._ring.set_sent(floor)

    def _take(self, record: Record) -> None:
        plan = self._plans.get(record.key)
        if plan is None:
            plan = self._plan(record)
            if len(self._plans) < 4 * MOST_SERIES:
                self._plans[record.key] = plan
        counters, histograms = plan
        if record.kind == records.ATTEMPT:
            if record.flags & records.DROPPED:
                self.dropped["traces"] += 1
            for counter in counters:
                counter.value += 1
            histograms[0].add(record.first, record)
            histograms[1].add(record.second, record)
        else:
            for counter in counters:
                counter.value += int(record.second)
            for histogram in histograms:
                histogram.add(record.first, record)

    def _plan(self, record: Record) -> tuple[list[Counter], list[Histogram]]:
        """What a record of this key is counted in."""
        texts = records.split(record.key)
        where = {names.DESTINATION: texts[0], names.SYSTEM: self._system}
        if record.kind == records.EXPIRED:
            why = {names.DEAD_LETTER_REASON: "expired", names.ERROR_TYPE: "expired"}
            return [self._counter(names.DEAD_LETTERS, where | why)], []
        if record.kind == records.OPERATION:
            _, operation, kind = texts
            counters = []
            if kind == "receive":
                counters.append(self._counter(names.CONSUMED_MESSAGES, where | {names.OPERATION: operation}))
            at = where | {names.OPERATION: operation, names.OPERATION_TYPE: kind}
            return counters, [self._histogram(names.OPERATION_DURATION, at)]
        _, outcome, then, failed, reason = texts
        counters = [self._counter(names.ATTEMPTS, where | {names.OUTCOME: outcome})]
        if then == "retried":
            counters.append(self._counter(names.RETRIES, where | {names.ERROR_TYPE: failed}))
        elif then == "dead_lettered":
            why = {names.DEAD_LETTER_REASON: reason or "error", names.ERROR_TYPE: failed}
            counters.append(self._counter(names.DEAD_LETTERS, where | why))
        at = where | {names.OPERATION: "process"} | ({names.ERROR_TYPE: failed} if failed else {})
        return counters, [
            self._histogram(names.PROCESS_DURATION, at),
            self._histogram(names.QUEUE_WAIT_DURATION, where),
        ]

    def _counter(self, name: str, attributes: dict[str, str]) -> Counter:
        key = self._series(name, attributes)
        return self.counters.get(key) or self._add(key, Counter())

    def _histogram(self, name: str, attributes: dict[str, str]) -> Histogram:
        key = self._series(name, attributes)
        return self.histograms.get(key) or self._add(key, Histogram(_BOUNDS[name]))

    def _add(self, key: Series, made: T) -> T:
        self._room -= _size_of(key)
        self._series_of[key[0]] = self._series_of.get(key[0], 0) + 1
        if isinstance(made, Counter):
            self.counters[key] = made
        elif isinstance(made, Histogram):
            self.histograms[key] = made
        return made

    def _series(self, name: str, attributes: dict[str, str]) -> Series:
        """The series itself; else one of its queue for all that are too many; else one for everything."""
        key = (name, _frozen(attributes))
        other = {names.ERROR_TYPE: _OTHER} if names.ERROR_TYPE in attributes else {}
        shared = (name, _frozen(attributes | other | {names.OVERFLOW: True}))
        for most, room, found in ((MOST_SERIES, _ROOM // 2, key), (2 * MOST_SERIES, 0, shared)):
            known = found in self.counters or found in self.histograms
            if known or (self._series_of.get(name, 0) < most and self._room - _size_of(found) > room):
                return found
        return name, ((names.OVERFLOW, True),)


def _size_of(key: Series) -> int:
    """Bytes that a series takes in a page, however much it counts."""
    numbers = len(_BOUNDS[key[0]]) + 8 if key[0] in _BOUNDS else 1
    return len(encoded(key)) + _NUMBER * numbers


def _frozen(attributes: Any) -> Attributes:
    pairs = attributes.items() if isinstance(attributes, dict) else attributes
    return tuple((key, value) for key, value in pairs)
