"""Counts, histograms and exemplars of one slot, folded from the records of its ring and kept in it."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

from framework.telemetry import names, records
from framework.telemetry.records import Record
from framework.telemetry.ring import Corrupt, RingReader

Attributes = tuple[tuple[str, str], ...]
Series = tuple[str, Attributes]

# More series than this in one slot are error types that somebody makes up: they share one.
MOST_SERIES: Final = 400
_OTHER: Final = "_OTHER"
_BOUNDS: Final = {
    names.PROCESS_DURATION: names.LONG_BUCKETS,
    names.QUEUE_WAIT_DURATION: names.LONG_BUCKETS,
    names.OPERATION_DURATION: names.SHORT_BUCKETS,
}


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
        state = ring.load()
        if state is not None:
            self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        for name, attributes, value in state["counters"]:
            self.counters[name, _frozen(attributes)] = Counter(value)
        for name, attributes, counts, total, minimum, maximum in state["histograms"]:
            histogram = self.histograms[name, _frozen(attributes)] = Histogram(_BOUNDS[name])
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
                    self._take(record)
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
        return self.counters.setdefault(self._series(name, attributes), Counter())

    def _histogram(self, name: str, attributes: dict[str, str]) -> Histogram:
        return self.histograms.setdefault(self._series(name, attributes), Histogram(_BOUNDS[name]))

    def _series(self, name: str, attributes: dict[str, str]) -> Series:
        key = (name, _frozen(attributes))
        known = key in self.counters or key in self.histograms
        if known or len(self.counters) + len(self.histograms) < MOST_SERIES or names.ERROR_TYPE not in attributes:
            return key
        return name, _frozen(attributes | {names.ERROR_TYPE: _OTHER})


def _frozen(attributes: Any) -> Attributes:
    pairs = attributes.items() if isinstance(attributes, dict) else attributes
    return tuple((key, value) for key, value in pairs)
