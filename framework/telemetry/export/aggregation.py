"""Counts, histograms and exemplars of one slot, aggregated from the records of its ring and stored in the ring."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import suppress
from typing import Any, Final, TypeVar

from framework.telemetry import instruments, names
from framework.telemetry.instruments import TABLE
from framework.telemetry.ring import records, tallies
from framework.telemetry.ring.records import Record
from framework.telemetry.ring.ring import PAGE, Corrupt, RingReader, encoded, parsed
from framework.telemetry.ring.tallies import Tally
from framework.telemetry.sdk.resource import INSTANCE, attributes_of

Attributes = tuple[tuple[str, str | bool | int], ...]
Series = tuple[str, Attributes]
NONE: Final[Series] = ("", ())
Exemplar = tuple[int, bytes, bytes]  # when (ns), trace id, span id

# More series than this for one instrument in one slot, or more than a page can hold, come from invented names. They
# share one series, which the convention's attribute marks.
MOST_SERIES: Final = 200
_ROOM: Final = PAGE - (32 << 10)  # bytes; the rest is for the shared series and for the counts beside the series
_NUMBER: Final = 20  # bytes that a number may take
_OTHER: Final = "_OTHER"
# The first attribute of series that belong to another slot, whose instance id it has; it is never sent.
SLOT: Final = ""
# The kind of record that a tally counts as.
_KIND_OF: Final = {
    tallies.SETTLEMENT: records.OPERATION,
    tallies.DURATION: records.FACTS,
    tallies.WAIT: records.FACTS,
}


AllSeries = tuple[dict[Series, float], dict[Series, "Histogram"]]
T = TypeVar("T", bound="Counter | Histogram")


class Counter:
    """A sum that only grows."""

    __slots__ = ("key", "value")

    def __init__(self, value: float = 0) -> None:
        self.value = value
        self.key: Series = NONE


class Histogram:
    """Counts per bucket; an upper bound belongs to its bucket. Each bucket keeps its last exemplar since a collection.

    Exemplars are not stored in the ring: a killed exporter loses them, but no count.
    """

    __slots__ = ("bounds", "counts", "exemplars", "key", "maximum", "minimum", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.key: Series = NONE
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.minimum = float("inf")
        self.maximum = float("-inf")
        self.exemplars: dict[int, tuple[float, Exemplar]] = {}

    def add(self, value: float, exemplar: Exemplar | None) -> None:
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.total += value
        if value < self.minimum:
            self.minimum = value
        if value > self.maximum:
            self.maximum = value
        if exemplar is not None:
            self.exemplars[bucket] = value, exemplar

    def with_tally(self, tally: Tally) -> Histogram:
        """Return a new histogram that contains both."""
        other = Histogram(self.bounds)
        other.counts, other.total, other.minimum, other.maximum = tally.counts, tally.total, tally.least, tally.most
        return self.with_other(other)

    def with_other(self, other: Histogram) -> Histogram:
        """Return a new histogram that contains both."""
        both = Histogram(self.bounds)
        both.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        both.total = self.total + other.total
        both.minimum, both.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        both.exemplars = {**self.exemplars, **other.exemplars}
        return both


class Cells:
    """All counts of one slot.

    Args:
        ring: contains the records, and the state of an earlier reader.
        system: messaging.system.name.
    """

    def __init__(self, ring: RingReader, system: str) -> None:
        self._ring = ring
        self._system = system
        self.counters: dict[Series, Counter] = {}
        self.histograms: dict[Series, Histogram] = {}
        self.counted = ring.counted
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
        except (KeyError, TypeError, ValueError):  # another version's state: counts start again, spans go on
            self.counters, self.histograms, self._series_of, self._room = {}, {}, {}, _ROOM

    def _restore(self, state: dict[str, Any]) -> None:
        for name, attributes, value in state["counters"]:
            self._add((name, _frozen(attributes)), Counter(value))
        for name, attributes, counts, total, minimum, maximum in state["histograms"]:
            histogram = Histogram(TABLE[name].bounds)
            self._add((name, _frozen(attributes)), histogram)
            histogram.counts, histogram.total = counts, total
            histogram.minimum, histogram.maximum = minimum, maximum
        self.counted = state["folded"]
        self._lost = tuple(state["lost"])
        self.dropped = state["dropped"]
        self._ring.set_sent(state["floor"])

    def aggregate(self) -> int:
        """Aggregate the new records, commit the counts with `counted`, and return how many records there were."""
        head, lost = self._ring.head, self._ring.lost
        count = 0
        if lost != self._lost:
            self.dropped["metrics"] += lost[0] - self._lost[0]
            self.dropped["traces"] += lost[1] - self._lost[1]
            self._lost, self._dirty = lost, True
        try:
            while self.counted < head:
                before = self.counted
                for data, at, size in self._ring.walk(before, head):
                    try:
                        if data[at + records.KIND_AT] == records.FACTS:
                            self._take_facts(data, at)
                        else:
                            self._take(parsed(data, at))
                    except (ValueError, OverflowError):  # an invalid number or key: its span is sent all the same
                        self.dropped["metrics"] += 1
                    self.counted += size
                    count += 1
                if self.counted == before:
                    raise Corrupt(f"{self._ring.path}: no whole record at {before}")
        except Corrupt:
            self.counted = head
            self.dropped["metrics"] += 1
            self._dirty = True
        if count or self._dirty:
            self.commit()
        return count

    def commit(self, *, floor: int = 0) -> None:
        """Commit the counts. `floor`: spans up to here were given up and counted in `dropped`, whatever `sent` says."""
        self._dirty = False
        state = {
            "folded": self.counted,
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

    def _take_facts(self, data: bytes, at: int) -> None:
        """Count an attempt that succeeded."""
        _, _, flags, size, _, _, duration, wait, ended, trace_id, span_id = records.unpack_head(data, at)
        queue = data[at + records.FACTS_SIZE : at + records.FACTS_SIZE + size]
        counters, histograms = self._plans.get(queue) or self._plan(records.FACTS, queue)
        exemplar = (ended, trace_id, span_id) if flags & records.SAMPLED else None
        if flags & records.DROPPED:
            self.dropped["traces"] += 1
        counters[0].value += 1
        histograms[0].add(duration, exemplar)
        histograms[1].add(wait, exemplar)

    def _take(self, record: Record) -> None:
        slot = ""
        if record.kind == records.RESCUED:
            slot = attributes_of(records.about_of(record.span)[0]).get(INSTANCE, "")
        counters, histograms = self._plan(record.kind, record.key, slot)
        if record.kind in (records.ATTEMPT, records.RESCUED):
            if record.flags & records.DROPPED:
                self.dropped["traces"] += 1
            for counter in counters:
                counter.value += 1
            sampled = record.flags & records.HAS_SPAN
            exemplar = (record.when, record.trace_id, record.span_id) if sampled else None
            histograms[0].add(record.first, exemplar)
            histograms[1].add(record.second, exemplar)
        elif record.kind == records.COST:
            counters[0].value += record.first
            counters[1].value += int(record.second)
        else:
            for counter in counters:
                counter.value += int(record.second)
            for histogram in histograms:
                histogram.add(record.first, None)

    def forget_exemplars(self) -> None:
        """Forget the exemplars, which were sent."""
        for histogram in self.histograms.values():
            histogram.exemplars = {}

    def series(self) -> AllSeries:
        """Return all counters and histograms: the aggregated records plus what the writer has counted in place.

        The writer's tallies are only added here, not taken over: they stay in the ring as long as it exists.
        """
        found = []
        for tally in self._ring.tallies():
            with suppress(ValueError):  # an invalid key
                found.append((tally, self._plan(_KIND_OF[tally.kind], tally.key)))
        counts = {key: counter.value for key, counter in self.counters.items()}
        all_histograms = dict(self.histograms)
        for tally, (counters, histograms) in found:
            key = histograms[tally.kind == tallies.WAIT].key
            all_histograms[key] = all_histograms[key].with_tally(tally)
            if tally.kind == tallies.DURATION:
                counts[counters[0].key] += sum(tally.counts)
        return counts, all_histograms

    def _plan(self, kind: int, key: bytes, slot: str = "") -> tuple[list[Counter], list[Histogram]]:
        """Return where a record with this key is counted. For facts and tallies of attempts, the key is the queue.

        Args:
            slot: `service.instance.id` of the dead process whose attempt it was; empty: the ring's own.
        """
        known = key + b"\0\0" + slot.encode() if slot else key
        plan = self._plans.get(known)
        if plan is None:
            plan = self._planned(kind, key, {SLOT: slot} if slot else {})
            if len(self._plans) < 4 * MOST_SERIES:
                self._plans[known] = plan
        return plan

    def _planned(self, kind: int, key: bytes, slot: dict[str, str]) -> tuple[list[Counter], list[Histogram]]:
        queue, *texts = records.split(key)
        if kind == records.FACTS:
            texts += ["succeeded", "succeeded", "", ""]
        if kind == records.EXPIRED:
            grown = instruments.of_expired(self._system, queue)
        elif kind == records.COST:
            grown = instruments.of_cost(self._system, queue, *texts[:2])
        elif kind == records.OPERATION:
            operation, verb = texts
            grown = instruments.of_operation(self._system, queue, operation, verb)
        else:
            outcome, then, failed, reason = texts
            grown = instruments.of_attempt(self._system, queue, outcome, then, failed, reason)
        return (
            [self._counter(name, slot | attributes) for name, attributes in grown.counters],
            [self._histogram(name, slot | attributes) for name, attributes in grown.histograms],
        )

    def _counter(self, name: str, attributes: dict[str, str]) -> Counter:
        key = self._series(name, attributes)
        return self.counters.get(key) or self._add(key, Counter())

    def _histogram(self, name: str, attributes: dict[str, str]) -> Histogram:
        key = self._series(name, attributes)
        return self.histograms.get(key) or self._add(key, Histogram(TABLE[name].bounds))

    def _add(self, key: Series, made: T) -> T:
        self._room -= _size_of(key)
        self._series_of[key[0]] = self._series_of.get(key[0], 0) + 1
        made.key = key
        if isinstance(made, Counter):
            self.counters[key] = made
        elif isinstance(made, Histogram):
            self.histograms[key] = made
        return made

    def _series(self, name: str, attributes: dict[str, str]) -> Series:
        """Return the series itself; above the limits one series for its queue; above twice the limit one for all."""
        key = (name, _frozen(attributes))
        other = {names.ERROR_TYPE: _OTHER} if names.ERROR_TYPE in attributes else {}
        shared = (name, _frozen(attributes | other | {names.OVERFLOW: True}))
        for most, room, found in ((MOST_SERIES, _ROOM // 2, key), (2 * MOST_SERIES, 0, shared)):
            known = found in self.counters or found in self.histograms
            if known or (self._series_of.get(name, 0) < most and self._room - _size_of(found) > room):
                return found
        return name, ((names.OVERFLOW, True),)


def _size_of(key: Series) -> int:
    """Return the bytes that a series takes in a page, however large its numbers grow."""
    bounds = TABLE[key[0]].bounds
    numbers = len(bounds) + 8 if bounds else 1
    return len(encoded(key)) + _NUMBER * numbers


def _frozen(attributes: Any) -> Attributes:
    pairs = attributes.items() if isinstance(attributes, dict) else attributes
    return tuple((key, value) for key, value in pairs)
